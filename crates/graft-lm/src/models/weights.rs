//! Reading the weights of a Hugging Face folder, with every name and shape checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use mlx_graft::io::{self, Safetensors};
use mlx_graft::{Array, Dtype};
use serde::Deserialize;

use crate::nn::{
    Embedding, EmbeddingKind, Linear, LinearKind, Param, Quantization, Quantized, QuantizedWeight,
    RmsNorm,
};
use crate::{Error, Result};

/// The name of the file that says which shard has which tensor.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a folder that are not taken yet.
pub struct Weights {
    folder: PathBuf,
    tensors: BTreeMap<String, (Array, PathBuf)>,
    path: String,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens the shards that the index of a folder names, or without one all of its
    /// `model*.safetensors`. Nothing but the headers is read yet.
    ///
    /// # Errors
    /// [`Error::NotFound`] without weights or with a shard missing, [`Error::Invalid`] for a file
    /// that is truncated or not safetensors, or that has a tensor of another.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut tensors: BTreeMap<String, (Array, PathBuf)> = BTreeMap::new();
        for file in files(folder)? {
            for (name, array) in read(&file)? {
                if let Some((_, other)) = tensors.get(&name) {
                    return Err(Error::invalid(
                        &file,
                        format!(
                            "has the tensor {name:?}, and {} has it too. One of the files is left of \
                             another version of the model: remove it, or download the model again",
                            other.display()
                        ),
                    ));
                }
                tensors.insert(name, (array, file.clone()));
            }
        }
        Ok(Self { folder: folder.to_path_buf(), tensors, path: String::new() })
    }

    /// Removes tensors that files carry and no layer takes.
    pub fn drop_if(&mut self, unused: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| !unused(name));
    }

    /// Runs `f` with names below `name`.
    pub fn scope<R>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        let len = self.path.len();
        self.path = self.full(name);
        let out = f(self);
        self.path.truncate(len);
        out
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// Takes the tensor `name`, which must have `shape`.
    fn take(&mut self, name: &str, shape: &[i32]) -> Result<Array> {
        let (array, file) = self.take_any(name, shape)?;
        if array.shape() != shape {
            return Err(wrong_shape(&file, &self.full(name), array.shape(), shape));
        }
        Ok(array)
    }

    fn take_any(&mut self, name: &str, shape: &[i32]) -> Result<(Array, PathBuf)> {
        let full = self.full(name);
        self.tensors.remove(&full).ok_or_else(|| {
            Error::invalid(
                &self.folder,
                format!(
                    "the weights have no tensor {full:?}, wanted with shape {shape:?}. Is \
                     config.json of this model, and are all of its files here?"
                ),
            )
        })
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&self.full(name))
    }

    /// A root mean square norm of `dim` features.
    pub fn rms_norm(&mut self, name: &str, dim: i32, eps: f32) -> Result<RmsNorm> {
        self.scope(name, |weights| Ok(RmsNorm::new(weights.take("weight", &[dim])?, eps)))
    }

    /// A linear layer from `inputs` to `outputs`, dense or quantized as the file has it.
    pub fn linear(&mut self, name: &str, outputs: i32, inputs: i32, bias: bool) -> Result<Linear> {
        self.scope(name, |weights| {
            let packed = weights.packed(outputs, inputs)?;
            // A bias that the configuration does not speak of would be an extra tensor.
            let bias = bias.then(|| weights.take("bias", &[outputs])).transpose()?;
            Ok(match packed {
                Some(packed) => Linear::from_kind(LinearKind::Quantized(Quantized {
                    packed,
                    bias: bias.map(Param::frozen),
                })),
                None => Linear::dense(weights.take("weight", &[outputs, inputs])?, bias),
            })
        })
    }

    /// An embedding of `count` vectors of length `dim`, dense or quantized as the file has it.
    pub fn embedding(&mut self, name: &str, count: i32, dim: i32) -> Result<Embedding> {
        self.scope(name, |weights| match weights.packed(count, dim)? {
            Some(packed) => Ok(Embedding::from_kind(EmbeddingKind::Quantized(packed))),
            None => Ok(Embedding::dense(weights.take("weight", &[count, dim])?)),
        })
    }

    /// The quantized weight of shape `(rows, columns)` in this scope, if it is packed.
    fn packed(&mut self, rows: i32, columns: i32) -> Result<Option<QuantizedWeight>> {
        if !self.has("scales") {
            return Ok(None);
        }
        let (scales, file) = self.take_any("scales", &[rows, -1])?;
        let (weight, weight_file) = self.take_any("weight", &[rows, -1])?;
        let bad = |file: &Path, name: &str, array: &Array| {
            let wanted = format!("({rows}, a divisor of {columns})");
            Error::invalid(
                file,
                format!("tensor {name:?} has shape {:?}, wanted {wanted}", array.shape()),
            )
        };
        if weight.dtype() != Dtype::Uint32 {
            let name = self.full("weight");
            let wanted = "uint32, as a weight that has scales is packed";
            return Err(wrong_dtype(&weight_file, &name, weight.dtype(), wanted));
        }
        if scales.dtype() != Dtype::Uint8 && !scales.dtype().is_floating() {
            let wanted = format!("{FLOATING}, or uint8");
            return Err(wrong_dtype(&file, &self.full("scales"), scales.dtype(), &wanted));
        }
        let groups = match scales.shape() {
            &[r, groups] if r == rows && groups > 0 && columns % groups == 0 => groups,
            _ => return Err(bad(&file, &self.full("scales"), &scales)),
        };
        let bits = match weight.shape() {
            &[r, words] if r == rows => words * 32 / columns,
            _ => 0,
        };
        let group_size = columns / groups;
        let mode = match (scales.dtype(), bits, group_size) {
            (_, 0, _) => return Err(bad(&weight_file, &self.full("weight"), &weight)),
            (Dtype::Uint8, 4, 16) => "nvfp4",
            (Dtype::Uint8, 4, 32) => "mxfp4",
            (Dtype::Uint8, 8, 32) => "mxfp8",
            (Dtype::Uint8, ..) => {
                return Err(Error::invalid(
                    &file,
                    format!(
                        "tensor {:?} is packed with {bits} bits in groups of {group_size}, which \
                         is none of nvfp4, mxfp4 and mxfp8",
                        self.full("weight")
                    ),
                ));
            }
            _ => "affine",
        };
        let biases =
            (mode == "affine").then(|| self.take("biases", &[rows, groups])).transpose()?;
        Ok(Some(QuantizedWeight {
            weight: Param::frozen(weight),
            scales: Param::frozen(scales),
            biases: biases.map(Param::frozen),
            quantization: Quantization { group_size, bits, mode: mode.to_string() },
        }))
    }

    /// Fails if a tensor was not taken: the file is of another model.
    pub fn finish(self) -> Result<()> {
        let Some((name, (array, file))) = self.tensors.first_key_value() else { return Ok(()) };
        let others = match self.tensors.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Err(Error::invalid(
            file,
            format!(
                "has the tensor {name:?} of shape {:?}{others}, which the model that config.json \
                 describes does not have. Is config.json of this model?",
                array.shape()
            ),
        ))
    }
}

