//! The safetensors format: named arrays and metadata.
//!
//! Format: <https://huggingface.co/docs/safetensors>.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::npy::extent;
use super::section::Section;
use super::stream::{Reader, with_writer};
use super::{At, on_cpu, replace, with_ending};
use crate::containers::{MapStringToArray, MapStringToString};
use crate::{Array, ErrorKind, Result, call, sys};

const LOAD: &str = "load_safetensors";
const SAVE: &str = "save_safetensors";

/// The limit of the reference implementation and of MLX.
const LONGEST_HEADER: u64 = 100_000_000;

/// The arrays and the metadata of a safetensors file.
#[derive(Debug)]
pub struct Safetensors {
    /// The arrays by name, lazy: a tensor is read when it is evaluated.
    pub arrays: BTreeMap<String, Array>,
    /// The `__metadata__` of the file.
    pub metadata: BTreeMap<String, String>,
}

/// Loads a safetensors file, as `mx.load` does. Eight-bit floats come as uint8.
///
/// # Errors
/// [`Error::File`](crate::Error::File) if the file is missing, cut short, or no safetensors file:
/// if its header is too long or no valid JSON, a name is there twice, a dtype is unknown to MLX, or
/// a tensor's place does not fit its shape, lies outside the file or overlaps another's.
///
/// ```
/// use mlx_graft::{Array, io};
///
/// let path = std::env::temp_dir().join("mlx-graft-doc.safetensors");
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
/// io::save_safetensors(&path, [("x", &x)], [("format", "mlx")])?;
/// let loaded = io::load_safetensors(&path)?;
/// assert_eq!(loaded.arrays["x"].to_vec::<f32>()?, [1.0, 2.0]);
/// assert_eq!(loaded.metadata["format"], "mlx");
/// # let _ = std::fs::remove_file(path);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn load_safetensors(path: impl AsRef<Path>) -> Result<Safetensors> {
    let path = path.as_ref();
    let at = At::path(LOAD, path);
    let (mut file, length) = at.open(path, ErrorKind::Runtime)?;
    check(&mut file, length, &at)?;
    let name = at.c_path(path)?;
    collect(|arrays, metadata| {
        on_cpu(LOAD, |s| {
            call::status(LOAD, || {
                // SAFETY: all handles are live, and the path is a C string.
                unsafe { sys::mlx_load_safetensors(arrays, metadata, name.as_ptr(), s) }
            })
        })
    })
}

/// Loads arrays in safetensors format from a stream, from its current position on.
///
/// # Errors
/// As for [`load_safetensors`], or the stream's own.
///
/// ```
/// use std::io::Cursor;
/// use mlx_graft::{Array, io};
///
/// let mut bytes = Vec::new();
/// let x = Array::from_slice(&[1_u8, 2], &[2])?;
/// io::save_safetensors_to(&mut bytes, [("x", &x)], [("", ""); 0])?;
/// let loaded = io::load_safetensors_from(Cursor::new(bytes))?;
/// assert_eq!(loaded.arrays["x"].to_vec::<u8>()?, [1, 2]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn load_safetensors_from<R>(mut stream: R) -> Result<Safetensors>
where
    R: Read + Seek + Send + 'static,
{
    let at = At::stream(LOAD);
    let (start, length) = extent(&mut stream).map_err(at.refused())?;
    check(&mut stream, length, &at)?;
    stream.seek(SeekFrom::Start(start)).map_err(at.refused())?;
    let reader = Reader::new(&at, Section::new(Vec::new(), stream, start));
    collect(|arrays, metadata| {
        reader.run(|raw| {
            on_cpu(LOAD, |s| {
                call::status(LOAD, || {
                    // SAFETY: all handles are live.
                    unsafe { sys::mlx_load_safetensors_reader(arrays, metadata, raw, s) }
                })
            })
        })
    })
}

fn collect(
    load: impl FnOnce(
        *mut sys::mlx_map_string_to_array,
        *mut sys::mlx_map_string_to_string,
    ) -> Result<()>,
) -> Result<Safetensors> {
    let mut arrays = MapStringToArray::new();
    let mut metadata = MapStringToString::new();
    load(arrays.as_mut_raw(), metadata.as_mut_raw())?;
    Ok(Safetensors { arrays: arrays.to_map(), metadata: metadata.to_map() })
}

/// What the header says of a tensor; other fields are allowed.
#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<i32>,
    data_offsets: (u64, u64),
}

/// The header in the order of the file.
#[derive(Default)]
struct Entries {
    tensors: Vec<(String, Info)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
        let mut entries = Entries::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                // MLX writes null for none.
                entries.metadata =
                    map.next_value::<Option<BTreeMap<String, String>>>()?.unwrap_or_default();
            } else {
                let info = map.next_value()?;
                entries.tensors.push((name, info));
            }
        }
        Ok(entries)
    }
}

