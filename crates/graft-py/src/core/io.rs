//! Loading and saving arrays.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use mlx_graft::io::{self as files, Compression, GgufValue};
use mlx_graft::{Array, Error, transforms};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyTuple};

use crate::bridge::{In, Out, without_gil};
use crate::error::to_py;
use crate::ops::arguments::run;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(load, module)?)?;
    module.add_function(wrap_pyfunction!(save, module)?)?;
    module.add_function(wrap_pyfunction!(savez, module)?)?;
    module.add_function(wrap_pyfunction!(savez_compressed, module)?)?;
    module.add_function(wrap_pyfunction!(save_safetensors, module)?)?;
    module.add_function(wrap_pyfunction!(save_gguf, module)?)
}

/// A file: its path, or an object that reads or writes.
enum Source {
    Path(PathBuf),
    Object(PyFile),
}

impl Source {
    fn readable(op: &str, file: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::with_method(op, file, "readinto")
    }

    fn writable(op: &str, file: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::with_method(op, file, "write")
    }

    fn with_method(op: &str, file: &Bound<'_, PyAny>, method: &str) -> PyResult<Self> {
        if let Ok(path) = file.extract() {
            return Ok(Self::Path(path));
        }
        for attribute in [method, "seek", "tell", "closed"] {
            if !file.hasattr(attribute)? {
                return Err(PyValueError::new_err(format!(
                    "[{op}] the file must be a path, or an object in binary mode that has \
                     `{attribute}`"
                )));
            }
        }
        Ok(Self::Object(PyFile(file.clone().unbind())))
    }
}

/// A Python file object as a Rust stream. MLX reads on threads of its own: each call takes the GIL.
struct PyFile(Py<PyAny>);

/// What is read from a file object at a time.
const CHUNK: usize = 1 << 20;

impl PyFile {
    fn with<T>(&self, f: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> io::Result<T> {
        Python::attach(|py| f(self.0.bind(py))).map_err(|e| io::Error::other(Error::closure(e)))
    }
}

impl Read for PyFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|file| {
            let py = file.py();
            let len = buffer.len().min(CHUNK);
            // The object gets memory of Python's own, which it may keep for as long as it likes.
            let bytes = PyByteArray::new_with(py, len, |_| Ok(()))?;
            let read: Option<usize> = file.call_method1("readinto", (&bytes,))?.extract()?;
            let read = read.unwrap_or(0);
            if read > len || bytes.len() != len {
                return Err(PyOSError::new_err(format!("`readinto` says {read} of {len} bytes")));
            }
            PyBuffer::<u8>::get(&bytes)?.copy_to_slice(py, &mut buffer[..len])?;
            Ok(read)
        })
    }
}

impl Seek for PyFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.with(|file| {
            match to {
                SeekFrom::Start(at) => file.call_method1("seek", (at, 0))?,
                SeekFrom::Current(by) => file.call_method1("seek", (by, 1))?,
                SeekFrom::End(by) => file.call_method1("seek", (by, 2))?,
            };
            file.call_method0("tell")?.extract()
        })
    }
}

