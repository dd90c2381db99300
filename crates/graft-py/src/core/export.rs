//! Functions as files, and graphs as text.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mlx_graft::export::{self, Argument, GraphArray, GraphPart, NodeNamer};
use mlx_graft::{Array, Error};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::bridge::{In, Out, Owned, unchecked};
use crate::error::to_py;
use crate::ops::arguments::DtypeArg;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<FunctionExporter>()?;
    module.add_function(wrap_pyfunction!(export_function, module)?)?;
    module.add_function(wrap_pyfunction!(import_function, module)?)?;
    module.add_function(wrap_pyfunction!(exporter, module)?)?;
    module.add_function(wrap_pyfunction!(export_to_dot, module)?)
}

const EXPORT: &str = "export_function";

type Named = BTreeMap<String, Array>;

/// Arrays by position and by keyword: as such, or as one tuple or list and one dict.
fn inputs(
    op: &str,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<(Vec<Array>, Named)> {
    let wrong = |_: PyErr| {
        PyValueError::new_err(format!(
            "[{op}] Inputs can either be a variable number of positional and keyword arrays or a \
             single tuple and/or dictionary of arrays."
        ))
    };
    let named = kwargs.map(|kwargs| named(kwargs)).transpose().map_err(wrong)?.unwrap_or_default();
    let whole = args.is_empty() || args.get_item(0)?.extract::<In>().is_ok();
    if whole {
        return Ok((arrays(args).map_err(wrong)?, named));
    }
    if args.len() > 2 || !named.is_empty() {
        return Err(wrong(PyTypeError::new_err("too many")));
    }
    let first = args.get_item(0)?;
    if args.len() == 1
        && let Ok(first) = first.cast::<PyDict>()
    {
        return Ok((Vec::new(), self::named(first).map_err(wrong)?));
    }
    let positional = arrays(&first).map_err(wrong)?;
    let second = args.get_item(1).ok();
    let second = second.map(|second| self::named(second.cast::<PyDict>()?)).transpose();
    Ok((positional, second.map_err(wrong)?.unwrap_or_default()))
}

fn arrays(sequence: &Bound<'_, PyAny>) -> PyResult<Vec<Array>> {
    if !sequence.is_instance_of::<PyTuple>() && !sequence.is_instance_of::<PyList>() {
        return Err(PyTypeError::new_err("neither a tuple nor a list"));
    }
    sequence.try_iter()?.map(|item| Ok(item?.extract::<In>()?.into_array())).collect()
}

fn named(dict: &Bound<'_, PyDict>) -> PyResult<Named> {
    dict.iter().map(|(k, v)| Ok((k.extract()?, v.extract::<In>()?.into_array()))).collect()
}

/// Calls a Python function with arrays, for MLX to trace.
fn call(function: &Py<PyAny>, args: &[Array], kwargs: &Named) -> mlx_graft::Result<Vec<Array>> {
    Python::attach(|py| {
        let args = PyTuple::new(py, args.iter().map(|array| Out(array.clone())))?;
        let dict = PyDict::new(py);
        for (key, array) in kwargs {
            dict.set_item(key, Out(array.clone()))?;
        }
        let outputs = function.bind(py).call(args, Some(&dict))?;
        if let Ok(output) = outputs.extract::<In>() {
            return Ok(vec![output.into_array()]);
        }
        arrays(&outputs).map_err(|_| {
            PyValueError::new_err(format!(
                "[{EXPORT}] Outputs can be either a single array, a tuple, or a list of arrays."
            ))
        })
    })
    .map_err(Error::closure)
}

/// Exports a function to a file, or gives its graph to a callback.
#[pyfunction]
#[pyo3(
    signature = (file_or_callback, fun, *args, shapeless=false, metadata=None, **kwargs),
)]
fn export_function(
    file_or_callback: &Bound<'_, PyAny>,
    fun: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    shapeless: bool,
    metadata: Option<&str>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let py = fun.py();
    let metadata = metadata.unwrap_or_default();
    let (args, kwargs) = inputs(EXPORT, args, kwargs)?;
    let function = callable(fun)?.clone().unbind();
    let traced = move |args: &[Array], kwargs: &Named| call(&function, args, kwargs);
    if let Ok(file) = file_or_callback.extract::<PathBuf>() {
        let mut exporter =
            export::Exporter::with_kwargs(file, traced, shapeless, metadata).map_err(to_py)?;
        exporter.call_kwargs(&args, &kwargs).map_err(to_py)?;
        return exporter.close().map_err(to_py);
    }
    if !metadata.is_empty() {
        return Err(PyValueError::new_err(format!(
            "[{EXPORT}] The metadata argument is only supported when exporting to a file, not \
             when using a callback."
        )));
    }
    let callback = callable(file_or_callback)?;
    let forward = |part| {
        let part = part_to_py(py, part).map_err(Error::closure)?;
        callback.call1((part,)).map(drop).map_err(Error::closure)
    };
    export::export_function_with(forward, traced, &args, &kwargs, shapeless).map_err(to_py)
}

