//! Errors as the Python exceptions that `mlx.core` and `mlx_lm` users expect.

use graft_lm::ErrorKind;
use pyo3::PyErr;
use pyo3::exceptions::{
    PyFileNotFoundError, PyFloatingPointError, PyKeyboardInterrupt, PyMemoryError,
    PyNotImplementedError, PyOSError, PyRuntimeError, PyValueError,
};

/// The exception for a failure of MLX; one that passed through from Python comes out as itself.
#[cold]
pub(crate) fn to_py(error: mlx_graft::Error) -> PyErr {
    lm_to_py(error.into())
}

/// The exception for a failure of loading, training or generating.
pub(crate) fn lm_to_py(error: graft_lm::Error) -> PyErr {
    let kind = error.kind();
    let message = match error {
        graft_lm::Error::Mlx(error) => return mlx_graft_pyo3::Error::from(error).into(),
        error => error.to_string(),
    };
    match kind {
        ErrorKind::Value => PyValueError::new_err(message),
        ErrorKind::FileNotFound => PyFileNotFoundError::new_err(message),
        ErrorKind::Os => PyOSError::new_err(message),
        ErrorKind::Memory => PyMemoryError::new_err(message),
        ErrorKind::NotImplemented => PyNotImplementedError::new_err(message),
        ErrorKind::FloatingPoint => PyFloatingPointError::new_err(message),
        ErrorKind::Interrupt => PyKeyboardInterrupt::new_err(message),
        _ => PyRuntimeError::new_err(message),
    }
}
