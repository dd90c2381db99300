//! Trees of arrays as nested dicts and lists, as `mlx.nn.Module.parameters` gives them.

use mlx_graft::{Array, Tree};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::bridge::{In, Out};
use crate::error::to_py;

/// Named arrays as nested dicts and lists of `mlx.core.array`.
pub(crate) fn nested(
    py: Python<'_>,
    leaves: impl IntoIterator<Item = (String, Array)>,
) -> PyResult<Bound<'_, PyAny>> {
    to_object(py, Tree::unflatten(leaves).map_err(to_py)?)
}

fn to_object(py: Python<'_>, tree: Tree) -> PyResult<Bound<'_, PyAny>> {
    match tree {
        Tree::Array(array) => Out(array).into_pyobject(py),
        Tree::List(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(to_object(py, item)?)?;
            }
            Ok(list.into_any())
        }
        Tree::Map(items) => {
            let dict = PyDict::new(py);
            for (key, item) in items {
                dict.set_item(key, to_object(py, item)?)?;
            }
            Ok(dict.into_any())
        }
    }
}

/// The arrays of nested dicts, lists and tuples, with their paths. Empty dicts and lists have none.
pub(crate) fn flat(object: &Bound<'_, PyAny>) -> PyResult<Vec<(String, Array)>> {
    let mut out = Vec::new();
    collect(object, String::new(), &mut out)?;
    Ok(out)
}

fn collect(
    object: &Bound<'_, PyAny>,
    path: String,
    out: &mut Vec<(String, Array)>,
) -> PyResult<()> {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    if let Ok(dict) = object.cast::<PyDict>() {
        for (key, item) in dict {
            collect(&item, below(&key.str()?.to_string_lossy()), out)?;
        }
    } else if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        for (i, item) in object.try_iter()?.enumerate() {
            collect(&item?, below(&i.to_string()), out)?;
        }
    } else {
        let array: In = object.extract().map_err(|_| {
            let found = object.get_type().name().map_or_else(|_| "?".into(), |n| n.to_string());
            PyTypeError::new_err(format!("{path:?} is a {found}, not an mlx.core.array"))
        })?;
        out.push((path, array.into_array()));
    }
    Ok(())
}