impl Write for PyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|file| {
            let chunk = &bytes[..bytes.len().min(CHUNK)];
            let written = file.call_method1("write", (PyBytes::new(file.py(), chunk),))?;
            match written.extract::<Option<usize>>()? {
                Some(count) if count <= chunk.len() => Ok(count),
                other => Err(PyOSError::new_err(format!("`write` says {other:?} bytes"))),
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a file holds.
enum Loaded {
    One(Array),
    Several(BTreeMap<String, Array>),
    Safetensors(files::Safetensors),
    Gguf(files::Gguf),
}

impl Loaded {
    /// From a path, lazily.
    fn from_path(format: &str, path: PathBuf) -> mlx_graft::Result<Self> {
        Ok(match format {
            "npy" => Self::One(files::load(path)?),
            "npz" => Self::Several(files::load_npz(path)?),
            "gguf" => Self::Gguf(files::load_gguf(path)?),
            _ => Self::Safetensors(files::load_safetensors(path)?),
        })
    }

    /// From an object, which is its caller's again after the call: all is read.
    fn from_object(format: &str, file: PyFile) -> mlx_graft::Result<Self> {
        Ok(match format {
            "npy" => {
                let array = files::load_from(file)?;
                array.eval()?;
                Self::One(array)
            }
            "npz" => {
                let arrays = files::load_npz_from(file)?;
                transforms::eval(&arrays.values().collect::<Vec<_>>())?;
                Self::Several(arrays)
            }
            _ => {
                let loaded = files::load_safetensors_from(file)?;
                transforms::eval(&loaded.arrays.values().collect::<Vec<_>>())?;
                Self::Safetensors(loaded)
            }
        })
    }

    fn into_object(self, py: Python<'_>, with_metadata: bool) -> PyResult<Bound<'_, PyAny>> {
        let (arrays, metadata) = match self {
            Self::One(array) => return Out(array).into_pyobject(py),
            Self::Several(arrays) => return Ok(dict(py, arrays)?.into_any()),
            Self::Safetensors(loaded) => (loaded.arrays, loaded.metadata.into_pyobject(py)?),
            Self::Gguf(loaded) => {
                let metadata = PyDict::new(py);
                for (key, value) in loaded.metadata {
                    match value {
                        GgufValue::Array(array) => metadata.set_item(key, Out(array))?,
                        GgufValue::String(text) => metadata.set_item(key, text)?,
                        GgufValue::Strings(texts) => metadata.set_item(key, texts)?,
                    }
                }
                (loaded.arrays, metadata)
            }
        };
        let arrays = dict(py, arrays)?;
        if with_metadata {
            return Ok((arrays, metadata).into_pyobject(py)?.into_any());
        }
        Ok(arrays.into_any())
    }
}

fn dict(py: Python<'_>, arrays: BTreeMap<String, Array>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, array) in arrays {
        dict.set_item(name, Out(array))?;
    }
    Ok(dict)
}

/// Loads arrays from a file or a file object, by its ending or by `format`.
#[pyfunction]
#[pyo3(signature = (file, /, format=None, return_metadata=false, *, stream=None))]
fn load<'py>(
    file: &Bound<'py, PyAny>,
    format: Option<String>,
    return_metadata: bool,
    stream: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = file.py();
    let source = Source::readable("load", file)?;
    let format = match format {
        Some(format) => format,
        None => ending(&source, py)?,
    };
    match format.as_str() {
        "npy" | "npz" if return_metadata => {
            return Err(PyValueError::new_err(format!("[load] {format} files have no metadata")));
        }
        "npy" | "npz" | "safetensors" | "gguf" => {}
        _ => return Err(PyValueError::new_err(format!("[load] Unknown file format {format}"))),
    }
    let loaded = match source {
        Source::Path(path) => run(stream, || without_gil(py, || Loaded::from_path(&format, path)))?,
        Source::Object(_) if format == "gguf" => {
            return Err(PyValueError::new_err("[load_gguf] the file must be a path"));
        }
        Source::Object(file) => {
            run(stream, || without_gil(py, || Loaded::from_object(&format, file)))?
        }
    };
    loaded.into_object(py, return_metadata)
}

/// What follows the last dot of a file's name.
fn ending(source: &Source, py: Python<'_>) -> PyResult<String> {
    let name = match source {
        Source::Path(path) => path.to_string_lossy().into_owned(),
        Source::Object(file) => file.0.bind(py).getattr("name")?.extract()?,
    };
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_string());
    ending.ok_or_else(|| {
        PyValueError::new_err(format!("[load] {name:?} has no ending that tells its format"))
    })
}

