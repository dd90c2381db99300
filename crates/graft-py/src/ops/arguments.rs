//! Python arguments as operations take them.

use mlx_graft::Dtype;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::bridge::In;
use crate::error::to_py;

/// One axis or several.
pub(super) enum Axes {
    /// An integer.
    One(i32),
    /// A sequence of integers.
    Many(Vec<i32>),
}

impl<'py> FromPyObject<'_, 'py> for Axes {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(axis) = object.extract() {
            return Ok(Self::One(axis));
        }
        object
            .extract()
            .map(Self::Many)
            .map_err(|_| wanted("an integer or a sequence of them", object))
    }
}

/// A sequence of integers; one integer counts as a sequence of one.
pub(super) struct Ints(pub(super) Vec<i32>);

impl<'py> FromPyObject<'_, 'py> for Ints {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(match object.extract()? {
            Axes::One(value) => vec![value],
            Axes::Many(values) => values,
        }))
    }
}

/// A `mlx.core.Dtype`.
#[derive(Clone, Copy)]
pub(super) struct DtypeArg(pub(super) Dtype);

impl<'py> FromPyObject<'_, 'py> for DtypeArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        // MLX prints a dtype as `mlx.core.float32`, and the boolean one as `mlx.core.bool`.
        let text = object.str()?;
        let name = text.to_str()?.strip_prefix("mlx.core.");
        let found = Dtype::ALL
            .iter()
            .copied()
            .find(|dtype| name.is_some_and(|name| name == dtype.name().trim_end_matches('_')));
        found.map(Self).ok_or_else(|| wanted("an mlx.core.Dtype", object))
    }
}

/// All positional arguments as arrays.
pub(super) fn inputs(arguments: &Bound<'_, PyTuple>) -> PyResult<Vec<In>> {
    arguments.iter().map(|argument| argument.extract()).collect()
}

/// Runs an operation on a stream of Python's, or on the one in scope.
pub(super) fn run<T>(
    stream: Option<&Bound<'_, PyAny>>,
    f: impl FnOnce() -> mlx_graft::Result<T>,
) -> PyResult<T> {
    let scope = stream.map(Scope::enter).transpose()?;
    let result = f().map_err(to_py);
    drop(scope);
    result
}

/// An entered `with mlx.core.stream(…)`, which is left when dropped.
struct Scope<'py>(Bound<'py, PyAny>);

impl<'py> Scope<'py> {
    fn enter(stream: &Bound<'py, PyAny>) -> PyResult<Self> {
        let scope = stream.py().import("mlx.core")?.call_method1("stream", (stream,))?;
        scope.call_method0("__enter__")?;
        Ok(Self(scope))
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let py = self.0.py();
        // Leaving restores the former stream, which existed when the scope was entered.
        if let Err(error) = self.0.call_method1("__exit__", (py.None(), py.None(), py.None())) {
            error.write_unraisable(py, Some(&self.0));
        }
    }
}

fn wanted(what: &str, found: Borrowed<'_, '_, PyAny>) -> PyErr {
    let ty = found.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    PyTypeError::new_err(format!("expected {what}, not {ty}"))
}
