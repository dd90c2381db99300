//! Adapter files: mlx-lm's `adapters.safetensors` and `adapter_config.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mlx_graft::Array;
use mlx_graft::io::save_safetensors_to;

use crate::adapter_config::AdapterConfig;
use crate::args::{FineTuneType, LoraParameters};
use crate::fsutil::{write_atomic, write_bytes_atomic};
use crate::lora::{KeySequence, LoraOptions, apply_lora, unfreeze_layers};
use crate::models::{Decoder, Model, read, wrong_shape};
use crate::nn::{Module, Param};
use crate::{Error, Result};

/// The name of the weights in an adapter folder.
pub const ADAPTER_FILE: &str = "adapters.safetensors";

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

/// Adds the adapters of a folder to a model: mlx-lm's `load_adapters`.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::Invalid`], naming the tensor with the shapes found and wanted, or
/// the one that an adapter is missing.
pub fn load_adapters(model: &Model, folder: &Path) -> Result<()> {
    let config = AdapterConfig::read(folder)?;
    let file = folder.join(ADAPTER_FILE);
    if !file.exists() {
        return Err(Error::not_found(
            file,
            "an adapter folder needs the weights beside adapter_config.json",
        ));
    }
    // Read and check before the model is changed.
    let tensors = read(&file)?;
    let num_layers = config.num_layers;
    let of_another = |e: Error| match e {
        Error::Usage(message) => Error::invalid(
            folder.join(crate::adapter_config::ADAPTER_CONFIG),
            format!("{message}. Is this an adapter of another model?"),
        ),
        other => other,
    };
    // The new adapters' values are replaced at once, so any seed does.
    let mut keys = KeySequence::new(0)?;
    let (kind, parameters) = (config.fine_tune_type, &config.lora_parameters);
    prepare(model, kind, parameters, num_layers, &mut keys).map_err(of_another)?;
    // Whole weights go wherever they came from, as in mlx-lm: of full fine-tuning through Python that
    // is the embedding too. Adapters are new, and what a file does not have of them is random.
    let takes = if kind == FineTuneType::Full { Takes::Any } else { Takes::Whole };
    assign(&model.decoder, &file, tensors, takes)?;
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
    assign(model, file, read(file)?, Takes::Part)
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

/// Sets the weights that `tensors` name.
fn assign(
    model: &Decoder,
    file: &Path,
    tensors: BTreeMap<String, Array>,
    takes: Takes,
) -> Result<()> {
    let any = takes == Takes::Any;
    let params: BTreeMap<String, Param> =
        model.params().into_iter().filter(|(_, param)| any || param.is_trainable()).collect();
    for (name, tensor) in &tensors {
        let Some(param) = params.get(name) else {
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
        if tensor.shape() != param.get().shape() {
            return Err(wrong_shape(file, name, tensor.shape(), param.get().shape()));
        }
        let (found, wanted) = (tensor.dtype(), param.get().dtype());
        if found != wanted && !(found.is_floating() && wanted.is_floating()) {
            let wanted = if wanted.is_floating() {
                "a floating-point dtype, such as float32".to_owned()
            } else {
                wanted.to_string()
            };
            return Err(Error::invalid(
                file,
                format!("tensor {name:?} is of {found}, wanted {wanted}"),
            ));
        }
    }
    let missing = params.iter().find(|(name, _)| !tensors.contains_key(*name));
    let matters = takes == Takes::Whole || tensors.is_empty();
    if let Some((name, param)) = missing.filter(|_| matters) {
        return Err(Error::invalid(
            file,
            format!(
                "has no tensor {name:?}, wanted with shape {:?}. Is this file whole, and made with \
                 the same num_layers and lora_parameters?",
                param.get().shape()
            ),
        ));
    }
    let values: Vec<Array> = tensors.values().cloned().collect();
    mlx_graft::transforms::eval(&values)?;
    for (name, tensor) in tensors {
        let param = &params[&name];
        // What was trained is trained on, and saved again.
        param.set_trainable(param.is_trainable() || tensor.dtype().is_floating());
        param.set(tensor);
    }
    Ok(())
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
    let trained = model.params().into_iter().filter(|(_, param)| param.is_trainable());
    save(trained.map(|(name, param)| (name, param.get())), &[], file)
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
    let metadata = [&[("format", "mlx")], metadata].concat();
    write_atomic(file, |temporary| {
        let mut output = File::create(temporary).map_err(Error::io(file))?;
        // To a stream: writing to a path, MLX does not say why the system refused.
        save_safetensors_to(&mut output, arrays, metadata).map_err(|error| match error {
            mlx_graft::Error::File { message, .. } => Error::io(file)(io::Error::other(message)),
            other => other.into(),
        })
    })
}

/// Writes an adapter folder: the trainable weights, then `adapter_config.json`.
///
/// # Errors
/// [`Error::Io`] when the system refuses.
pub fn save_adapters(model: &Decoder, config: &AdapterConfig, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let file = folder.join(ADAPTER_FILE);
    save_trainable(model, &file)?;
    config.write(folder)?;
    Ok(file)
}

/// Writes a model folder's `model.safetensors` and `config.json`.
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
    let params = model.decoder.params().into_iter();
    save(params.map(|(name, param)| (name, param.get())), &[], &folder.join("model.safetensors"))?;
    let path = folder.join("config.json");
    let text = serde_json::to_vec_pretty(&model.config)
        .map_err(|e| Error::invalid(&path, e.to_string()))?;
    write_bytes_atomic(&path, &text)
}
