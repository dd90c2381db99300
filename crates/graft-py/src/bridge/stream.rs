//! Devices and streams as the objects of `mlx.core`.

use std::ffi::{c_int, c_void};

use mlx_graft::{Device, DeviceType, Stream, ThreadLocalStream};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use super::wrong_type;
use crate::error::to_py;

unsafe extern "C" {
    fn graft_bridge_device_from_python(object: *mut PyObject) -> *const c_void;
    fn graft_bridge_device_to_python(gpu: bool, index: c_int) -> *mut PyObject;
    fn graft_bridge_device_type_from_python(object: *mut PyObject) -> c_int;
    fn graft_bridge_stream_from_python(object: *mut PyObject) -> *const c_void;
    fn graft_bridge_stream_to_python(stream: *const c_void) -> *mut PyObject;
    fn graft_bridge_thread_local_stream_from_python(object: *mut PyObject) -> *const c_void;
    fn graft_bridge_thread_local_stream_to_python(stream: *const c_void) -> *mut PyObject;
}

/// An argument that is an `mlx.core.DeviceType`.
pub(crate) struct DeviceTypeIn(pub(crate) DeviceType);

impl DeviceTypeIn {
    fn find(object: Borrowed<'_, '_, PyAny>) -> Option<DeviceType> {
        // SAFETY: the object is live and the GIL is held.
        match unsafe { graft_bridge_device_type_from_python(object.as_ptr()) } {
            0 => Some(DeviceType::Cpu),
            1 => Some(DeviceType::Gpu),
            _ => None,
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for DeviceTypeIn {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Self::find(object).map(Self).ok_or_else(|| wrong_type("an mlx.core.DeviceType", object))
    }
}

/// An argument that is an `mlx.core.Device` or an `mlx.core.DeviceType`.
pub(crate) struct DeviceIn(pub(crate) Device);

impl DeviceIn {
    fn find(object: Borrowed<'_, '_, PyAny>) -> PyResult<Option<Device>> {
        // SAFETY: the object is live and the GIL is held.
        let device = unsafe { graft_bridge_device_from_python(object.as_ptr()) };
        if device.is_null() {
            return Ok(DeviceTypeIn::find(object).map(|kind| Device { kind, index: 0 }));
        }
        // SAFETY: `device` points to the C++ device inside the object, which lives during the call.
        unsafe { mlx_graft::device_from_raw(device) }.map(Some).map_err(to_py)
    }
}

impl<'py> FromPyObject<'_, 'py> for DeviceIn {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let device = Self::find(object)?;
        device.map(Self).ok_or_else(|| wrong_type("an mlx.core.Device or DeviceType", object))
    }
}

/// A result that becomes an `mlx.core.Device`.
pub(crate) struct DeviceOut(pub(crate) Device);

impl<'py> IntoPyObject<'py> for DeviceOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let gpu = self.0.kind == DeviceType::Gpu;
        // SAFETY: the GIL is held; the result is a new reference, or null with an error set.
        unsafe {
            Bound::from_owned_ptr_or_err(py, graft_bridge_device_to_python(gpu, self.0.index))
        }
    }
}

/// An argument that is an `mlx.core.Stream`.
pub(crate) struct StreamIn(pub(crate) Stream);

impl StreamIn {
    fn find(object: Borrowed<'_, '_, PyAny>) -> PyResult<Option<Stream>> {
        // SAFETY: the object is live and the GIL is held.
        let stream = unsafe { graft_bridge_stream_from_python(object.as_ptr()) };
        if stream.is_null() {
            return Ok(None);
        }
        // SAFETY: `stream` points to the C++ stream inside the object, which lives during the
        // call. The handle stays on this thread; one of another thread fails when MLX uses it.
        unsafe { mlx_graft::stream_from_raw(stream) }.map(Some).map_err(to_py)
    }
}

impl<'py> FromPyObject<'_, 'py> for StreamIn {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let stream = Self::find(object)?;
        stream.map(Self).ok_or_else(|| wrong_type("an mlx.core.Stream", object))
    }
}

/// A result that becomes an `mlx.core.Stream`.
pub(crate) struct StreamOut(pub(crate) Stream);

impl StreamOut {
    /// A new stream that Python may use on any thread.
    pub(crate) fn thread_unsafe(device: Device) -> mlx_graft::Result<Self> {
        // SAFETY: Rust gives the stream away at once and evaluates nothing on it by itself. What
        // threads of Python do with it is theirs to order, as the name of the function says.
        unsafe { Stream::new_thread_unsafe(device) }.map(Self)
    }
}

impl<'py> IntoPyObject<'py> for StreamOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the handle is live during the call, which copies the stream; the result is a new
        // reference, or null with an error set.
        unsafe {
            let object = graft_bridge_stream_to_python(mlx_graft::stream_to_raw(&self.0));
            Bound::from_owned_ptr_or_err(py, object)
        }
    }
}

/// A result that becomes an `mlx.core.ThreadLocalStream`.
pub(crate) struct ThreadLocalStreamOut(pub(crate) ThreadLocalStream);

impl<'py> IntoPyObject<'py> for ThreadLocalStreamOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let raw = mlx_graft::thread_local_stream_to_raw(&self.0);
        // SAFETY: as for a stream.
        unsafe {
            let object = graft_bridge_thread_local_stream_to_python(raw);
            Bound::from_owned_ptr_or_err(py, object)
        }
    }
}

/// An argument that names a stream: the stream itself, one that is another on every thread, or a
/// device, for its default stream.
pub(crate) enum StreamOrDevice {
    /// A stream.
    Stream(Stream),
    /// A stream that is another one on every thread.
    ThreadLocal(ThreadLocalStream),
    /// A device.
    Device(Device),
}

impl StreamOrDevice {
    /// The stream on this thread.
    pub(crate) fn into_stream(self) -> PyResult<Stream> {
        match self {
            Self::Stream(stream) => Ok(stream),
            Self::ThreadLocal(stream) => stream.stream().map_err(to_py),
            Self::Device(device) => Stream::default_of(device).map_err(to_py),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for StreamOrDevice {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Some(stream) = StreamIn::find(object)? {
            return Ok(Self::Stream(stream));
        }
        if let Some(device) = DeviceIn::find(object)? {
            return Ok(Self::Device(device));
        }
        // SAFETY: the object is live and the GIL is held.
        let stream = unsafe { graft_bridge_thread_local_stream_from_python(object.as_ptr()) };
        if stream.is_null() {
            let wanted = "an mlx.core.Stream, ThreadLocalStream, Device or DeviceType";
            return Err(wrong_type(wanted, object));
        }
        // SAFETY: `stream` points to the C++ stream inside the object, which lives during the call.
        unsafe { mlx_graft::thread_local_stream_from_raw(stream) }
            .map(Self::ThreadLocal)
            .map_err(to_py)
    }
}
