//! Work that Ctrl-C ends.

use pyo3::prelude::*;

use crate::bridge::without_gil;
use crate::error::lm_to_py;

/// Does work without the GIL. It is given what says whether to stop: whether a handler of Python's
/// signals raised an exception, which then comes out as itself.
pub(crate) fn watched<T>(
    py: Python<'_>,
    work: impl FnOnce(&mut dyn FnMut() -> bool) -> graft_lm::Result<T>,
) -> PyResult<T> {
    let mut raised = None;
    let done = without_gil(py, || {
        work(&mut || {
            if raised.is_none() {
                raised = Python::attach(|py| py.check_signals().err());
            }
            raised.is_some()
        })
    });
    raised.map_or_else(|| done.map_err(lm_to_py), Err)
}