pub(crate) fn wrong_shape(file: &Path, name: &str, found: &[i32], wanted: &[i32]) -> Error {
    Error::invalid(file, format!("tensor {name:?} has shape {found:?}, wanted {wanted:?}"))
}

/// What [`wrong_dtype`] says is wanted where any floating-point dtype is.
pub(crate) const FLOATING: &str = "a floating-point dtype, such as float32";

pub(crate) fn wrong_dtype(file: &Path, name: &str, found: Dtype, wanted: &str) -> Error {
    Error::invalid(file, format!("tensor {name:?} is of {found}, wanted {wanted}"))
}

/// The weight files of a folder: those that its index names, as others are left of an earlier
/// version; without an index all that mlx-lm finds.
///
/// # Errors
/// [`Error::NotFound`] without weights, or without a shard that the index names;
/// [`Error::Invalid`] for an index that is none.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join(INDEX);
    if index.exists() {
        let text = fs::read_to_string(&index).map_err(Error::io(&index))?;
        let parsed: Index = serde_json::from_str(&text)
            .map_err(|e| Error::invalid(&index, format!("is no index of shards: {e}")))?;
        let named: BTreeSet<PathBuf> =
            parsed.weight_map.values().map(|name| folder.join(name)).collect();
        if let Some(shard) = named.iter().find(|shard| !shard.exists()) {
            return Err(Error::not_found(
                shard,
                "this shard is named in model.safetensors.index.json and is not there. \
                 Download the model again.",
            ));
        }
        if !named.is_empty() {
            return Ok(named.into_iter().collect());
        }
    }
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.starts_with("model") && name.ends_with(".safetensors")
        })
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(Error::not_found(
            folder,
            "no model.safetensors and no shards (model-*.safetensors) here. Weights in other \
             formats can be converted with `mlx_lm.convert`.",
        ));
    }
    Ok(found)
}