fn callable<'a, 'py>(object: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyAny>> {
    if object.is_callable() {
        return Ok(object);
    }
    Err(PyTypeError::new_err(format!("expected a callable, not {}", object.get_type().name()?)))
}

/// A part of a graph as the dict that `mlx.core` gives to a callback.
fn part_to_py(py: Python<'_>, part: GraphPart) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    match part {
        GraphPart::Inputs(inputs) => {
            dict.set_item("type", "inputs")?;
            dict.set_item("inputs", graph_arrays(py, inputs)?)?;
        }
        GraphPart::KeywordInputs(keywords) => {
            dict.set_item("type", "keyword_inputs")?;
            dict.set_item("keywords", keywords)?;
        }
        GraphPart::Outputs(outputs) => {
            dict.set_item("type", "outputs")?;
            dict.set_item("outputs", graph_arrays(py, outputs)?)?;
        }
        GraphPart::Constants(constants) => {
            dict.set_item("type", "constants")?;
            let list = PyList::empty(py);
            for (name, array) in constants {
                list.append((name, Out(array)))?;
            }
            dict.set_item("constants", list)?;
        }
        GraphPart::Primitive { name, inputs, outputs, arguments } => {
            dict.set_item("type", "primitive")?;
            dict.set_item("name", name)?;
            dict.set_item("inputs", graph_arrays(py, inputs)?)?;
            dict.set_item("outputs", graph_arrays(py, outputs)?)?;
            let arguments: Vec<_> =
                arguments.into_iter().map(|a| argument(py, a)).collect::<PyResult<_>>()?;
            dict.set_item("arguments", arguments)?;
        }
    }
    Ok(dict)
}

fn graph_arrays(py: Python<'_>, arrays: Vec<GraphArray>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for GraphArray { name, shape, dtype } in arrays {
        list.append((name, PyTuple::new(py, shape)?, DtypeArg(dtype)))?;
    }
    Ok(list)
}

fn argument(py: Python<'_>, value: Argument) -> PyResult<Bound<'_, PyAny>> {
    let nested = |items: Vec<Argument>| -> PyResult<Vec<_>> {
        items.into_iter().map(|item| argument(py, item)).collect()
    };
    Ok(match value {
        Argument::None => py.None().into_bound(py),
        Argument::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
        Argument::Int(value) => value.into_pyobject(py)?.into_any(),
        Argument::Float(value) => value.into_pyobject(py)?.into_any(),
        Argument::Dtype(dtype) => DtypeArg(dtype).into_bound_py_any(py)?,
        Argument::String(text) => text.into_pyobject(py)?.into_any(),
        Argument::Shape(items) => PyTuple::new(py, items)?.into_any(),
        Argument::List(items) => PyList::new(py, nested(items)?)?.into_any(),
        Argument::Tuple(items) => PyTuple::new(py, nested(items)?)?.into_any(),
    })
}

/// Imports a function from a file.
#[pyfunction]
#[pyo3(signature = (file, return_metadata=false))]
fn import_function(py: Python<'_>, file: PathBuf, return_metadata: bool) -> PyResult<Py<PyAny>> {
    let imported = export::import_function(file).map_err(to_py)?;
    let metadata = imported.metadata().map_err(to_py)?;
    let function = ImportedFunction(Owned::new("imported function", imported));
    if return_metadata {
        return Ok((function, metadata).into_pyobject(py)?.into_any().unbind());
    }
    Ok(function.into_pyobject(py)?.into_any().unbind())
}

/// A function from a file: takes arrays by position and by keyword, and returns a tuple of arrays.
#[pyclass(frozen, module = "mlx_graft.core")]
struct ImportedFunction(Owned<export::ImportedFunction>);

#[pymethods]
impl ImportedFunction {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let (positional, named) = inputs("import_function::call", args, kwargs)?;
        let function = self.0.get()?;
        let outputs = unchecked(|| function.call_kwargs(&positional, &named)).map_err(to_py)?;
        PyTuple::new(args.py(), outputs.into_iter().map(Out))
    }
}

