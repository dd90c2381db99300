//! Failures as the Python exceptions that `mlx.core` raises.

use mlx_graft::ErrorKind;
use pyo3::PyErr;
use pyo3::exceptions::{
    PyIndexError, PyMemoryError, PyOverflowError, PyRuntimeError, PyValueError,
};

/// A failure on its way to Python: `?` makes it of an [`mlx_graft::Error`] and of a [`PyErr`].
///
/// That of MLX becomes the exception that `mlx.core` raises for it: `ValueError`, `IndexError`,
/// `OverflowError`, `MemoryError`, and `RuntimeError` for all other. A Python exception that passed
/// through MLX, from a callback, comes out as itself.
///
/// ```no_run
/// use mlx_graft::ops;
/// use mlx_graft_pyo3::{ArrayIn, ArrayOut, Result};
/// use pyo3::prelude::*;
///
/// /// Calls a Python function with the exponential of `x`.
/// #[pyfunction]
/// fn apply_to_exp(f: Bound<'_, PyAny>, x: ArrayIn) -> Result<Py<PyAny>> {
///     Ok(f.call1((ArrayOut(ops::exp(&x)?),))?.unbind())
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(PyErr);

/// The result of a function for Python, whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<PyErr> for Error {
    fn from(error: PyErr) -> Self {
        Self(error)
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl From<mlx_graft::Error> for Error {
    fn from(error: mlx_graft::Error) -> Self {
        let (kind, message) = (error.kind(), error.to_string());
        if let mlx_graft::Error::Closure(inner) = error
            && let Ok(own) = inner.downcast::<PyErr>()
        {
            return Self(*own);
        }
        Self(match kind {
            ErrorKind::InvalidArgument => PyValueError::new_err(message),
            ErrorKind::OutOfRange => PyIndexError::new_err(message),
            ErrorKind::Overflow => PyOverflowError::new_err(message),
            ErrorKind::OutOfMemory => PyMemoryError::new_err(message),
            _ => PyRuntimeError::new_err(message),
        })
    }
}
