//! Memory: what is used, and limits.

use mlx_graft::memory;
use pyo3::prelude::*;

use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(get_active_memory, module)?)?;
    module.add_function(wrap_pyfunction!(get_peak_memory, module)?)?;
    module.add_function(wrap_pyfunction!(get_cache_memory, module)?)?;
    module.add_function(wrap_pyfunction!(reset_peak_memory, module)?)?;
    module.add_function(wrap_pyfunction!(set_memory_limit, module)?)?;
    module.add_function(wrap_pyfunction!(set_cache_limit, module)?)?;
    module.add_function(wrap_pyfunction!(set_wired_limit, module)?)?;
    module.add_function(wrap_pyfunction!(clear_cache, module)?)
}

/// Bytes in use by arrays.
#[pyfunction]
fn get_active_memory() -> PyResult<usize> {
    memory::active().map_err(to_py)
}

/// The most bytes in use by arrays since the start or since `reset_peak_memory`.
#[pyfunction]
fn get_peak_memory() -> PyResult<usize> {
    memory::peak().map_err(to_py)
}

/// Bytes kept for reuse.
#[pyfunction]
fn get_cache_memory() -> PyResult<usize> {
    memory::cache().map_err(to_py)
}

/// Starts the peak anew.
#[pyfunction]
fn reset_peak_memory() -> PyResult<()> {
    memory::reset_peak().map_err(to_py)
}

/// Sets the memory limit in bytes, a guideline for the allocator; returns the previous one.
#[pyfunction]
fn set_memory_limit(limit: usize) -> PyResult<usize> {
    memory::set_memory_limit(limit).map_err(to_py)
}

/// Sets how many bytes are kept for reuse at most; returns the previous limit.
#[pyfunction]
fn set_cache_limit(limit: usize) -> PyResult<usize> {
    memory::set_cache_limit(limit).map_err(to_py)
}

/// Sets how many bytes stay resident on a GPU at most; returns the previous limit.
#[pyfunction]
fn set_wired_limit(limit: usize) -> PyResult<usize> {
    memory::set_wired_limit(limit).map_err(to_py)
}

/// Gives the memory kept for reuse back to the system.
#[pyfunction]
fn clear_cache() -> PyResult<()> {
    memory::clear_cache().map_err(to_py)
}