/// Saves an array in npy format.
#[pyfunction]
fn save(file: &Bound<'_, PyAny>, arr: In) -> PyResult<()> {
    let py = file.py();
    let arr = arr.into_array();
    match Source::writable("save", file)? {
        Source::Path(path) => without_gil(py, || files::save(path, &arr)),
        Source::Object(mut file) => without_gil(py, || files::save_to(&mut file, &arr)),
    }
    .map_err(to_py)
}

/// Saves arrays in npz format, by keyword or as `arr_0`, `arr_1`, ….
#[pyfunction]
#[pyo3(signature = (file, *args, **kwargs))]
fn savez(
    file: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    save_npz(file, args, kwargs, Compression::Stored)
}

/// Saves arrays in npz format, deflated, by keyword or as `arr_0`, `arr_1`, ….
#[pyfunction]
#[pyo3(signature = (file, /, *args, **kwargs))]
fn savez_compressed(
    file: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    save_npz(file, args, kwargs, Compression::Deflated)
}

fn save_npz(
    file: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    compression: Compression,
) -> PyResult<()> {
    let mut arrays = kwargs.map(named).transpose()?.unwrap_or_default();
    for (i, array) in args.iter().enumerate() {
        let name = format!("arr_{i}");
        if arrays.insert(name, array.extract::<In>()?.into_array()).is_some() {
            return Err(PyValueError::new_err(format!(
                "[savez] Cannot use un-named variables and keyword arr_{i}"
            )));
        }
    }
    let py = file.py();
    match Source::writable("savez", file)? {
        Source::Path(path) => without_gil(py, || files::save_npz(path, &arrays, compression)),
        Source::Object(mut file) => {
            without_gil(py, || files::save_npz_to(&mut file, &arrays, compression))
        }
    }
    .map_err(to_py)
}

fn named(arrays: &Bound<'_, PyDict>) -> PyResult<BTreeMap<String, Array>> {
    let pairs = arrays.iter();
    pairs.map(|(k, v)| Ok((k.extract()?, v.extract::<In>()?.into_array()))).collect()
}

/// Saves arrays and metadata in safetensors format.
#[pyfunction]
#[pyo3(signature = (file, arrays, metadata=None))]
fn save_safetensors(
    file: &Bound<'_, PyAny>,
    arrays: &Bound<'_, PyDict>,
    metadata: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let py = file.py();
    let arrays = named(arrays)?;
    let metadata: BTreeMap<String, String> = metadata
        .map(|metadata| metadata.extract())
        .transpose()
        .map_err(|_: PyErr| {
            PyValueError::new_err(
                "[save_safetensors] Metadata must be a dictionary with string keys and values",
            )
        })?
        .unwrap_or_default();
    match Source::writable("save_safetensors", file)? {
        Source::Path(path) => without_gil(py, || files::save_safetensors(path, &arrays, &metadata)),
        Source::Object(mut file) => {
            without_gil(py, || files::save_safetensors_to(&mut file, &arrays, &metadata))
        }
    }
    .map_err(to_py)
}

/// Saves arrays and metadata in gguf format.
#[pyfunction]
#[pyo3(signature = (file, arrays, metadata=None))]
fn save_gguf(
    file: &Bound<'_, PyAny>,
    arrays: &Bound<'_, PyDict>,
    metadata: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let Ok(path) = file.extract::<PathBuf>() else {
        return Err(PyValueError::new_err("[save_gguf] the file must be a path"));
    };
    let arrays = named(arrays)?;
    let mut values = BTreeMap::new();
    for (key, value) in metadata.into_iter().flatten() {
        values.insert(key.extract::<String>()?, gguf_value(&value)?);
    }
    without_gil(file.py(), || files::save_gguf(path, &arrays, &values)).map_err(to_py)
}

fn gguf_value(value: &Bound<'_, PyAny>) -> PyResult<GgufValue> {
    if let Ok(text) = value.extract() {
        return Ok(GgufValue::String(text));
    }
    if let Ok(array) = value.extract::<In>() {
        return Ok(GgufValue::Array(array.into_array()));
    }
    Ok(GgufValue::Strings(value.extract()?))
}
