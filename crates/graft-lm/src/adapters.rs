//! Adapter files: mlx-lm's `adapters.safetensors` and `adapter_config.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mlx_graft::io::save_safetensors_to;
use mlx_graft::{Array, Dtype, transforms};

use crate::adapter_config::{ADAPTER_CONFIG, AdapterConfig};
use crate::args::{FineTuneType, LoraParameters};
use crate::fsutil::{sync, write_atomic, write_bytes_atomic};
use crate::lora::{KeySequence, LoraOptions, apply_lora, lora_shapes, unfreeze_layers};
use crate::models::{Decoder, FLOATING, INDEX, Model, read, wrong_dtype, wrong_shape};
use crate::nn::{Module, Param};
use crate::{Error, Result};

/// The name of the weights in an adapter folder.
pub const ADAPTER_FILE: &str = "adapters.safetensors";

/// The name of the weights in a model folder.
const MODEL_FILE: &str = "model.safetensors";

impl LoraOptions {
    /// The options of a configuration.
    pub fn new(parameters: &LoraParameters, num_layers: i64) -> Self {
        Self {
            // Larger ones are refused as the largest is, by whoever knows the layers.
            rank: i32::try_from(parameters.rank).unwrap_or(i32::MAX),
            scale: parameters.scale as f32,
            dropout: parameters.dropout as f32,
            keys: parameters.keys.clone(),
            num_layers,
        }
    }
}

/// Prepares a model for training as a configuration says, adapters or unfrozen layers, and notes it
/// in [`Model::adapters`].
pub fn prepare(
    model: &Model,
    fine_tune_type: FineTuneType,
    parameters: &LoraParameters,
    num_layers: i64,
    keys: &mut KeySequence,
) -> Result<()> {
    match fine_tune_type {
        FineTuneType::Lora => {
            apply_lora(&model.decoder, &LoraOptions::new(parameters, num_layers), keys)?;
        }
        FineTuneType::Full => unfreeze_layers(&model.decoder, num_layers)?,
    }
    let lora_parameters = parameters.clone();
    let other = serde_json::Map::new();
    let config = AdapterConfig { fine_tune_type, num_layers, lora_parameters, other };
    model.adapters.replace(Some(config));
    Ok(())
}

/// Adds the adapters of a folder to a model: mlx-lm's `load_adapters`. Adapters that were made with
/// the same options, in the same layers, take the values.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::Invalid`], naming the tensor with the shapes found and wanted, or
/// the one that an adapter is missing; [`Error::Usage`] for a model with other adapters. The model is
/// then as it was.
pub fn load_adapters(model: &Model, folder: &Path) -> Result<()> {
    let config = AdapterConfig::read(folder)?;
    let file = folder.join(ADAPTER_FILE);
    if !file.exists() {
        return Err(Error::not_found(
            file,
            "no such file; an adapter folder needs the weights beside adapter_config.json. If a \
             training was stopped while it saved, go on with it or take a copy, such as \
             0000100_adapters.safetensors",
        ));
    }
    let tensors = read(&file)?;
    let (kind, parameters) = (config.fine_tune_type, &config.lora_parameters);
    let of_another = |e: Error| match e {
        Error::Usage(message) => Error::invalid(
            folder.join(ADAPTER_CONFIG),
            format!("{message}. Is this an adapter of another model?"),
        ),
        other => other,
    };
    let adapted = adapted_layer(&model.decoder);
    let alike = model.adapters.borrow().as_ref().is_some_and(|made| made.places_alike(&config));
    let is_there = adapted.is_some() && alike;
    let (wanted, takes) = match (kind, adapted) {
        // Whole weights go wherever they came from, as in mlx-lm: of full fine-tuning through Python
        // that is the embedding too.
        (FineTuneType::Full, None) => (slots(&model.decoder, |_, _| true), Takes::Any),
        // What a file did not have of adapters would be random, or of the last ones.
        (FineTuneType::Lora, None) => {
            let options = LoraOptions::new(parameters, config.num_layers);
            let shapes = lora_shapes(&model.decoder, &options).map_err(of_another)?;
            let slot = |shape: [i32; 2]| Slot { shape: shape.to_vec(), dtype: Dtype::Float32 };
            let slots = shapes.into_iter().map(|(name, shape)| (name, slot(shape)));
            (slots.collect(), Takes::Whole)
        }
        (FineTuneType::Lora, Some(_)) if alike => {
            (slots(&model.decoder, |name, _| is_of_adapter(name)), Takes::Whole)
        }
        (kind, Some(layer)) => {
            let other = match kind {
                FineTuneType::Full => "and no whole weights, which",
                FineTuneType::Lora => "made with other lora_parameters or num_layers than",
            };
            return Err(Error::Usage(format!(
                "{layer} has an adapter already, {other} {} has; load the model again to give it these",
                folder.join(ADAPTER_CONFIG).display()
            )));
        }
    };
    check(&file, &tensors, &wanted, takes)?;
    transforms::eval(&tensors.values().collect::<Vec<_>>())?;
    // The tensors are read and right: only now does the model change.
    if !is_there {
        // The new adapters' values are replaced at once, so any seed does.
        let mut keys = KeySequence::new(0)?;
        prepare(model, kind, parameters, config.num_layers, &mut keys).map_err(of_another)?;
    }
    assign(&model.decoder, tensors);
    model.adapters.replace(Some(config));
    Ok(())
}

