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
        // With a number, Python makes it a `PermissionError` or what else fits.
        graft_lm::Error::Io { path, source } if source.raw_os_error().is_some() => {
            let text = source.to_string();
            let reason = text.split(" (os error").next().unwrap_or(&text).to_owned();
            return PyOSError::new_err((source.raw_os_error(), reason, path.into_os_string()));
        }
        error => with_keywords(&error.to_string()),
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

/// A message with the names of keyword arguments for the flags of the command, `batch_size` for
/// `--batch-size`: graft-lm names an option as the command line does.
fn with_keywords(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find("--") {
        let (before, flag) = rest.split_at(at);
        let flag = &flag[2..];
        text += before;
        let length = flag
            .find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))
            .unwrap_or(flag.len());
        // Folders of the hub's cache have two dashes within a word.
        let begins =
            text.chars().next_back().is_none_or(|c| c.is_whitespace() || "`('\"".contains(c));
        if begins && flag.starts_with(|c: char| c.is_ascii_lowercase()) {
            text += &flag[..length].replace('-', "_");
        } else {
            text += "--";
            text += &flag[..length];
        }
        rest = &flag[length..];
    }
    text + rest
}
