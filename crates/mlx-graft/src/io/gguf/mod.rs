//! The gguf format of llama.cpp: named arrays and metadata.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
#![allow(unsafe_code)]

mod check;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::path::Path;
use std::ptr::null_mut;

use super::{At, on_cpu, replace, with_ending};
use crate::containers::{Text, VectorString};
use crate::handles::Live;
use crate::{Array, Dtype, ErrorKind, Result, call, sys};

const LOAD: &str = "load_gguf";
const SAVE: &str = "save_gguf";

/// MLX's writer aligns tensors to this, whatever the metadata says.
const ALIGNMENT: u32 = 32;

/// More dimensions end the process of whoever reads the file with MLX.
const MOST_DIMENSIONS: usize = 8;

/// The arrays and the metadata of a gguf file.
#[derive(Debug, Default)]
pub struct Gguf {
    /// The arrays by name.
    pub arrays: BTreeMap<String, Array>,
    /// The metadata by key.
    pub metadata: BTreeMap<String, GgufValue>,
}

/// A value of a gguf file's metadata.
#[derive(Debug, Clone)]
pub enum GgufValue {
    /// A number, or a list of numbers, as an array of no or one dimension.
    Array(Array),
    /// A text.
    String(String),
    /// A list of texts.
    Strings(Vec<String>),
}

/// Loads a gguf file, as `mx.load` does.
///
/// Tensors of the types `Q4_0`, `Q4_1` and `Q8_0` become three arrays, packed uint32 `….weight` and
/// float16 `….scales` and `….biases` of groups of 32, as `ops::dequantize` takes them; of the other
/// quantized types, `Q2_K`, `Q4_K`, `Q6_K` and bfloat16 become float16. The arrays are read at once.
///
/// # Errors
/// [`Error::File`](crate::Error::File) if the file is missing ([`ErrorKind::InvalidArgument`]) or
/// cannot be opened for reading *and writing*, which MLX does; if it is cut short, no gguf file of
/// version 2 or 3, or has what MLX cannot read: other types, 64-bit floats or nested lists in the
/// metadata, or texts that are no UTF-8 or contain a zero byte.
///
/// ```
/// use mlx_graft::io::{self, GgufValue};
/// use mlx_graft::Array;
///
/// let path = std::env::temp_dir().join("mlx-graft-doc.gguf");
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
/// let name = GgufValue::String("tiny".to_string());
/// io::save_gguf(&path, [("x", &x)], [("general.name", &name)])?;
/// let loaded = io::load_gguf(&path)?;
/// assert_eq!(loaded.arrays["x"].to_vec::<f32>()?, [1.0, 2.0]);
/// assert!(matches!(&loaded.metadata["general.name"], GgufValue::String(name) if name == "tiny"));
/// # let _ = std::fs::remove_file(path);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn load_gguf(path: impl AsRef<Path>) -> Result<Gguf> {
    let path = path.as_ref();
    let at = At::path(LOAD, path);
    let (file, length) = at.open(path, ErrorKind::InvalidArgument)?;
    let keys = check::check(file, length, &at)?;
    // MLX's reader maps the file for writing too; its own failure does not say why.
    std::fs::File::options().read(true).append(true).open(path).map_err(|error| {
        at.broken(format!("cannot be opened for reading and writing, as MLX does: {error}"))
    })?;
    let name = at.c_path(path)?;
    let mut handle = Handle::new();
    on_cpu(LOAD, |s| {
        call::status(LOAD, || {
            // SAFETY: `handle` is a live handle to fill, `name` a C string, the stream is live.
            unsafe { sys::mlx_load_gguf(&raw mut handle.raw, name.as_ptr(), s) }
        })
    })?;
    let mut gguf = Gguf::default();
    for name in handle.names()? {
        let array = handle.array(&at.c_text(&name)?, sys::mlx_io_gguf_get_array)?;
        gguf.arrays.insert(name, array);
    }
    for key in keys {
        let value = handle.value(&at.c_text(&key)?, &at)?;
        gguf.metadata.insert(key, value);
    }
    Ok(gguf)
}

/// Saves arrays and metadata to a gguf file; `.gguf` is added to another ending.
///
/// # Errors
/// [`Error::File`](crate::Error::File) for more than eight dimensions, for a `general.alignment`
/// other than 32 or a name with a zero byte, or if the system refuses. What the evaluation of an
/// array reports, and MLX's refusals: arrays of other dtypes than float32, float16, int8, int16
/// and int32, and metadata that is empty, of two dimensions, or of a dtype that gguf has not. An
/// old file is then as it was.
pub fn save_gguf<'a, N: AsRef<str>, A: AsRef<Array>, K: AsRef<str>>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (N, A)>,
    metadata: impl IntoIterator<Item = (K, &'a GgufValue)>,
) -> Result<()> {
    let path = with_ending(path.as_ref(), ".gguf");
    let at = At::path(SAVE, &path);
    let mut handle = Handle::new();
    for (name, array) in arrays {
        let (name, array) = (name.as_ref(), array.as_ref());
        if array.ndim() > MOST_DIMENSIONS {
            let dims = array.ndim();
            return Err(at.unsupported(format!(
                "array {name:?} has {dims} dimensions, and gguf at most {MOST_DIMENSIONS}"
            )));
        }
        handle.set(&at.c_text(name)?, |io, name| {
            // SAFETY: all three are live.
            unsafe { sys::mlx_io_gguf_set_array(io, name, array.as_raw()) }
        })?;
    }
    for (key, value) in metadata {
        let key = key.as_ref();
        if key == "general.alignment" && !is_alignment(value)? {
            return Err(at.unsupported(format!("MLX writes general.alignment {ALIGNMENT} only")));
        }
        handle.set_value(&at.c_text(key)?, value, &at)?;
    }
    let write = |temporary: &Path| {
        let name = at.c_path(temporary)?;
        call::evaluation(SAVE, || {
            // SAFETY: the handle is live and `name` a C string.
            unsafe { sys::mlx_save_gguf(name.as_ptr(), handle.raw) }
        })
    };
    replace(&path, write, at.refused())
}

