//! One training step: forward, backward and the update of all weights in one compiled graph.

use std::collections::BTreeMap;
use std::iter;
use std::path::Path;
use std::rc::Rc;

use graft_kernels::AdamStep;
use mlx_graft::transforms::{self, Compiled};
use mlx_graft::{Array, ops, random};

use super::flat::{Layout, NamedParam};
use super::loss::next_token_loss;
use super::optimizer::{self, Moments};
use crate::args::OptimizerOptions;
use crate::models::{FLOATING, Model, wrong_dtype, wrong_shape};
use crate::nn::{Context, Module, Param, Source, constant};
use crate::{Error, Result};

/// The compiled step of a model, with the state that it carries on.
pub struct Step {
    model: Rc<Model>,
    options: OptimizerOptions,
    every: u64,
    layout: Layout,
    moments: Vec<Moments>,
    update: Compiled,
    accumulate: Compiled,
    /// Frozen weights as they were compiled in.
    frozen: Vec<(Param, Array)>,
    /// Trained weights as they were given to the model.
    views: Rc<dyn Source>,
    /// Summed gradients of the batches since the last update.
    pending: Option<Vec<Array>>,
    /// The number of these batches.
    accumulated: u64,
    /// Whether the last batch gave an update.
    updated: bool,
    updates: u64,
    key: Array,
}

/// What a step gives back, not evaluated yet.
pub struct StepOutput {
    /// The mean loss per token before the update; NaN if there was none, as the loss or a gradient
    /// is no number.
    pub loss: Array,
    /// The number of tokens the loss was taken over.
    pub tokens: Array,
}

/// The inputs of the compiled functions, in this order.
struct Inputs<'a> {
    values: &'a [Array],
    m: &'a [Array],
    v: &'a [Array],
    pending: &'a [Array],
    rate: &'a Array,
    step: &'a Array,
    key: &'a Array,
    tokens: &'a Array,
    lengths: &'a Array,
}

impl<'a> Inputs<'a> {
    fn read(inputs: &'a [Array], groups: usize) -> Self {
        let pending = inputs.len() - 3 * groups - 5;
        let (values, rest) = inputs.split_at(groups);
        let (m, rest) = rest.split_at(groups);
        let (v, rest) = rest.split_at(groups);
        let (pending, rest) = rest.split_at(pending);
        let [rate, step, key, tokens, lengths] = rest else {
            unreachable!("the caller passes five arrays behind the buffers")
        };
        Self { values, m, v, pending, rate, step, key, tokens, lengths }
    }

    /// The loss, the number of tokens, and the gradients summed with those that are pending. The
    /// loss is NaN if any of them is no number.
    fn gradients(&self, model: &Rc<Model>, layout: &Layout) -> Result<(Array, Array, Vec<Array>)> {
        // With respect to the weights rather than the buffers: the gradient of a view is as large
        // as its buffer, zero elsewhere.
        let mut inputs = layout.views(self.values)?;
        let views = inputs.len();
        let argnums: Vec<i32> = (0..views as i32).collect();
        inputs.extend([self.key.clone(), self.tokens.clone(), self.lengths.clone()]);
        let (model, weights) = (Rc::clone(model), layout.clone());
        let loss = move |inputs: &[Array]| {
            let _swapped = weights.swap(&inputs[..views]);
            let ctx = Context::train(inputs[views].clone());
            let (tokens, lengths) = (&inputs[views + 1], &inputs[views + 2]);
            let (loss, count) = next_token_loss(&model.decoder, tokens, lengths, &ctx)?;
            Ok(vec![loss, count])
        };
        let (mut values, grads) = transforms::value_and_grad(loss, &argnums, &inputs)?;
        let mut grads = layout.join(&grads)?;
        for (grad, pending) in grads.iter_mut().zip(self.pending) {
            *grad = ops::add(grad, pending)?;
        }
        let count = values.remove(1);
        let loss = values.remove(0);
        let mut sound = ops::isfinite(&loss)?;
        for grad in &grads {
            sound = ops::logical_and(&sound, &ops::all(&ops::isfinite(grad)?, false)?)?;
        }
        let loss = ops::where_(&sound, &loss, &constant(f32::NAN, loss.dtype())?)?;
        Ok((loss, count, grads))
    }
}