/// Puts the weights of a file into a model that has adapters already, as mlx-lm's
/// `--resume-adapter-file` does.
///
/// # Errors
/// [`Error::NotFound`] without the file; [`Error::Invalid`] for a folder, for a tensor that the
/// model does not train or that has another shape or dtype, and for a file without any. As in mlx-lm,
/// what is trained and not in the file begins anew.
pub fn resume(model: &Decoder, file: &Path) -> Result<()> {
    if !file.exists() {
        return Err(Error::not_found(
            file,
            "no such adapter file; --resume-adapter-file takes an adapters.safetensors",
        ));
    }
    if file.is_dir() {
        let inside = file.join(ADAPTER_FILE);
        return Err(Error::invalid(
            file,
            format!("a folder; --resume-adapter-file takes a file, such as {}", inside.display()),
        ));
    }
    let tensors = read(file)?;
    check(file, &tensors, &slots(model, |_, param| param.is_trainable()), Takes::Part)?;
    transforms::eval(&tensors.values().collect::<Vec<_>>())?;
    assign(model, tensors);
    Ok(())
}

/// Which weights of a model a file may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Some, frozen ones too.
    Any,
    /// Some of those that are trained.
    Part,
    /// All that are trained.
    Whole,
}

/// What a tensor must be like to be the value of a weight.
struct Slot {
    shape: Vec<i32>,
    /// Of floating-point dtypes any will do.
    dtype: Dtype,
}

/// The weights of a model that `are_meant`, by their names.
fn slots(model: &Decoder, are_meant: impl Fn(&str, &Param) -> bool) -> BTreeMap<String, Slot> {
    let params = model.params().into_iter().filter(|(name, param)| are_meant(name, param));
    let slot = |value: Array| Slot { shape: value.shape().to_vec(), dtype: value.dtype() };
    params.map(|(name, param)| (name, slot(param.get()))).collect()
}

/// Fails if the tensors of a file cannot be the values of weights of a model.
fn check(
    file: &Path,
    tensors: &BTreeMap<String, Array>,
    wanted: &BTreeMap<String, Slot>,
    takes: Takes,
) -> Result<()> {
    let any = takes == Takes::Any;
    for (name, tensor) in tensors {
        let Some(Slot { shape, dtype }) = wanted.get(name) else {
            return Err(Error::invalid(
                file,
                format!(
                    "tensor {name:?} of shape {:?} is no {}weight of this model. Is this an \
                     adapter of another model, or made with other lora_parameters?",
                    tensor.shape(),
                    if any { "" } else { "trainable " }
                ),
            ));
        };
        if tensor.shape() != shape {
            return Err(wrong_shape(file, name, tensor.shape(), shape));
        }
        let found = tensor.dtype();
        if found != *dtype && !(found.is_floating() && dtype.is_floating()) {
            let wanted = if dtype.is_floating() { FLOATING.to_owned() } else { dtype.to_string() };
            return Err(wrong_dtype(file, name, found, &wanted));
        }
    }
    let missing = wanted.iter().find(|(name, _)| !tensors.contains_key(*name));
    let matters = takes == Takes::Whole || tensors.is_empty();
    if let Some((name, slot)) = missing.filter(|_| matters) {
        return Err(Error::invalid(
            file,
            format!(
                "has no tensor {name:?}, wanted with shape {:?}. Is this file whole, and made with \
                 the same num_layers and lora_parameters?",
                slot.shape
            ),
        ));
    }
    Ok(())
}

