//! Devices.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::ptr::null;

use crate::containers::VectorString;
use crate::handles::Live;
use crate::{Error, Result, call, stream, sys};

/// The kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceType {
    /// The processor.
    Cpu,
    /// A Metal or CUDA device.
    Gpu,
}

impl DeviceType {
    /// How many devices of this kind there are.
    ///
    /// # Errors
    /// What MLX reports.
    ///
    /// ```
    /// use mlx_graft::DeviceType;
    ///
    /// assert_eq!(DeviceType::Cpu.count()?, 1);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn count(self) -> Result<usize> {
        let mut res = 0;
        call::status("device_count", || {
            // SAFETY: writes one integer.
            unsafe { sys::mlx_device_count(&raw mut res, self.as_raw()) }
        })?;
        Ok(usize::try_from(res).unwrap_or(0))
    }

    fn as_raw(self) -> sys::mlx_device_type {
        match self {
            Self::Cpu => sys::MLX_CPU,
            Self::Gpu => sys::MLX_GPU,
        }
    }
}

/// A device: a kind and a number. Displayed as MLX does, `Device(cpu, 0)`.
///
/// ```
/// use mlx_graft::{Device, DeviceType};
///
/// assert!(Device::cpu().is_available()?);
/// assert_eq!(Device::cpu().kind, DeviceType::Cpu);
/// assert_eq!(Device::gpu().to_string(), "Device(gpu, 0)");
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

    /// The device on which operations run when no scope says otherwise, of the whole process.
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

    /// Makes this the default device of the whole process; [`with_device`](crate::with_device)
    /// does it for a scope. Inside of such a scope it counts until that ends. MLX has no lock for
    /// it: set it before other threads use MLX.
    ///
    /// # Errors
    /// There is no such device.
    ///
    /// ```
    /// use mlx_graft::Device;
    ///
    /// let device = Device::default_device()?;
    /// device.set_default()?;
    /// assert_eq!(Device::default_device()?, device);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn set_default(self) -> Result<()> {
        self.set_of_process()?;
        stream::replace_device(&self.to_raw())
    }

    /// [`Device::set_default`] for MLX alone, not for the scope of this thread.
    pub(crate) fn set_of_process(self) -> Result<()> {
        let raw = self.to_raw();
        // SAFETY: the handle is live.
        call::status("set_default_device", || unsafe { sys::mlx_set_default_device(raw.0) })
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

    /// What is known about the device; nothing if there is none.
    ///
    /// # Errors
    /// What MLX reports.
    ///
    /// ```
    /// use mlx_graft::{Device, DeviceValue};
    ///
    /// let info = Device::cpu().info()?;
    /// assert!(matches!(info.get("device_name")?, Some(DeviceValue::Text(_))));
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn info(self) -> Result<DeviceInfo> {
        DeviceInfo::of(self)
    }

    pub(crate) fn to_raw(self) -> RawDevice {
        call::ready();
        // SAFETY: makes a handle, which the wrapper frees.
        RawDevice(unsafe { sys::mlx_device_new_type(self.kind.as_raw(), self.index) })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = self.to_raw();
        let text = call::text("device", |res| {
            // SAFETY: the device handle is live, and `res` a slot for a new string.
            unsafe { sys::mlx_device_tostring(res, raw.0) }
        });
        match text {
            Ok(text) => f.write_str(&text),
            Err(_) => fmt::Debug::fmt(self, f),
        }
    }
}

/// The RAII handle of a device.
pub(crate) struct RawDevice(pub(crate) sys::mlx_device);

impl RawDevice {
    pub(crate) fn null() -> Self {
        // SAFETY: makes a null handle.
        Self(unsafe { sys::mlx_device_new() })
    }

    /// A handle of the C++ device that somebody else owns.
    ///
    /// # Safety
    /// `device` points to a live `mlx::core::Device`.
    pub(crate) unsafe fn copied(device: *const c_void) -> Result<Self> {
        let borrowed = sys::mlx_device { ctx: device.cast_mut() };
        let mut res = Self::null();
        // SAFETY: the caller says that the device is live; it is copied into a null handle.
        call::status("device", || unsafe { sys::mlx_device_set(&raw mut res.0, borrowed) })?;
        Ok(res)
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

impl PartialEq for RawDevice {
    fn eq(&self, other: &Self) -> bool {
        // SAFETY: both handles are live, which the C function relies on.
        unsafe { sys::mlx_device_equal(self.0, other.0) }
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

/// A property of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceValue {
    /// A text, such as the name.
    Text(String),
    /// A number, such as the size of the memory in bytes.
    Number(usize),
}

/// The properties of a device by name, from [`Device::info`].
///
/// Which there are depends on the device: all have `device_name` and `architecture`, GPUs
/// `memory_size` or `total_memory` too.
pub struct DeviceInfo {
    raw: sys::mlx_device_info,
    _live: Live,
}

impl DeviceInfo {
    fn of(device: Device) -> Result<Self> {
        let device = device.to_raw();
        // SAFETY: makes a null handle, which the wrapper frees when it is filled.
        let mut info = Self { raw: unsafe { sys::mlx_device_info_new() }, _live: Live::new() };
        call::status("device_info", || {
            // SAFETY: the device handle is live; the call copies its properties into ours.
            unsafe { sys::mlx_device_info_get(&raw mut info.raw, device.0) }
        })?;
        Ok(info)
    }

    /// The names of all properties, in no order.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn keys(&self) -> Result<Vec<String>> {
        let mut keys = VectorString::new();
        call::status("device_info", || {
            // SAFETY: both handles are live.
            unsafe { sys::mlx_device_info_get_keys(keys.as_mut_raw(), self.raw) }
        })?;
        keys.to_vec()
    }

    /// A property, if there is one of that name.
    ///
    /// # Errors
    /// The name contains a zero byte.
    pub fn get(&self, key: &str) -> Result<Option<DeviceValue>> {
        let name = call::c_string("device_info", key)?;
        let (mut exists, mut is_text) = (false, false);
        call::status("device_info", || {
            // SAFETY: the handle and the name are live; writes one boolean.
            unsafe { sys::mlx_device_info_has_key(&raw mut exists, self.raw, name.as_ptr()) }
        })?;
        if !exists {
            return Ok(None);
        }
        call::status("device_info", || {
            // SAFETY: as above.
            unsafe { sys::mlx_device_info_is_string(&raw mut is_text, self.raw, name.as_ptr()) }
        })?;
        if !is_text {
            let mut number = 0;
            call::status("device_info", || {
                // SAFETY: as above; writes one `size_t`.
                unsafe { sys::mlx_device_info_get_size(&raw mut number, self.raw, name.as_ptr()) }
            })?;
            return Ok(Some(DeviceValue::Number(number)));
        }
        let mut text: *const c_char = null();
        call::status("device_info", || {
            // SAFETY: as above; the text lives as long as the handle.
            unsafe { sys::mlx_device_info_get_string(&raw mut text, self.raw, name.as_ptr()) }
        })?;
        if text.is_null() {
            return Err(Error::invalid_argument("device_info", format!("{key} has no text")));
        }
        // SAFETY: a C string of the handle, copied at once.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        Ok(Some(DeviceValue::Text(text)))
    }
}

impl Drop for DeviceInfo {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_device_info_free(self.raw) };
        }
    }
}