/// Compiles the two forms of a step: with the update of the weights, and without.
fn compile(
    model: &Rc<Model>,
    layout: &Layout,
    options: OptimizerOptions,
    every: u64,
) -> Result<(Compiled, Compiled)> {
    let (m, l) = (Rc::clone(model), layout.clone());
    let update = move |inputs: &[Array]| -> Result<Vec<Array>> {
        let inputs = Inputs::read(inputs, l.len());
        let (loss, count, grads) = inputs.gradients(&m, &l)?;
        let mut out = vec![loss.clone(), count];
        // Neither a loss nor a gradient that is no number must reach the weights.
        let sound = &ops::isfinite(&loss)?;
        let (rate, step) = (inputs.rate, inputs.step);
        for (i, grad) in grads.iter().enumerate() {
            let grad = average(grad, every)?;
            let at = Moments {
                values: inputs.values[i].clone(),
                m: inputs.m[i].clone(),
                v: inputs.v[i].clone(),
            };
            let step = AdamStep { rate, step, sound };
            let next = optimizer::update(&options, &at, &grad, step)?;
            out.extend([next.values, next.m, next.v]);
        }
        Ok(out)
    };
    let (m, l) = (Rc::clone(model), layout.clone());
    let accumulate = move |inputs: &[Array]| -> Result<Vec<Array>> {
        let (loss, count, grads) = Inputs::read(inputs, l.len()).gradients(&m, &l)?;
        Ok([vec![loss, count], grads].concat())
    };
    Ok((
        transforms::compile(move |inputs| Ok(update(inputs)?), false)?,
        transforms::compile(move |inputs| Ok(accumulate(inputs)?), false)?,
    ))
}

impl Step {
    /// Prepares the trainable weights of `model` for training.
    ///
    /// `every` is the number of batches whose gradients are averaged for one update, `seed` starts
    /// the randomness of dropout.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model has no trainable weights.
    pub fn new(
        model: &Rc<Model>,
        options: OptimizerOptions,
        every: u64,
        seed: u64,
    ) -> Result<Self> {
        let (frozen, trained) = partition(model);
        if trained.is_empty() {
            return Err(Error::Usage(
                "the model has no trainable weights; add adapters with `apply_lora`, or call \
                 `unfreeze` for full fine-tuning"
                    .into(),
            ));
        }
        let layout = Layout::new(&trained);
        let moments: Vec<Moments> =
            layout.gather()?.into_iter().map(Moments::new).collect::<Result<_>>()?;
        let views = publish(&layout, &moments);
        let (update, accumulate) = compile(model, &layout, options, every)?;
        let step = Self {
            model: Rc::clone(model),
            options,
            every,
            layout,
            moments,
            update,
            accumulate,
            frozen,
            views,
            pending: None,
            accumulated: 0,
            updated: false,
            updates: 0,
            key: random::key(seed)?,
        };
        transforms::eval(&step.state())?;
        Ok(step)
    }

    /// Takes over weights that were replaced in the model since the last step.
    ///
    /// Frozen weights are constants of the compiled graph, so new ones need a new graph.
    fn refresh(&mut self) -> Result<()> {
        if !self.layout.are_from(&self.views) {
            for (moments, values) in self.moments.iter_mut().zip(self.layout.gather()?) {
                moments.values = values;
            }
        }
        if self.frozen.iter().any(|(param, value)| !param.is(value)) {
            (self.update, self.accumulate) =
                compile(&self.model, &self.layout, self.options, self.every)?;
            self.frozen = partition(&self.model).0;
        }
        Ok(())
    }

    /// The number of updates made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The number of batches since the last update, whose gradients are kept.
    pub fn accumulated(&self) -> u64 {
        self.accumulated
    }