/// Sets the weights that `tensors` name, all of which the model has. They keep the dtypes of the
/// file, as in mlx-lm.
fn assign(model: &Decoder, mut tensors: BTreeMap<String, Array>) {
    for (name, param) in model.params() {
        if let Some(tensor) = tensors.remove(&name) {
            // What was trained is trained on, and saved again.
            param.set_trainable(param.is_trainable() || tensor.dtype().is_floating());
            param.set(tensor);
        }
    }
}

/// Whether the weight of this name is one of an adapter.
fn is_of_adapter(name: &str) -> bool {
    name.ends_with(".lora_a") || name.ends_with(".lora_b")
}

/// The path of a layer that has an adapter, if there is one.
pub fn adapted_layer(model: &Decoder) -> Option<String> {
    let params = model.params().into_iter();
    params.map(|(name, _)| name).find_map(|name| name.strip_suffix(".lora_a").map(str::to_owned))
}

/// Writes the trainable weights of a model to `file`, atomically.
///
/// # Errors
/// [`Error::Io`] when the system refuses; an old file is then as it was.
pub fn save_trainable(model: &Decoder, file: &Path) -> Result<()> {
    save(trained(model), &[], file)
}

/// The trainable weights of a model with their names.
fn trained(model: &Decoder) -> impl Iterator<Item = (String, Array)> {
    let params = model.params().into_iter().filter(|(_, param)| param.is_trainable());
    params.map(|(name, param)| (name, param.get()))
}

/// Writes arrays and metadata to a safetensors file, atomically.
///
/// # Errors
/// [`Error::Io`] when the system refuses; an old file is then as it was. [`Error::Mlx`] for a dtype
/// that MLX does not write, and what the evaluation of an array reports.
pub fn save(
    arrays: impl IntoIterator<Item = (String, Array)>,
    metadata: &[(&str, &str)],
    file: &Path,
) -> Result<()> {
    write_atomic(file, |temporary| write_tensors(arrays, metadata, temporary, file))
}

/// Writes the tensors of `file` to a temporary one.
fn write_tensors(
    arrays: impl IntoIterator<Item = (String, Array)>,
    metadata: &[(&str, &str)],
    temporary: &Path,
    file: &Path,
) -> Result<()> {
    let metadata = [&[("format", "mlx")], metadata].concat();
    let mut output = File::create(temporary).map_err(Error::io(file))?;
    // To a stream: writing to a path, MLX does not say why the system refused.
    save_safetensors_to(&mut output, arrays, metadata).map_err(|error| match error {
        mlx_graft::Error::File { message, .. } => Error::io(file)(io::Error::other(message)),
        other => other.into(),
    })
}

/// Writes an adapter folder: the trainable weights and `adapter_config.json`. Whenever the process
/// is killed, the weights in it, if there are any, are those of the configuration.
///
/// # Errors
/// [`Error::Io`] when the system refuses; old files are then as they were.
pub fn save_adapters(model: &Decoder, config: &AdapterConfig, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let file = folder.join(ADAPTER_FILE);
    write_atomic(&file, |temporary| {
        write_tensors(trained(model), &[], temporary, &file)?;
        sync(temporary).map_err(Error::io(&file))?;
        // Old weights do not stay beside another configuration, nor go before all is written. Where
        // the file is a link, the new ones take the place of what it leads to.
        let remove = || fs::remove_file(fs::canonicalize(&file)?);
        config.write(folder, || match remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(&file)(error)),
            _ => Ok(()),
        })
    })?;
    Ok(file)
}

