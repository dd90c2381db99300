//! Vectorisation of Python functions.

use std::cell::RefCell;
use std::rc::Rc;

use mlx_graft::{Array, transforms};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyTuple};

use super::autodiff::closure_error;
use super::transformed::{Callable, Transformation, Transformed};
use super::trees;
use crate::bridge::{array_of, is_array};
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(vmap, module)?)
}

/// Axes as Python gives them.
enum Axes {
    /// The first one everywhere.
    First,
    /// A tree that stands for the upper part of another one.
    Prefix(Py<PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Axes {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Err(PyTypeError::new_err("the axes of vmap are an integer or a tree of them"));
        }
        Ok(Self::Prefix(object.to_owned().unbind()))
    }
}

/// A function that calls `fun`, written for single items, on whole batches at once.
///
/// `in_axes` and `out_axes` say which axis numbers the items: an integer, or a tree that is a
/// prefix of the arguments or of what `fun` returns, with `None` for what all items share.
#[pyfunction]
#[pyo3(signature = (fun, in_axes=Axes::First, out_axes=Axes::First), text_signature = "(fun, in_axes=0, out_axes=0)")]
fn vmap(fun: Callable, in_axes: Axes, out_axes: Axes) -> Transformed {
    Transformed::new(fun, Vmap { in_axes, out_axes })
}

struct Vmap {
    in_axes: Axes,
    out_axes: Axes,
}

impl Transformation for Vmap {
    fn call<'py>(
        &self,
        fun: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = fun.py();
        if !kwargs.is_empty() {
            return Err(PyTypeError::new_err(
                "a function from vmap takes positional arguments only",
            ));
        }
        let inputs = trees::flatten(args, true)?;
        let tree = if args.len() == 1 { args.get_item(0)? } else { args.clone().into_any() };
        let in_axes = self.in_axes.flat(&tree, false)?;

        let returned = Rc::new(RefCell::new(None::<Py<PyAny>>));
        let (own, fun, args) = (returned.clone(), fun.clone().unbind(), args.clone().unbind());
        let traced = move |tracers: &[Array]| {
            Python::attach(|py| {
                let args = trees::unflatten(args.bind(py), &mut tracers.iter().cloned())?;
                let outputs = fun.bind(py).call1(args.cast_into::<PyTuple>()?)?;
                let arrays = trees::flatten(&outputs, true)?;
                *own.borrow_mut() = Some(outputs.unbind());
                Ok(arrays)
            })
            .map_err(closure_error)
        };
        let out_axes = |_: &[Array]| match &*returned.borrow() {
            Some(outputs) => self.out_axes.flat(outputs.bind(py), true).map_err(closure_error),
            None => Ok(Vec::new()),
        };
        let arrays = transforms::vmap_with(traced, &inputs, &in_axes, out_axes).map_err(to_py)?;
        let outputs = returned.take().unwrap_or_else(|| py.None());
        trees::unflatten(outputs.bind(py), &mut arrays.into_iter())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for axes in [&self.in_axes, &self.out_axes] {
            if let Axes::Prefix(axes) = axes {
                visit.call(axes)?;
            }
        }
        Ok(())
    }
}

impl Axes {
    /// The axis of each array of a tree; of an output, in the result, which has one dimension more.
    fn flat(&self, tree: &Bound<'_, PyAny>, output: bool) -> PyResult<Vec<Option<i32>>> {
        let mut flat = Vec::new();
        let mut in_tuple = false;
        let first = 0_i32.into_pyobject(tree.py())?.into_any();
        let prefix = match self {
            Self::First => &first,
            Self::Prefix(prefix) => prefix.bind(tree.py()),
        };
        trees::visit_with_prefix(tree, prefix, &mut |leaf, axis| {
            let Some(array) = array_of(leaf) else {
                return Err(PyValueError::new_err(
                    "[vmap] The arguments should contain only arrays",
                ));
            };
            let axis = match axis.cast::<PyTuple>() {
                // The axis of a function's only argument may be in a tuple.
                Ok(one) => {
                    in_tuple = true;
                    one.get_item(0).ok().filter(|_| one.len() == 1).ok_or_else(not_an_axis)?
                }
                Err(_) => axis.clone(),
            };
            if axis.is_none() {
                flat.push(None);
            } else if axis.is_instance_of::<PyInt>() {
                flat.push(Some(in_range(axis.extract()?, &array, output)?));
            } else {
                return Err(not_an_axis());
            }
            Ok(())
        })?;
        if in_tuple && !is_array(tree) {
            return Err(not_an_axis());
        }
        Ok(flat)
    }
}

fn not_an_axis() -> PyErr {
    PyValueError::new_err("[vmap] axis must be int or None.")
}

fn in_range(axis: i32, array: &Array, output: bool) -> PyResult<i32> {
    let ndim = array.ndim() as i32 + i32::from(output);
    let counted = if axis < 0 { axis.saturating_add(ndim) } else { axis };
    if (0..ndim).contains(&counted) {
        return Ok(counted);
    }
    let shape: Vec<String> = array.shape().iter().map(i32::to_string).collect();
    Err(PyValueError::new_err(format!(
        "[vmap] Invalid{} vectorization axis {counted} for array with shape ({})",
        if output { " output" } else { "" },
        shape.join(",")
    )))
}