    /// Runs one batch, and updates the weights if there are enough of them since the last update.
    ///
    /// Nothing is evaluated: [`Step::state`] together with the output is what to evaluate, and then
    /// [`Step::settle`] what to call. `tokens` is int32 `(B, T)`, `lengths` int32 `(B, 2)`.
    ///
    /// # Errors
    /// What tracing reports; the state is then as before.
    pub fn run(&mut self, tokens: &Array, lengths: &Array, rate: f32) -> Result<StepOutput> {
        self.refresh()?;
        let (next, key) = random::split(&self.key)?;
        let mut inputs: Vec<Array> = self.moments.iter().map(|m| m.values.clone()).collect();
        inputs.extend(self.moments.iter().map(|m| m.m.clone()));
        inputs.extend(self.moments.iter().map(|m| m.v.clone()));
        inputs.extend(self.pending.iter().flatten().cloned());
        inputs.push(Array::scalar(rate)?);
        inputs.push(Array::scalar((self.updates + 1) as f32)?);
        inputs.extend([key, tokens.clone(), lengths.clone()]);
        let updates = self.accumulated + 1 >= self.every;
        let compiled = if updates { &self.update } else { &self.accumulate };
        let mut out = compiled.call(&inputs)?;
        (self.key, self.updated, self.pending) = (next, updates, None);
        if !updates {
            self.pending = Some(out.split_off(2));
            let tokens = out.remove(1);
            return Ok(StepOutput { loss: out.remove(0), tokens });
        }
        let mut out = out.into_iter();
        let mut take = || out.next().ok_or_else(|| Error::Usage("the step lost an output".into()));
        let (loss, count) = (take()?, take()?);
        for moments in &mut self.moments {
            *moments = Moments { values: take()?, m: take()?, v: take()? };
        }
        // The last copies of the old views go with it, so that their buffers can be reused.
        self.views = publish(&self.layout, &self.moments);
        Ok(StepOutput { loss, tokens: count })
    }

    /// Takes note of the last batch, once it is evaluated. If its loss or a gradient `is_sound` not,
    /// it made no update, and the gradients since the last one are forgotten: the next update would
    /// carry them into the weights.
    pub fn settle(&mut self, is_sound: bool) {
        if !is_sound {
            self.pending = None;
        }
        self.accumulated = if self.updated || !is_sound { 0 } else { self.accumulated + 1 };
        self.updates += u64::from(self.updated && is_sound);
    }

    /// A checksum of the beginning of each frozen weight.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn frozen_checksum(&self) -> Result<u32> {
        const SAMPLE: i32 = 64;
        let sample = |(_, value): &(Param, Array)| {
            let flat = ops::flatten(value, 0, -1)?;
            ops::slice(&flat, &[0], &[SAMPLE.min(flat.dim(0)?)], &[1])
        };
        let samples = self.frozen.iter().map(sample).collect::<Result<Vec<_>, _>>()?;
        transforms::eval(&samples)?;
        let mut checksum = crc32fast::Hasher::new();
        for sample in &samples {
            checksum.update(&sample.to_bytes()?);
        }
        Ok(checksum.finalize())
    }

    /// Everything that the next step starts from.
    pub fn state(&self) -> Vec<Array> {
        state(&self.moments, self.pending.as_deref(), &self.key)
    }

    /// [`Step::state`] under the names of the weights, which `weights.`, `m.`, `v.` and, if there are
    /// gradients since the last update, `gradients.` precede; and `key`, of dropout.
    pub fn named_state(&self) -> Result<Vec<(String, Array)>> {
        let mut named = vec![("key".to_owned(), self.key.clone())];
        let mut add = |kind: &str, buffers: &[Array]| -> Result<()> {
            let views = self.layout.views(buffers)?;
            let names = self.layout.named().map(|(name, _)| format!("{kind}.{name}"));
            named.extend(names.zip(views));
            Ok(())
        };
        let of = |part: fn(&Moments) -> &Array| -> Vec<Array> {
            self.moments.iter().map(|moments| part(moments).clone()).collect()
        };
        add("weights", &of(|moments| &moments.values))?;
        add("m", &of(|moments| &moments.m))?;
        add("v", &of(|moments| &moments.v))?;
        if let Some(pending) = &self.pending {
            add("gradients", pending)?;
        }
        Ok(named)
    }

    /// Goes on from what [`Step::named_state`] gave after so many updates, and batches since the
    /// last one; `file` is where it was read. Nothing changes on an error. The weights take the
    /// dtypes that they had there: a training may have begun with a file of others than the model's.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming a tensor that is missing, has another shape or a dtype that cannot
    /// be, or is of no trainable weight.
    pub fn restore(
        &mut self,
        mut tensors: BTreeMap<String, Array>,
        (updates, accumulated): (u64, u64),
        file: &Path,
    ) -> Result<()> {
        let has_gradients = tensors.keys().any(|name| name.starts_with("gradients."));
        let named: Vec<NamedParam> =
            self.layout.named().map(|(name, param)| (name.to_owned(), param.clone())).collect();
        let saved = named.iter().map(|(name, param)| saved_weight(&tensors, name, param, file));
        let saved: Vec<Array> = saved.collect::<Result<_>>()?;
        let layout = Layout::of_values(&named, &saved);
        let names = named.iter().map(|(name, _)| name.as_str());
        let likes: BTreeMap<&str, &Array> = names.zip(&saved).collect();
        let mut take = |kind: &str| {
            let take = |(name, _): (&str, &Param)| {
                take_like(&mut tensors, &format!("{kind}.{name}"), likes[name], file)
            };
            layout.join(&layout.named().map(take).collect::<Result<Vec<_>>>()?)
        };
        let (values, m, v) = (take("weights")?, take("m")?, take("v")?);
        let pending = has_gradients.then(|| take("gradients")).transpose()?;
        let key = take_like(&mut tensors, "key", &self.key, file)?;
        if let Some((name, _)) = tensors.first_key_value() {
            let message = format!("tensor {name:?} is of no trainable weight of this model");
            return Err(Error::invalid(file, message));
        }
        let moments: Vec<Moments> = iter::zip(values, iter::zip(m, v))
            .map(|(values, (m, v))| Moments { values, m, v })
            .collect();
        transforms::eval(&state(&moments, pending.as_deref(), &key))?;
        (self.update, self.accumulate) = compile(&self.model, &layout, self.options, self.every)?;
        self.layout = layout;
        (self.moments, self.pending, self.key) = (moments, pending, key);
        (self.updates, self.accumulated) = (updates, accumulated);
        self.views = publish(&self.layout, &self.moments);
        Ok(())
    }
}

