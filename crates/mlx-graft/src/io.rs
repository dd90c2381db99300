//! Reading arrays from files.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use crate::containers::{MapStringToArray, MapStringToString};
use crate::{Array, Device, Error, Result, Stream, call, sys, with_stream};

/// The arrays and the metadata of a safetensors file.
#[derive(Debug)]
pub struct Safetensors {
    /// The arrays by name, lazy: a tensor is read when it is evaluated.
    pub arrays: BTreeMap<String, Array>,
    /// The `__metadata__` of the file.
    pub metadata: BTreeMap<String, String>,
}

/// Loads a safetensors file, as `mx.load` does.
///
/// # Errors
/// What MLX reports for a file that is missing or no safetensors file.
pub fn load_safetensors(path: impl AsRef<Path>) -> Result<Safetensors> {
    const OP: &str = "load_safetensors";
    let path = path.as_ref();
    let text = path.to_str().ok_or_else(|| {
        Error::invalid_argument(OP, format!("{} is not valid UTF-8", path.display()))
    })?;
    let file = call::c_string(OP, text)?;
    let mut arrays = MapStringToArray::new();
    let mut metadata = MapStringToString::new();
    // MLX loads on the CPU only.
    with_stream(&Stream::default_of(Device::cpu())?, || {
        crate::stream::with_current(OP, |s| {
            call::status(OP, || {
                // SAFETY: all handles are live, and the path is a C string.
                unsafe {
                    sys::mlx_load_safetensors(
                        arrays.as_mut_raw(),
                        metadata.as_mut_raw(),
                        file.as_ptr(),
                        s,
                    )
                }
            })
        })
    })??;
    Ok(Safetensors { arrays: arrays.to_map(), metadata: metadata.to_map() })
}
