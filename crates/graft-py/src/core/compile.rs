//! Compilation of Python functions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mlx_graft::{Array, transforms};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::autodiff::{closure_error, type_name};
use super::transformed::{Callable, Transformation, Transformed};
use super::trees::{self, Snapshot};
use crate::bridge::{Held, Out, PyTraces, array_of};
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(compile, module)?)?;
    module.add_function(wrap_pyfunction!(disable_compile, module)?)?;
    module.add_function(wrap_pyfunction!(enable_compile, module)?)
}

/// A function that runs `fun` once for each combination of shapes, dtypes and constants in its
/// arguments, and the graph found then afterwards.
///
/// Arrays in the trees `inputs` are inputs too, those in `outputs` are written to with what `fun`
/// left there. With `shapeless`, a trace serves all shapes.
#[pyfunction]
#[pyo3(signature = (fun, inputs=None, outputs=None, shapeless=false))]
fn compile(
    fun: Callable,
    inputs: Option<Py<PyAny>>,
    outputs: Option<Py<PyAny>>,
    shapeless: bool,
) -> Transformed {
    let structures = Arc::default();
    Transformed::new(
        fun,
        Compile { inputs, outputs, shapeless, traces: PyTraces::default(), structures },
    )
}

/// Lets compiled functions run as they are, everywhere.
#[pyfunction]
fn disable_compile() -> PyResult<()> {
    transforms::disable_compile().map_err(to_py)
}

/// Undoes `disable_compile` and the environment variable `MLX_DISABLE_COMPILE`.
#[pyfunction]
fn enable_compile() -> PyResult<()> {
    transforms::enable_compile().map_err(to_py)
}

struct Compile {
    inputs: Option<Py<PyAny>>,
    outputs: Option<Py<PyAny>>,
    shapeless: bool,
    traces: PyTraces,
    structures: Arc<Structures>,
}

/// What the function returned while it was traced, with marks for arrays. The traces are C++'s, but
/// these are kept here, where Python's garbage collector sees them.
#[derive(Default)]
struct Structures {
    by_trace: Mutex<HashMap<usize, Py<PyAny>>>,
    next: AtomicUsize,
}

impl Structures {
    fn add(this: &Arc<Self>, structure: Py<PyAny>, num_arrays: usize) -> Returned {
        let number = this.next.fetch_add(1, Ordering::Relaxed);
        this.by_trace.lock().unwrap_or_else(PoisonError::into_inner).insert(number, structure);
        Returned { structures: this.clone(), number, num_arrays }
    }
}

/// What a trace keeps of what the function returned.
struct Returned {
    structures: Arc<Structures>,
    number: usize,
    num_arrays: usize,
}

impl Returned {
    fn structure<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let by_trace = self.structures.by_trace.lock().unwrap_or_else(PoisonError::into_inner);
        let structure = by_trace.get(&self.number).map(|structure| structure.bind(py).clone());
        structure.ok_or_else(|| PyRuntimeError::new_err("the trace of a compiled function is gone"))
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        let mut by_trace = self.structures.by_trace.lock().unwrap_or_else(PoisonError::into_inner);
        let structure = by_trace.remove(&self.number);
        // Freeing it may run Python code, which may come back here.
        drop(by_trace);
        drop(structure.map(Held::new));
    }
}

impl Transformation for Compile {
    fn call<'py>(
        &self,
        fun: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = fun.py();
        let mut key = Key::default();
        key.add(args)?;
        key.add(kwargs)?;
        let Key { mut arrays, constants } = key;
        let num_inputs = arrays.len();
        if let Some(inputs) = &self.inputs {
            arrays.extend(trees::flatten(inputs.bind(py), false)?);
        }

        let trace = Trace {
            fun: fun.clone().unbind(),
            args: args.clone().unbind(),
            kwargs: kwargs.clone().unbind(),
            num_inputs,
            inputs: self.inputs.as_ref().map(|tree| tree.clone_ref(py)),
            outputs: self.outputs.as_ref().map(|tree| tree.clone_ref(py)),
        };
        let structures = self.structures.clone();
        let traced = move |tracers: &[Array]| {
            Python::attach(|py| {
                let (arrays, structure, num_arrays) = trace.run(py, tracers)?;
                Ok((arrays, Structures::add(&structures, structure, num_arrays)))
            })
            .map_err(closure_error)
        };
        let (mut values, returned) =
            self.traces.call(traced, &arrays, self.shapeless, &constants).map_err(to_py)?;

