//! Low-rank adapters (Hu et al., 2021), applied as mlx-lm's `linear_to_lora_layers` does.

use std::collections::BTreeMap;

use mlx_graft::random::UniformOptions;
use mlx_graft::{Array, Dtype, ops, random};

use crate::models::Decoder;
use crate::nn::{Embedding, Linear, Module, Visitor};
use crate::{Error, Result};

/// Keys drawn one after the other from a seed, in the order of `mx.random`.
#[derive(Debug, Clone)]
pub struct KeySequence {
    state: Array,
}

impl KeySequence {
    /// The sequence that `mx.random.seed(seed)` starts.
    pub fn new(seed: u64) -> Result<Self> {
        Ok(Self::from_state(random::key(seed)?))
    }

    /// The sequence that goes on from a state, as in `mx.random.state[0]`.
    pub fn from_state(state: Array) -> Self {
        Self { state }
    }

    /// The state that the next draw would start from.
    pub fn into_state(self) -> Array {
        self.state
    }

    /// The next key.
    pub fn next_key(&mut self) -> Result<Array> {
        let (state, key) = random::split(&self.state)?;
        self.state = state;
        Ok(key)
    }
}

/// What is adapted, and how: mlx-lm's `lora_parameters` and `num_layers`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOptions {
    /// The rank of the update.
    pub rank: i32,
    /// The factor of the update.
    pub scale: f32,
    /// The probability that an input of the update is zeroed in training.
    pub dropout: f32,
    /// Names of layers inside a block, such as `self_attn.q_proj`, or paths of single layers; all
    /// linear layers of a block if `None`.
    pub keys: Option<Vec<String>>,
    /// How many blocks, counted from the last; 0 and negative numbers mean all.
    pub num_layers: i64,
}

enum Leaf {
    Linear(Linear),
    Embedding(Embedding),
}

impl Leaf {
    /// The lengths of the vectors that an update takes and gives.
    fn dims(&self) -> Result<(i32, i32)> {
        match self {
            Self::Linear(linear) => linear.dims().map(|(outputs, inputs)| (inputs, outputs)),
            Self::Embedding(embedding) => embedding.dims(),
        }
    }

    /// Fails if an update of this rank would have more elements than MLX counts in a dimension.
    fn check_rank(&self, path: &str, rank: i32) -> Result<()> {
        let (inputs, outputs) = self.dims()?;
        let most = i32::MAX / inputs.max(outputs).max(1);
        if rank > most {
            return Err(Error::Usage(format!(
                "lora_parameters.rank: found {rank}, wanted at most {most} for {path}, which goes \
                 from {inputs} to {outputs} features; ranks of 4 to 64 are usual"
            )));
        }
        Ok(())
    }

    /// Adds an update that starts as zero. Draws from `keys` what mlx-lm's layers draw.
    fn adapt(&self, options: &LoraOptions, keys: &mut KeySequence) -> Result<()> {
        let (inputs, outputs) = self.dims()?;
        // mlx-lm makes a layer with random weights first, and replaces it: one key is unused.
        keys.next_key()?;
        let bound = 1.0 / (inputs as f32).sqrt();
        let (low, high) = (Array::scalar(-bound)?, Array::scalar(bound)?);
        let key = keys.next_key()?;
        let drawn = UniformOptions::default().low(&low).high(&high).key(&key);
        let lora_a = random::uniform(&[inputs, options.rank], &drawn)?;
        let lora_b = ops::zeros(&[options.rank, outputs], Dtype::Float32)?;
        match self {
            Self::Linear(linear) => linear.adapt(&lora_a, &lora_b, options.scale, options.dropout),
            Self::Embedding(e) => e.adapt(&lora_a, &lora_b, options.scale, options.dropout),
        }
        Ok(())
    }

    /// Whether there is an update already.
    fn is_adapted(&self) -> bool {
        match self {
            Self::Linear(linear) => linear.is_adapted(),
            Self::Embedding(embedding) => embedding.is_adapted(),
        }
    }
}

/// The replaceable layers below a module, in the order in which `mlx.nn` walks them: it pops the
/// children of a module from a stack, so that the last comes first.
fn leaves(module: &dyn Module) -> Vec<(String, Leaf)> {
    struct Collect(Vec<(String, Leaf)>);
    impl Visitor for Collect {
        fn linear(&mut self, path: &str, linear: &Linear) {
            self.0.push((path.to_string(), Leaf::Linear(linear.clone())));
        }
        fn embedding(&mut self, path: &str, embedding: &Embedding) {
            self.0.push((path.to_string(), Leaf::Embedding(embedding.clone())));
        }
    }
    let mut collect = Collect(Vec::new());
    module.visit(&mut String::new(), &mut collect);
    collect.0.reverse();
    collect.0
}