/// Reads the header of a file of `length` bytes, and checks it against them.
fn check(stream: &mut impl Read, length: u64, at: &At) -> Result<()> {
    let mut prefix = [0; 8];
    if length < 8 {
        return Err(at.broken(format!("is no safetensors file: it has {length} bytes")));
    }
    stream.read_exact(&mut prefix).map_err(at.refused())?;
    let header = u64::from_le_bytes(prefix);
    if header == 0 || header >= LONGEST_HEADER {
        return Err(at.broken(format!("is no safetensors file: its header has {header} bytes")));
    }
    let Some(data) = (length - 8).checked_sub(header) else {
        return Err(at.broken(format!("has {length} bytes, and its header alone says {header}")));
    };
    let mut text = vec![0; header as usize];
    stream.read_exact(&mut text).map_err(at.refused())?;
    let entries: Entries = serde_json::from_slice(&text)
        .map_err(|error| at.broken(format!("has a broken header ({error})")))?;
    for text in entries.metadata.iter().flat_map(|(key, value)| [key, value]) {
        at.c_text(text)?;
    }
    let mut names = HashSet::new();
    let mut places = Vec::with_capacity(entries.tensors.len());
    for (name, info) in &entries.tensors {
        at.c_text(name)?;
        let fail = |message: String| Err(at.broken(format!("tensor {name:?} {message}")));
        if !names.insert(name) {
            return fail("is there twice".into());
        }
        let Some(element) = element_size(&info.dtype) else {
            return fail(format!("has the dtype {:?}, which MLX has not", info.dtype));
        };
        let size = info.shape.iter().try_fold(element, |size, &dim| {
            u64::try_from(dim).ok().and_then(|dim| size.checked_mul(dim))
        });
        let (start, end) = info.data_offsets;
        if size.is_none() || end.checked_sub(start) != size {
            let shape = &info.shape;
            return fail(format!("of shape {shape:?} does not fit its place {start}..{end}"));
        }
        if end > data {
            return fail(format!(
                "ends at byte {end} of {data}: an incomplete download or a corrupt file?"
            ));
        }
        if start < end {
            places.push((start, end, name));
        }
    }
    places.sort_unstable();
    if let Some(pair) = places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        return Err(at.broken(format!("tensors {:?} and {:?} overlap", pair[0].2, pair[1].2)));
    }
    Ok(())
}

fn element_size(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E8M0" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "C64" => 8,
        _ => return None,
    })
}

/// Saves arrays and metadata to a safetensors file; `.safetensors` is added to another ending.
///
/// # Errors
/// What the evaluation of an array reports, or [`Error::File`](crate::Error::File) for a name with
/// a zero byte or if the system refuses; a float64 is refused by MLX. An old file is then as it
/// was.
pub fn save_safetensors<N: AsRef<str>, A: AsRef<Array>, K: AsRef<str>, V: AsRef<str>>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (N, A)>,
    metadata: impl IntoIterator<Item = (K, V)>,
) -> Result<()> {
    let path = with_ending(path.as_ref(), ".safetensors");
    let at = At::path(SAVE, &path);
    let (arrays, metadata) = maps(arrays, metadata)?;
    let write = |temporary: &Path| {
        let name = at.c_path(temporary)?;
        call::evaluation(SAVE, || {
            // SAFETY: `name` is a C string, and the maps are live.
            unsafe { sys::mlx_save_safetensors(name.as_ptr(), arrays.as_raw(), metadata.as_raw()) }
        })
    };
    replace(&path, write, at.refused())
}

/// Writes arrays and metadata in safetensors format to a stream.
///
/// # Errors
/// As for [`save_safetensors`], or the stream's own.
pub fn save_safetensors_to<W, N: AsRef<str>, A: AsRef<Array>, K: AsRef<str>, V: AsRef<str>>(
    stream: &mut W,
    arrays: impl IntoIterator<Item = (N, A)>,
    metadata: impl IntoIterator<Item = (K, V)>,
) -> Result<()>
where
    W: Write,
{
    let at = At::stream(SAVE);
    let (arrays, metadata) = maps(arrays, metadata)?;
    with_writer(&at, stream, |raw| {
        call::evaluation(SAVE, || {
            // SAFETY: the writer and the maps are live.
            unsafe { sys::mlx_save_safetensors_writer(raw, arrays.as_raw(), metadata.as_raw()) }
        })
    })
}

fn maps<N: AsRef<str>, A: AsRef<Array>, K: AsRef<str>, V: AsRef<str>>(
    arrays: impl IntoIterator<Item = (N, A)>,
    metadata: impl IntoIterator<Item = (K, V)>,
) -> Result<(MapStringToArray, MapStringToString)> {
    let (mut by_name, mut texts) = (MapStringToArray::new(), MapStringToString::new());
    for (name, array) in arrays {
        by_name.insert(name.as_ref(), array.as_ref())?;
    }
    for (key, value) in metadata {
        texts.insert(key.as_ref(), value.as_ref())?;
    }
    Ok((by_name, texts))
}