/// Exports several traces of one function to a file, which is there when this is closed.
#[pyclass(frozen, module = "mlx_graft.core")]
struct FunctionExporter {
    // None after the garbage collector broke a cycle through the function.
    exporter: Owned<Mutex<Option<Closing>>>,
    // The one reference to the function, which the exporter's closure shares: so that the garbage
    // collector sees every one of them.
    function: Arc<Py<PyAny>>,
}

/// An exporter that puts its file in its place when it goes, as that of `mlx.core` does.
struct Closing(export::Exporter);

impl Drop for Closing {
    fn drop(&mut self) {
        // A drop cannot report: `close` does.
        let _ = self.0.close();
    }
}

impl FunctionExporter {
    fn with<T>(
        &self,
        f: impl FnOnce(&mut export::Exporter) -> mlx_graft::Result<T>,
    ) -> PyResult<T> {
        // The function that is being traced may come back here.
        let Ok(mut exporter) = self.exporter.get()?.try_lock() else {
            return Err(PyRuntimeError::new_err(format!("[{EXPORT}] the exporter is in use")));
        };
        let exporter = exporter
            .as_mut()
            .ok_or_else(|| PyRuntimeError::new_err(format!("[{EXPORT}] the exporter is gone")))?;
        f(&mut exporter.0).map_err(to_py)
    }
}

#[pymethods]
impl FunctionExporter {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let (args, kwargs) = inputs(EXPORT, args, kwargs)?;
        self.with(|exporter| exporter.call_kwargs(&args, &kwargs))
    }

    /// Puts the file in its place.
    fn close(&self) -> PyResult<()> {
        self.with(export::Exporter::close)
    }

    fn __enter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    #[pyo3(signature = (exc_type=None, exc_value=None, traceback=None))]
    fn __exit__(
        &self,
        exc_type: Option<&Bound<'_, PyAny>>,
        exc_value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = (exc_type, exc_value, traceback);
        self.close()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&*self.function)
    }

    fn __clear__(&self) {
        if let Ok(exporter) = self.exporter.get() {
            *exporter.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// Makes an exporter of several traces of one function.
#[pyfunction]
#[pyo3(signature = (file, fun, *, shapeless=false, metadata=None))]
fn exporter(
    file: PathBuf,
    fun: &Bound<'_, PyAny>,
    shapeless: bool,
    metadata: Option<&str>,
) -> PyResult<FunctionExporter> {
    let function = Arc::new(callable(fun)?.clone().unbind());
    let shared = Arc::clone(&function);
    let traced = move |args: &[Array], kwargs: &Named| call(&shared, args, kwargs);
    let exporter =
        export::Exporter::with_kwargs(file, traced, shapeless, metadata.unwrap_or_default())
            .map_err(to_py)?;
    let exporter = Owned::new("function exporter", Mutex::new(Some(Closing(exporter))));
    Ok(FunctionExporter { exporter, function })
}

/// Writes the graph that computes arrays in the DOT language.
#[pyfunction]
#[pyo3(signature = (file, *args, **kwargs))]
fn export_to_dot(
    file: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let mut outputs: Vec<Array> =
        crate::tree::flat(args)?.into_iter().map(|(_, array)| array).collect();
    let mut namer = NodeNamer::new();
    for (name, array) in kwargs.map(named).transpose()?.unwrap_or_default() {
        namer.set_name(&array, &name).map_err(to_py)?;
        outputs.push(array);
    }
    let text = export::export_to_dot(&mut namer, &outputs).map_err(to_py)?;
    if let Ok(path) = file.extract::<PathBuf>() {
        return Ok(fs::write(path, text)?);
    }
    if !file.hasattr("write")? {
        return Err(PyValueError::new_err(
            "[export_to_dot] Accepts file-like objects or strings to be used as filenames.",
        ));
    }
    file.call_method1("write", (text,)).map(drop)
}