/// The tensors of a safetensors file, of which nothing but the header is read yet.
///
/// # Errors
/// [`Error::Io`] when the system refuses, [`Error::Invalid`] for a file that is truncated or not
/// safetensors.
pub(crate) fn read(file: &Path) -> Result<BTreeMap<String, Array>> {
    read_all(file, "get it again").map(|loaded| loaded.arrays)
}

/// [`read`] with the metadata; `remedy` is what to do about a file that is truncated.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_all(file: &Path, remedy: &str) -> Result<Safetensors> {
    File::open(file).map_err(Error::io(file))?;
    io::load_safetensors(file).map_err(|error| match error {
        mlx_graft::Error::File { message, .. } => {
            Error::invalid(file, format!("{message}: not a whole safetensors file; {remedy}"))
        }
        other => Error::invalid(file, format!("cannot be read: {other}")),
    })
}

#[cfg(test)]
mod tests {
    use mlx_graft::ops;

    use super::*;
    use crate::adapters::save;

    fn tensor(name: &str, shape: &[i32], dtype: Dtype) -> (String, Array) {
        (name.to_owned(), ops::zeros(shape, dtype).unwrap())
    }

    fn message<T>(result: Result<T>) -> String {
        result.err().expect("it is refused").to_string()
    }

    #[test]
    fn what_the_index_does_not_name_is_not_read() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let shard = |name: &str, tensors: Vec<(String, Array)>| {
            save(tensors, &[], &folder.join(name)).unwrap();
        };
        let float = |name: &str, length: i32| tensor(name, &[length], Dtype::Float32);
        shard("model-00001-of-00002.safetensors", vec![float("a", 2)]);
        shard("model-00002-of-00002.safetensors", vec![float("b", 2)]);
        // Left of the time when it had three.
        shard("model-00003-of-00003.safetensors", vec![float("b", 3), float("c", 3)]);
        let found = message(Weights::open(folder));
        let (one, other) = ("model-00002-of-00002.safetensors", "model-00003-of-00003.safetensors");
        assert!(found.contains(&format!("{other}: has the tensor \"b\", and ")), "{found}");
        assert!(found.contains(&format!("{one} has it too")), "{found}");

        let index = serde_json::json!({"weight_map": {
            "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"
        }});
        fs::write(folder.join(INDEX), index.to_string()).unwrap();
        let names: Vec<String> = Weights::open(folder).unwrap().tensors.into_keys().collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_packed_weight_of_another_dtype_is_told_so() {
        let temporary = tempfile::tempdir().unwrap();
        let linear = |weight: Dtype, scales: Dtype| {
            let tensors = [
                tensor("l.weight", &[4, 8], weight),
                tensor("l.scales", &[4, 2], scales),
                tensor("l.biases", &[4, 2], Dtype::Float32),
            ];
            save(tensors, &[], &temporary.path().join("model.safetensors")).unwrap();
            Weights::open(temporary.path()).unwrap().linear("l", 4, 64, false)
        };
        linear(Dtype::Uint32, Dtype::Float32).unwrap();
        let found = message(linear(Dtype::Float16, Dtype::Float16));
        let wanted = "model.safetensors: tensor \"l.weight\" is of float16, wanted uint32";
        assert!(found.contains(wanted), "{found}");
        let found = message(linear(Dtype::Uint32, Dtype::Int32));
        let wanted = "tensor \"l.scales\" is of int32, wanted a floating-point dtype";
        assert!(found.contains(wanted), "{found}");
    }
}