fn is_alignment(value: &GgufValue) -> Result<bool> {
    match value {
        GgufValue::Array(array) if array.dtype() == Dtype::Uint32 && array.ndim() == 0 => {
            Ok(array.item::<u32>()? == ALIGNMENT)
        }
        _ => Ok(false),
    }
}

/// The RAII handle of the content of a gguf file.
struct Handle {
    raw: sys::mlx_io_gguf,
    _live: Live,
}

impl Handle {
    fn new() -> Self {
        call::ready();
        // SAFETY: makes an empty one, which the wrapper frees.
        Self { raw: unsafe { sys::mlx_io_gguf_new() }, _live: Live::new() }
    }

    /// The names of the arrays.
    fn names(&self) -> Result<Vec<String>> {
        let mut names = VectorString::new();
        call::status(LOAD, || {
            // SAFETY: both handles are live.
            unsafe { sys::mlx_io_gguf_get_keys(names.as_mut_raw(), self.raw) }
        })?;
        names.to_vec()
    }

    fn array(
        &self,
        key: &CStr,
        get: unsafe extern "C" fn(
            *mut sys::mlx_array,
            sys::mlx_io_gguf,
            *const std::ffi::c_char,
        ) -> c_int,
    ) -> Result<Array> {
        let mut res = sys::mlx_array { ctx: null_mut() };
        let done = call::status(LOAD, || {
            // SAFETY: `res` is a null handle to fill, `key` a C string, the handle is live.
            unsafe { get(&raw mut res, self.raw, key.as_ptr()) }
        });
        // SAFETY: `res` is null or a handle that mlx-c made for us.
        let array = unsafe { Array::from_raw(res) };
        done.map(|()| array)
    }

    fn has(
        &self,
        key: &CStr,
        has: unsafe extern "C" fn(*mut bool, sys::mlx_io_gguf, *const std::ffi::c_char) -> c_int,
    ) -> Result<bool> {
        let mut flag = false;
        call::status(LOAD, || {
            // SAFETY: `flag` is a slot to fill, `key` a C string, the handle is live.
            unsafe { has(&raw mut flag, self.raw, key.as_ptr()) }
        })?;
        Ok(flag)
    }

    /// A value of the metadata, which MLX has under this key if it read what was checked.
    fn value(&self, key: &CStr, at: &At) -> Result<GgufValue> {
        if self.has(key, sys::mlx_io_gguf_has_metadata_array)? {
            return self.array(key, sys::mlx_io_gguf_get_metadata_array).map(GgufValue::Array);
        }
        if self.has(key, sys::mlx_io_gguf_has_metadata_vector_string)? {
            let mut texts = VectorString::new();
            call::status(LOAD, || {
                // SAFETY: all are live.
                unsafe {
                    sys::mlx_io_gguf_get_metadata_vector_string(
                        texts.as_mut_raw(),
                        self.raw,
                        key.as_ptr(),
                    )
                }
            })?;
            return texts.to_vec().map(GgufValue::Strings);
        }
        if !self.has(key, sys::mlx_io_gguf_has_metadata_string)? {
            return Err(at.broken(format!("metadata {key:?} was not read")));
        }
        let mut text = Text::new();
        call::status(LOAD, || {
            // SAFETY: all are live.
            unsafe {
                sys::mlx_io_gguf_get_metadata_string(text.as_mut_raw(), self.raw, key.as_ptr())
            }
        })?;
        Ok(GgufValue::String(text.to_string()))
    }

    fn set(
        &mut self,
        key: &CString,
        f: impl FnOnce(sys::mlx_io_gguf, *const std::ffi::c_char) -> c_int,
    ) -> Result<()> {
        call::evaluation(SAVE, || f(self.raw, key.as_ptr()))
    }

    fn set_value(&mut self, key: &CString, value: &GgufValue, at: &At) -> Result<()> {
        match value {
            GgufValue::Array(array) => self.set(key, |io, key| {
                // SAFETY: all three are live.
                unsafe { sys::mlx_io_gguf_set_metadata_array(io, key, array.as_raw()) }
            }),
            GgufValue::String(text) => {
                let text = at.c_text(text)?;
                self.set(key, |io, key| {
                    // SAFETY: all three are live.
                    unsafe { sys::mlx_io_gguf_set_metadata_string(io, key, text.as_ptr()) }
                })
            }
            GgufValue::Strings(texts) => {
                let texts = VectorString::from_strings(texts)?;
                self.set(key, |io, key| {
                    // SAFETY: all three are live.
                    unsafe { sys::mlx_io_gguf_set_metadata_vector_string(io, key, texts.as_raw()) }
                })
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: frees the handle we own, once.
        unsafe { sys::mlx_io_gguf_free(self.raw) };
    }
}
