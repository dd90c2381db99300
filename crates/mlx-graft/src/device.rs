//! Devices.
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::null_mut;

use crate::{Result, call, sys};

/// The kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceType {
    /// The processor.
    Cpu,
    /// A Metal or CUDA device.
    Gpu,
}

/// A device: a kind and a number.
///
/// ```
/// use mlx_graft::{Device, DeviceType};
///
/// assert!(Device::cpu().is_available()?);
/// assert_eq!(Device::cpu().kind, DeviceType::Cpu);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// The kind.
    pub kind: DeviceType,
    /// The number among devices of the kind.
    pub index: i32,
}

impl Device {
    /// The processor.
    pub fn cpu() -> Self {
        Self { kind: DeviceType::Cpu, index: 0 }
    }

    /// The first GPU, whether there is one or not: see [`Device::is_available`].
    pub fn gpu() -> Self {
        Self { kind: DeviceType::Gpu, index: 0 }
    }

    /// The device on which operations run when no scope says otherwise.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn default_device() -> Result<Self> {
        let mut device = RawDevice::null();
        call::status("default_device", || {
            // SAFETY: the call fills a null handle, which the wrapper frees.
            unsafe { sys::mlx_get_default_device(&raw mut device.0) }
        })?;
        device.describe()
    }

    /// Whether the device exists on this machine.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn is_available(self) -> Result<bool> {
        let raw = self.to_raw();
        let mut res = false;
        call::status("device_is_available", || {
            // SAFETY: the handle is live.
            unsafe { sys::mlx_device_is_available(&raw mut res, raw.0) }
        })?;
        Ok(res)
    }

    pub(crate) fn to_raw(self) -> RawDevice {
        call::ready();
        let kind = match self.kind {
            DeviceType::Cpu => sys::MLX_CPU,
            DeviceType::Gpu => sys::MLX_GPU,
        };
        // SAFETY: makes a handle, which the wrapper frees.
        RawDevice(unsafe { sys::mlx_device_new_type(kind, self.index) })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceType::Cpu => "cpu",
            DeviceType::Gpu => "gpu",
        };
        write!(f, "{kind}:{}", self.index)
    }
}

/// The RAII handle of a device.
pub(crate) struct RawDevice(pub(crate) sys::mlx_device);

impl RawDevice {
    pub(crate) fn null() -> Self {
        Self(sys::mlx_device { ctx: null_mut() })
    }

    pub(crate) fn describe(&self) -> Result<Device> {
        let (mut kind, mut index) = (sys::MLX_CPU, 0);
        call::status("device", || {
            // SAFETY: the handle is live, and both results are plain integers.
            unsafe {
                sys::mlx_device_get_type(&raw mut kind, self.0)
                    | sys::mlx_device_get_index(&raw mut index, self.0)
            }
        })?;
        let kind = if kind == sys::MLX_GPU { DeviceType::Gpu } else { DeviceType::Cpu };
        Ok(Device { kind, index })
    }
}

impl Drop for RawDevice {
    fn drop(&mut self) {
        if !self.0.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_device_free(self.0) };
        }
    }
}