        let captures = values.split_off(returned.num_arrays.min(values.len()));
        if let Some(outputs) = &self.outputs {
            trees::fill(outputs.bind(py), &mut captures.into_iter())?;
        }
        trees::from_structure(&returned.structure(py)?, &mut values.into_iter())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.inputs)?;
        visit.call(&self.outputs)?;
        // Locked only while a structure goes in or out; the collector then comes back later.
        if let Ok(by_trace) = self.structures.by_trace.try_lock() {
            by_trace.values().try_for_each(|structure| visit.call(structure))?;
        }
        Ok(())
    }
}

/// What tells a call from others: arrays by shape and dtype, everything else by value.
#[derive(Default)]
struct Key {
    arrays: Vec<Array>,
    constants: Vec<u64>,
}

impl Key {
    fn add(&mut self, object: &Bound<'_, PyAny>) -> PyResult<()> {
        // The first number of each kind tells it from the others.
        if let Some(array) = array_of(object) {
            self.arrays.push(array);
            self.constants.push(0);
        } else if let Ok(list) = object.cast::<PyList>() {
            self.constants.extend([1, list.len() as u64]);
            list.iter().try_for_each(|item| self.add(&item))?;
        } else if let Ok(tuple) = object.cast::<PyTuple>() {
            self.constants.extend([2, tuple.len() as u64]);
            tuple.iter_borrowed().try_for_each(|item| self.add(&item))?;
        } else if let Ok(dict) = object.cast::<PyDict>() {
            self.constants.extend([3, dict.len() as u64]);
            for (name, item) in dict {
                self.constants.push(name.hash()? as u64);
                self.add(&item)?;
            }
        } else if let Ok(text) = object.cast::<PyString>() {
            self.constants.extend([4, text.hash()? as u64]);
        } else if object.is_instance_of::<PyInt>() {
            let value: i64 =
                object.extract().map_err(|_| PyRuntimeError::new_err("std::bad_cast"))?;
            self.constants.extend([5, value as u64]);
        } else if object.is_instance_of::<PyFloat>() {
            self.constants.extend([6, object.extract::<f64>()?.to_bits()]);
        } else if object.is_none() {
            self.constants.push(7);
        } else {
            return Err(PyValueError::new_err(format!(
                "[compile] Function arguments must be trees of arrays or constants (floats, ints, \
                 strings, or None), but received type {}.",
                type_name(object)?
            )));
        }
        Ok(())
    }
}

/// A call to be traced.
struct Trace {
    fun: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Py<PyDict>,
    num_inputs: usize,
    inputs: Option<Py<PyAny>>,
    outputs: Option<Py<PyAny>>,
}

impl Trace {
    /// Runs the function with tracers: its arrays, captured ones last, the structure of what it
    /// returned and how many arrays of it there are. The captured trees are restored.
    fn run(&self, py: Python<'_>, tracers: &[Array]) -> PyResult<(Vec<Array>, Py<PyAny>, usize)> {
        let inputs = self.inputs.as_ref().map(|tree| tree.bind(py));
        let outputs = self.outputs.as_ref().map(|tree| tree.bind(py));
        let mut before = Snapshot::default();
        [inputs, outputs].into_iter().flatten().try_for_each(|tree| before.add(tree))?;
        let result = self.run_in(py, inputs, outputs, tracers);
        if result.is_err() {
            before.restore()?;
        }
        result
    }

    fn run_in<'py>(
        &self,
        py: Python<'py>,
        inputs: Option<&Bound<'py, PyAny>>,
        outputs: Option<&Bound<'py, PyAny>>,
        tracers: &[Array],
    ) -> PyResult<(Vec<Array>, Py<PyAny>, usize)> {
        let (own, captured) = tracers.split_at(self.num_inputs);
        let mut originals = HashMap::new();
        if let Some(inputs) = inputs {
            let mut tracers = captured.iter();
            trees::update(inputs, &mut |_, object| {
                let tracer = tracers.next().ok_or_else(trees::changed)?;
                originals.insert(tracer.id(), object.clone());
                Out(tracer.clone()).into_pyobject(py)
            })?;
        }

        let mut own = own.iter().cloned();
        let args = trees::unflatten(self.args.bind(py), &mut own)?.cast_into::<PyTuple>()?;
        let kwargs = trees::unflatten(self.kwargs.bind(py), &mut own)?.cast_into::<PyDict>()?;
        let returned = self.fun.bind(py).call(args, Some(&kwargs))?;
        let (mut arrays, structure) = trees::structure(&returned, false)?;
        let num_arrays = arrays.len();
        if let Some(outputs) = outputs {
            arrays.extend(trees::flatten(outputs, false)?);
        }

        // What the function wrote stays; the caller replaces it by what is computed.
        if let Some(inputs) = inputs {
            trees::update(inputs, &mut |array, object| {
                Ok(originals.get(&array.id()).unwrap_or(object).clone())
            })?;
        }
        Ok((arrays, structure.unbind(), num_arrays))
    }
}
