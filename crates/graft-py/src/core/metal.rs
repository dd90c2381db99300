//! Metal.

use std::sync::Once;

use mlx_graft::{Device, memory, metal};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::device;
use crate::bridge::DeviceIn;
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(is_available, module)?)?;
    module.add_function(wrap_pyfunction!(start_capture, module)?)?;
    module.add_function(wrap_pyfunction!(stop_capture, module)?)?;
    module.add_function(wrap_pyfunction!(device_info, module)?)?;
    module.add_function(wrap_pyfunction!(get_active_memory, module)?)?;
    module.add_function(wrap_pyfunction!(get_peak_memory, module)?)?;
    module.add_function(wrap_pyfunction!(get_cache_memory, module)?)?;
    module.add_function(wrap_pyfunction!(reset_peak_memory, module)?)?;
    module.add_function(wrap_pyfunction!(set_memory_limit, module)?)?;
    module.add_function(wrap_pyfunction!(set_cache_limit, module)?)?;
    module.add_function(wrap_pyfunction!(set_wired_limit, module)?)?;
    module.add_function(wrap_pyfunction!(clear_cache, module)?)
}

/// Whether MLX has Metal and finds a device.
#[pyfunction]
fn is_available() -> PyResult<bool> {
    metal::is_available().map_err(to_py)
}

/// Starts to capture what runs on the GPU into a `.gputrace` file. Nothing happens without Metal.
#[pyfunction]
fn start_capture(path: &str) -> PyResult<()> {
    if is_available()? { metal::start_capture(path).map_err(to_py) } else { Ok(()) }
}

/// Ends the capture. Nothing happens without Metal.
#[pyfunction]
fn stop_capture() -> PyResult<()> {
    if is_available()? { metal::stop_capture().map_err(to_py) } else { Ok(()) }
}

/// Says once that a function has moved, where `mlx.core` says it.
macro_rules! deprecated {
    ($name:literal) => {{
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            eprintln!(
                "mx.metal.{0} is deprecated and will be removed in a future version. Use mx.{0} \
                 instead.",
                $name
            );
        });
    }};
}

/// `mlx_graft.core.device_info` of the GPU, under its former name.
#[pyfunction]
fn device_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    deprecated!("device_info");
    device::device_info(py, Some(DeviceIn(Device::gpu())))
}

/// `mlx_graft.core.get_active_memory`, under its former name.
#[pyfunction]
fn get_active_memory() -> PyResult<usize> {
    deprecated!("get_active_memory");
    memory::active().map_err(to_py)
}

/// `mlx_graft.core.get_peak_memory`, under its former name.
#[pyfunction]
fn get_peak_memory() -> PyResult<usize> {
    deprecated!("get_peak_memory");
    memory::peak().map_err(to_py)
}

/// `mlx_graft.core.get_cache_memory`, under its former name.
#[pyfunction]
fn get_cache_memory() -> PyResult<usize> {
    deprecated!("get_cache_memory");
    memory::cache().map_err(to_py)
}

/// `mlx_graft.core.reset_peak_memory`, under its former name.
#[pyfunction]
fn reset_peak_memory() -> PyResult<()> {
    deprecated!("reset_peak_memory");
    memory::reset_peak().map_err(to_py)
}

/// `mlx_graft.core.set_memory_limit`, under its former name.
#[pyfunction]
fn set_memory_limit(limit: usize) -> PyResult<usize> {
    deprecated!("set_memory_limit");
    memory::set_memory_limit(limit).map_err(to_py)
}

/// `mlx_graft.core.set_cache_limit`, under its former name.
#[pyfunction]
fn set_cache_limit(limit: usize) -> PyResult<usize> {
    deprecated!("set_cache_limit");
    memory::set_cache_limit(limit).map_err(to_py)
}

/// `mlx_graft.core.set_wired_limit`, under its former name.
#[pyfunction]
fn set_wired_limit(limit: usize) -> PyResult<usize> {
    deprecated!("set_wired_limit");
    memory::set_wired_limit(limit).map_err(to_py)
}

/// `mlx_graft.core.clear_cache`, under its former name.
#[pyfunction]
fn clear_cache() -> PyResult<()> {
    deprecated!("clear_cache");
    memory::clear_cache().map_err(to_py)
}