/// The shapes of the weights of the adapters that [`apply_lora`] would add to a model that has none.
///
/// # Errors
/// As [`apply_lora`].
pub(crate) fn lora_shapes(
    model: &Decoder,
    options: &LoraOptions,
) -> Result<BTreeMap<String, [i32; 2]>> {
    let mut shapes = BTreeMap::new();
    for (path, leaf) in places(model, options)? {
        let (inputs, outputs) = leaf.dims()?;
        shapes.insert(format!("{path}.lora_a"), [inputs, options.rank]);
        shapes.insert(format!("{path}.lora_b"), [options.rank, outputs]);
    }
    Ok(shapes)
}

/// Freezes a model and adds adapters to it, which are then its only trainable weights.
///
/// The same seed and options give the adapters of `mlx_lm.lora`.
///
/// # Errors
/// [`Error::Usage`] for more layers than there are, for a key that matches no layer, for a rank that
/// no array can have, and for a model that has adapters already.
pub fn apply_lora(model: &Decoder, options: &LoraOptions, keys: &mut KeySequence) -> Result<()> {
    let places = places(model, options)?;
    for (_, param) in model.params() {
        param.set_trainable(false);
    }
    for (_, leaf) in &places {
        leaf.adapt(options, keys)?;
    }
    Ok(())
}

/// The layers to adapt with their paths, in mlx-lm's order: those of the blocks by their names in the
/// block, then those named by their paths.
fn places(model: &Decoder, options: &LoraOptions) -> Result<Vec<(String, Leaf)>> {
    let all = leaves(model);
    if all.iter().any(|(_, leaf)| leaf.is_adapted()) {
        return Err(Error::Usage(
            "the model has adapters already; load it again to adapt it anew".into(),
        ));
    }
    let first = first_layer(model, options.num_layers)?;
    check_keys(options, &leaves(model.layer(0)), &all)?;
    let wanted =
        |path: &str| options.keys.as_ref().is_none_or(|keys| keys.iter().any(|k| k == path));
    let mut places = Vec::new();
    for index in first..model.num_layers() {
        for (path, leaf) in leaves(model.layer(index)).into_iter().filter(|(path, _)| wanted(path))
        {
            leaf.check_rank(&path, options.rank)?;
            places.push((format!("model.layers.{index}.{path}"), leaf));
        }
    }
    if options.keys.is_some() {
        for (path, leaf) in all.into_iter().filter(|(path, _)| wanted(path)) {
            // A layer that its name in the block has chosen may be named by its path too.
            if places.iter().all(|(chosen, _)| *chosen != path) {
                leaf.check_rank(&path, options.rank)?;
                places.push((path, leaf));
            }
        }
    }
    Ok(places)
}

/// Freezes a model but for the last `num_layers` blocks: mlx-lm's full fine-tuning.
///
/// # Errors
/// [`Error::Usage`] for more layers than there are.
pub fn unfreeze_layers(model: &Decoder, num_layers: i64) -> Result<()> {
    let first = first_layer(model, num_layers)?;
    for (_, param) in model.params() {
        param.set_trainable(false);
    }
    for i in first..model.num_layers() {
        for (_, param) in model.layer(i).params() {
            param.set_trainable(param.get().dtype().is_floating());
        }
    }
    Ok(())
}

fn first_layer(model: &Decoder, num_layers: i64) -> Result<usize> {
    let count = model.num_layers();
    match usize::try_from(num_layers) {
        Ok(n) if n > count => Err(Error::Usage(format!(
            "num_layers: requested to train {n} layers but the model only has {count} layers; \
             use -1 for all"
        ))),
        Ok(n) if n > 0 => Ok(count - n),
        _ => Ok(0),
    }
}

fn check_keys(
    options: &LoraOptions,
    block: &[(String, Leaf)],
    all: &[(String, Leaf)],
) -> Result<()> {
    let Some(keys) = &options.keys else { return Ok(()) };
    let known = || block.iter().rev().chain(all).map(|(path, _)| path.as_str());
    let Some(unknown) = keys.iter().find(|key| !known().any(|path| path == *key)) else {
        return Ok(());
    };
    let (inside, outside): (Vec<&str>, Vec<&str>) =
        all.iter().map(|(path, _)| path.as_str()).partition(|path| path.contains(".layers."));
    let names: Vec<&str> =
        block.iter().rev().map(|(path, _)| path.as_str()).chain(outside).collect();
    let example =
        inside.first().map_or(String::new(), |path| format!(", or a path such as {path}"));
    Err(Error::Usage(format!(
        "lora_parameters.keys: {unknown:?} matches no layer; known: {}{example}",
        names.join(", ")
    )))
}
