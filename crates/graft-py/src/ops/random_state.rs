//! The state of `mlx.core.random`: the key that draws without a key of their own start from.
//!
//! MLX keeps it in a Python list of one key for each thread. `mlx.core.random.state` gives a view of
//! the list, and `mlx.core.compile` takes and sets the key in it. So both sides draw from one
//! sequence, and a compiled function that captures the state captures ours.

use std::cell::RefCell;

use mlx_graft::{Array, random};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyType};

use crate::bridge::{In, Out, references};
use crate::error::to_py;

thread_local! {
    /// MLX's list of this thread.
    static LIST: RefCell<Option<Py<PyList>>> = const { RefCell::new(None) };
}

/// The given key, or the next one of the state.
pub(crate) fn next_key(py: Python<'_>, given: Option<In>) -> PyResult<Array> {
    if let Some(key) = given {
        return Ok(key.into_array());
    }
    let list = list(py)?;
    let current: In = list.get_item(0)?.extract()?;
    let (next, key) = random::split(&current).map_err(to_py)?;
    list.set_item(0, Out(next))?;
    Ok(key)
}

/// Starts the state from a seed.
pub(super) fn seed(py: Python<'_>, seed: u64) -> PyResult<()> {
    set_key(py, random::key(seed).map_err(to_py)?)
}

/// Whether an object is `mlx.core.random.state`, the view of the state.
pub(crate) fn is_state(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let ty = TYPE.import(object.py(), "mlx.core.random", "_RandomState")?;
    Ok(object.get_type().is(ty))
}

/// The key of this thread.
pub(crate) fn key(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    list(py)?.get_item(0)
}

/// Sets the key of this thread.
pub(crate) fn set_key(py: Python<'_>, key: Array) -> PyResult<()> {
    list(py)?.set_item(0, Out(key))
}

/// The list that holds this thread's key.
fn list(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    // `mlx.core.clear_streams` makes MLX let go of its list, and start another at the next draw.
    // Then only this thread-local reference to it is left.
    let kept = LIST.with_borrow(|list| {
        let list = list.as_ref()?.bind(py);
        (references(list) > 1).then(|| list.clone())
    });
    if let Some(list) = kept {
        return Ok(list);
    }
    // An iterator over the state is one over the list, and tells it for being pickled:
    // `(iter, (list,), 0)`.
    let state = py.import("mlx.core")?.getattr("random")?.getattr("state")?;
    let parts = state.try_iter()?.call_method0("__reduce__")?;
    let list = parts.get_item(1)?.get_item(0)?.cast_into::<PyList>()?;
    LIST.set(Some(list.clone().unbind()));
    Ok(list)
}
