//! CUDA.

use pyo3::prelude::*;

use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(is_available, module)?)
}

/// Whether MLX has CUDA and finds a device.
#[pyfunction]
fn is_available() -> PyResult<bool> {
    mlx_graft::cuda::is_available().map_err(to_py)
}