/// All that a step starts from.
fn state(moments: &[Moments], pending: Option<&[Array]>, key: &Array) -> Vec<Array> {
    let moments = moments.iter().flat_map(|m| [m.values.clone(), m.m.clone(), m.v.clone()]);
    moments.chain(pending.into_iter().flatten().cloned()).chain([key.clone()]).collect()
}

/// The value that the weight `name` has in a state of `file`.
fn saved_weight(
    tensors: &BTreeMap<String, Array>,
    name: &str,
    param: &Param,
    file: &Path,
) -> Result<Array> {
    let name = &format!("weights.{name}");
    let (tensor, like) = (tensors.get(name).ok_or_else(|| missing(file, name))?, param.get());
    if tensor.shape() != like.shape() {
        return Err(wrong_shape(file, name, tensor.shape(), like.shape()));
    }
    if !tensor.dtype().is_floating() {
        return Err(wrong_dtype(file, name, tensor.dtype(), FLOATING));
    }
    Ok(tensor.clone())
}

/// Takes the tensor `name`, which has the shape and the dtype of `like`, out of those of `file`.
fn take_like(
    tensors: &mut BTreeMap<String, Array>,
    name: &str,
    like: &Array,
    file: &Path,
) -> Result<Array> {
    let tensor = tensors.remove(name).ok_or_else(|| missing(file, name))?;
    if tensor.shape() != like.shape() {
        return Err(wrong_shape(file, name, tensor.shape(), like.shape()));
    }
    if tensor.dtype() != like.dtype() {
        return Err(wrong_dtype(file, name, tensor.dtype(), &like.dtype().to_string()));
    }
    Ok(tensor)
}

fn missing(file: &Path, name: &str) -> Error {
    let message = format!("no tensor {name:?}, which the model has; is it of another model?");
    Error::invalid(file, message)
}

/// Gives the model views of the current weights.
fn publish(layout: &Layout, moments: &[Moments]) -> Rc<dyn Source> {
    layout.scatter(moments.iter().map(|moments| moments.values.clone()).collect())
}

fn average(grad: &Array, every: u64) -> Result<Array> {
    if every == 1 {
        return Ok(grad.clone());
    }
    let count = ops::astype(&Array::scalar(every as f32)?, grad.dtype())?;
    Ok(ops::divide(grad, &count)?)
}

/// The weights with the values they have now, frozen ones apart from trainable ones.
fn partition(model: &Model) -> (Vec<(Param, Array)>, Vec<NamedParam>) {
    let (mut frozen, mut trained) = (Vec::new(), Vec::new());
    for (name, param) in model.decoder.params() {
        if param.is_trainable() {
            trained.push((name, param));
        } else {
            let value = param.get();
            frozen.push((param, value));
        }
    }
    (frozen, trained)
}