/// Writes a model folder's `model.safetensors` and `config.json`. An index that is there is written
/// anew, as it would lead to the weights before.
///
/// # Errors
/// [`Error::Io`] when the system refuses; [`Error::Usage`] for a model with adapters, whose files
/// neither this crate nor mlx-lm would read.
pub fn save_model(model: &Model, folder: &Path) -> Result<()> {
    if let Some(layer) = adapted_layer(&model.decoder) {
        return Err(Error::Usage(format!(
            "{layer} has an adapter, and the folder of a model holds whole weights only. Save the \
             adapters with save_adapters; `mlx_lm.fuse` makes one model of both"
        )));
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let write = |name: &str, value: &serde_json::Value| {
        let path = folder.join(name);
        let text = serde_json::to_vec_pretty(value)
            .map_err(|error| Error::invalid(&path, error.to_string()))?;
        write_bytes_atomic(&path, &text)
    };
    let params = model.decoder.params();
    let values = params.iter().map(|(name, param)| (name.clone(), param.get()));
    save(values, &[], &folder.join(MODEL_FILE))?;
    if folder.join(INDEX).exists() {
        let shards = params.iter().map(|(name, _)| (name.clone(), MODEL_FILE));
        let shards: BTreeMap<String, &str> = shards.collect();
        let total: usize = params.iter().map(|(_, param)| param.get().nbytes()).sum();
        let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": shards});
        write(INDEX, &index)?;
    }
    write("config.json", &model.config)
}

#[cfg(test)]
mod tests {
    use mlx_graft::ops;
    use serde_json::json;

    use super::*;
    use crate::tiny;

    fn config(model: &Model) -> AdapterConfig {
        model.adapters.borrow().clone().unwrap()
    }

    /// A folder of adapters whose weights are all `value`.
    fn saved(value: f32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::adapted(0.0);
        for (_, param) in model.decoder.params().into_iter().filter(|(_, p)| p.is_trainable()) {
            let shape = param.get().shape().to_vec();
            let value = Array::scalar(value).unwrap();
            param.set(ops::broadcast_to(&value, &shape).unwrap());
        }
        save_adapters(&model.decoder, &config(&model), folder.path()).unwrap();
        folder
    }

    /// The weights, whether they are trained, and their shapes.
    fn state(model: &Model) -> Vec<(String, bool, Vec<i32>)> {
        let params = model.decoder.params().into_iter();
        params.map(|(n, p)| (n, p.is_trainable(), p.get().shape().to_vec())).collect()
    }

    fn refusal(model: &Model, folder: &Path) -> String {
        load_adapters(model, folder).unwrap_err().to_string()
    }

    #[test]
    fn what_does_not_fit_leaves_the_model_as_it_was() {
        let folder = saved(2.0);
        let file = folder.path().join(ADAPTER_FILE);
        let right = read(&file).unwrap();
        transforms::eval(&right.values().collect::<Vec<_>>()).unwrap();
        let name = "model.layers.1.mlp.up_proj.lora_b";
        let model = tiny::model_with(json!({}));
        let before = state(&model);
        let wrong = Array::from_slice(&[1.0_f32], &[1]).unwrap();
        for (tensor, says) in [(Some(wrong), "has shape [1], wanted [4, 48]"), (None, "no tensor")]
        {
            let mut tensors = right.clone();
            tensors.remove(name);
            tensors.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
            save(tensors, &[], &file).unwrap();
            let message = refusal(&model, folder.path());
            assert!(message.contains(says) && message.contains(name), "{message}");
            assert_eq!(state(&model), before);
            assert_eq!(*model.adapters.borrow(), None);
        }
        fs::remove_file(&file).unwrap();
        assert!(refusal(&model, folder.path()).contains("adapters.safetensors: no such file"));
        save(right, &[], &file).unwrap();
        load_adapters(&model, folder.path()).unwrap();
        let trained: Vec<String> =
            state(&model).into_iter().filter(|(_, on, _)| *on).map(|(name, ..)| name).collect();
        assert_eq!(trained.len(), 28);
        assert!(trained.iter().all(|name| is_of_adapter(name)));
    }

    #[test]
    fn adapters_made_alike_take_other_values() {
        let (first, second) = (saved(3.0), saved(2.0));
        let model = tiny::model_with(json!({}));
        let values = |wanted: f32| {
            for (name, param) in model.decoder.params() {
                let value: Vec<f32> = param.get().to_vec().unwrap();
                let all = value.iter().all(|value| value.to_bits() == wanted.to_bits());
                assert_eq!(all, is_of_adapter(&name), "{name}");
            }
        };
        load_adapters(&model, first.path()).unwrap();
        values(3.0);
        let before = state(&model);
        load_adapters(&model, second.path()).unwrap();
        values(2.0);
        assert_eq!(state(&model), before);
        let mut other = config(&model);
        other.lora_parameters.scale *= 2.0;
        other.write(first.path(), || Ok(())).unwrap();
        let message = refusal(&model, first.path());
        assert!(
            message.contains("has an adapter already, made with other lora_param"),
            "{message}"
        );
        assert!(message.contains("load the model again"), "{message}");
        assert!(!message.contains("another model"), "{message}");
        other.fine_tune_type = FineTuneType::Full;
        other.write(first.path(), || Ok(())).unwrap();
        let message = refusal(&model, first.path());
        assert!(message.contains("has an adapter already, and no whole weights"), "{message}");
        values(2.0);
    }

    #[test]
    fn old_weights_stay_until_all_that_is_new_is_written() {
        let folder = saved(1.0);
        let model = tiny::adapted(0.0);
        let file = folder.path().join(ADAPTER_FILE);
        let files = || {
            let names = [ADAPTER_FILE, ADAPTER_CONFIG];
            names.map(|name| fs::read(folder.path().join(name)).ok())
        };
        let before = files();
        let mut other = config(&model);
        other.other.insert("iters".into(), json!(7));
        let (_, param) =
            model.decoder.params().into_iter().find(|(_, p)| p.is_trainable()).unwrap();
        let good = param.get();
        // It fails when it is evaluated, in the middle of the file.
        let (far, none) = (Array::scalar(999_i32).unwrap(), Array::scalar(0_i32).unwrap());
        let row = ops::take_axis(&good, &ops::add(&far, &none).unwrap(), 0).unwrap();
        param.set(row);
        save_adapters(&model.decoder, &other, folder.path()).unwrap_err();
        assert_eq!(files(), before);
        param.set(good);
        save_adapters(&model.decoder, &other, folder.path()).unwrap();
        assert!(files().iter().zip(&before).all(|(new, old)| new.is_some() && new != old));
        // Where the configuration cannot be written, there are no weights without it.
        let written = fs::read(&file).unwrap();
        fs::remove_file(folder.path().join(ADAPTER_CONFIG)).unwrap();
        fs::create_dir(folder.path().join(ADAPTER_CONFIG)).unwrap();
        save_adapters(&model.decoder, &other, folder.path()).unwrap_err();
        assert_eq!(fs::read(&file).unwrap(), written);
    }

    #[test]
    fn an_index_leads_to_the_weights_that_were_saved_last() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        tiny::write_model(folder, json!({}));
        let shard = "model-00001-of-00001.safetensors";
        fs::rename(folder.join(MODEL_FILE), folder.join(shard)).unwrap();
        let index = json!({"weight_map": {"lm_head.weight": shard}});
        fs::write(folder.join(INDEX), index.to_string()).unwrap();
        let norm = |model: &Model| {
            let params = model.decoder.params();
            params.into_iter().find(|(name, _)| name == "model.norm.weight").unwrap().1
        };
        let model = Model::load(folder).unwrap();
        let param = norm(&model);
        param.set(ops::zeros_like(&param.get()).unwrap());
        save_model(&model, folder).unwrap();
        let value: Vec<f32> = norm(&Model::load(folder).unwrap()).get().to_vec().unwrap();
        assert!(value.iter().all(|value| *value == 0.0), "{value:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_one() {
        let (folder, elsewhere) = (saved(1.0), tempfile::tempdir().unwrap());
        let (file, target) = (folder.path().join(ADAPTER_FILE), elsewhere.path().join("weights"));
        fs::rename(&file, &target).unwrap();
        std::os::unix::fs::symlink(&target, &file).unwrap();
        let old = fs::read(&target).unwrap();
        let model = tiny::adapted(0.0);
        let mut other = config(&model);
        other.other.insert("iters".into(), json!(7));
        save_adapters(&model.decoder, &other, folder.path()).unwrap();
        assert!(fs::symlink_metadata(&file).unwrap().is_symlink());
        assert_ne!(fs::read(&target).unwrap(), old);
    }
}
