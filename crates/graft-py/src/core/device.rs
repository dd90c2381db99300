//! Devices.

use mlx_graft::DeviceValue;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bridge::{DeviceIn, DeviceOut, DeviceTypeIn};
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(default_device, module)?)?;
    module.add_function(wrap_pyfunction!(set_default_device, module)?)?;
    module.add_function(wrap_pyfunction!(is_available, module)?)?;
    module.add_function(wrap_pyfunction!(device_count, module)?)?;
    module.add_function(wrap_pyfunction!(device_info, module)?)
}

/// The device on which operations run when nothing says otherwise.
#[pyfunction]
fn default_device() -> PyResult<DeviceOut> {
    mlx_graft::Device::default_device().map(DeviceOut).map_err(to_py)
}

/// Sets the device on which operations run when nothing says otherwise.
#[pyfunction]
fn set_default_device(device: DeviceIn) -> PyResult<()> {
    device.0.set_default().map_err(to_py)
}

/// Whether a device exists on this machine.
#[pyfunction]
fn is_available(device: DeviceIn) -> PyResult<bool> {
    device.0.is_available().map_err(to_py)
}

/// How many devices of a kind there are.
#[pyfunction]
fn device_count(device_type: DeviceTypeIn) -> PyResult<usize> {
    device_type.0.count().map_err(to_py)
}

/// The properties of a device, the default one if none is given: names such as `device_name`, with
/// texts and numbers. Empty for a device that does not exist.
#[pyfunction]
#[pyo3(signature = (d=None))]
pub(super) fn device_info(py: Python<'_>, d: Option<DeviceIn>) -> PyResult<Bound<'_, PyDict>> {
    let device = match d {
        Some(device) => device.0,
        None => mlx_graft::Device::default_device().map_err(to_py)?,
    };
    let info = device.info().map_err(to_py)?;
    let dict = PyDict::new(py);
    for key in info.keys().map_err(to_py)? {
        match info.get(&key).map_err(to_py)? {
            Some(DeviceValue::Text(text)) => dict.set_item(key, text)?,
            Some(DeviceValue::Number(number)) => dict.set_item(key, number)?,
            None => {}
        }
    }
    Ok(dict)
}
