//! Devices and streams as the objects of `mlx.core`.

use std::ffi::{c_int, c_void};

use mlx_graft::{Device, DeviceType, Stream, ThreadLocalStream};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use super::{Error, Result, joined, wrong_type};

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
///
/// ```no_run
/// use mlx_graft::Device;
/// use mlx_graft_pyo3::{DeviceTypeIn, Result};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn count(kind: DeviceTypeIn) -> Result<usize> {
///     Ok(kind.0.count()?)
/// }
/// ```
pub struct DeviceTypeIn(pub DeviceType);

impl DeviceTypeIn {
    fn find(object: Borrowed<'_, '_, PyAny>) -> Result<Option<DeviceType>> {
        joined(object.py())?;
        // SAFETY: the object is live and the GIL is held.
        Ok(match unsafe { graft_bridge_device_type_from_python(object.as_ptr()) } {
            0 => Some(DeviceType::Cpu),
            1 => Some(DeviceType::Gpu),
            _ => None,
        })
    }
}

impl<'py> FromPyObject<'_, 'py> for DeviceTypeIn {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let kind = Self::find(object)?;
        kind.map(Self).ok_or_else(|| wrong_type("an mlx.core.DeviceType", object))
    }
}

/// An argument that is an `mlx.core.Device` or an `mlx.core.DeviceType`.
///
/// ```no_run
/// use mlx_graft_pyo3::{DeviceIn, Result};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn is_there(device: DeviceIn) -> Result<bool> {
///     Ok(device.0.is_available()?)
/// }
/// ```
pub struct DeviceIn(pub Device);

impl DeviceIn {
    fn find(object: Borrowed<'_, '_, PyAny>) -> Result<Option<Device>> {
        joined(object.py())?;
        // SAFETY: the object is live and the GIL is held.
        let device = unsafe { graft_bridge_device_from_python(object.as_ptr()) };
        if device.is_null() {
            return Ok(DeviceTypeIn::find(object)?.map(|kind| Device { kind, index: 0 }));
        }
        // SAFETY: `device` points to the C++ device inside the object, which lives during the call.
        Ok(Some(unsafe { mlx_graft::device_from_raw(device) }?))
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
///
/// ```no_run
/// use mlx_graft::Device;
/// use mlx_graft_pyo3::DeviceOut;
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn where_kernels_run() -> DeviceOut {
///     DeviceOut(Device::cpu())
/// }
/// ```
pub struct DeviceOut(pub Device);

impl<'py> IntoPyObject<'py> for DeviceOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        joined(py)?;
        let gpu = self.0.kind == DeviceType::Gpu;
        // SAFETY: the GIL is held; the result is a new reference, or null with an error set.
        unsafe {
            Bound::from_owned_ptr_or_err(py, graft_bridge_device_to_python(gpu, self.0.index))
        }
    }
}

/// An argument that is an `mlx.core.Stream`.
///
/// ```no_run
/// use mlx_graft_pyo3::{Result, StreamIn};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn finish(stream: StreamIn) -> Result<()> {
///     Ok(stream.0.synchronize()?)
/// }
/// ```
pub struct StreamIn(pub Stream);

impl StreamIn {
    fn find(object: Borrowed<'_, '_, PyAny>) -> Result<Option<Stream>> {
        joined(object.py())?;
        // SAFETY: the object is live and the GIL is held.
        let stream = unsafe { graft_bridge_stream_from_python(object.as_ptr()) };
        if stream.is_null() {
            return Ok(None);
        }
        // SAFETY: `stream` points to the C++ stream inside the object, which lives during the
        // call. The handle stays on this thread; one of another thread fails when MLX uses it.
        Ok(Some(unsafe { mlx_graft::stream_from_raw(stream) }?))
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
///
/// ```no_run
/// use mlx_graft::{Device, Stream};
/// use mlx_graft_pyo3::{Result, StreamOut};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn new_stream() -> Result<StreamOut> {
///     Ok(StreamOut(Stream::new(Device::cpu())?))
/// }
/// ```
pub struct StreamOut(pub Stream);

impl<'py> IntoPyObject<'py> for StreamOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        joined(py)?;
        // SAFETY: the handle is live during the call, which copies the stream; the result is a new
        // reference, or null with an error set.
        unsafe {
            let object = graft_bridge_stream_to_python(mlx_graft::stream_to_raw(&self.0));
            Bound::from_owned_ptr_or_err(py, object)
        }
    }
}

/// A result that becomes an `mlx.core.ThreadLocalStream`.
///
/// ```no_run
/// use mlx_graft::{Device, ThreadLocalStream};
/// use mlx_graft_pyo3::{Result, ThreadLocalStreamOut};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// fn new_thread_local_stream() -> Result<ThreadLocalStreamOut> {
///     Ok(ThreadLocalStreamOut(ThreadLocalStream::new(Device::cpu())?))
/// }
/// ```
pub struct ThreadLocalStreamOut(pub ThreadLocalStream);

impl<'py> IntoPyObject<'py> for ThreadLocalStreamOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        joined(py)?;
        let raw = mlx_graft::thread_local_stream_to_raw(&self.0);
        // SAFETY: as for a stream.
        unsafe {
            let object = graft_bridge_thread_local_stream_to_python(raw);
            Bound::from_owned_ptr_or_err(py, object)
        }
    }
}

/// An argument that names a stream: the stream itself, one that is another on every thread, or a
/// device, for its default stream. The argument `stream=` of MLX's functions.
///
/// ```no_run
/// use mlx_graft::{ops, stream::on_stream};
/// use mlx_graft_pyo3::{ArrayIn, ArrayOut, Result, StreamOrDevice};
/// use pyo3::prelude::*;
///
/// #[pyfunction]
/// #[pyo3(signature = (x, stream=None))]
/// fn squared(x: ArrayIn, stream: Option<StreamOrDevice>) -> Result<ArrayOut> {
///     Ok(ArrayOut(match stream {
///         Some(stream) => on_stream(&stream.into_stream()?, || ops::square(&x))?,
///         None => ops::square(&x)?,
///     }))
/// }
/// ```
pub enum StreamOrDevice {
    /// A stream.
    Stream(Stream),
    /// A stream that is another one on every thread.
    ThreadLocal(ThreadLocalStream),
    /// A device.
    Device(Device),
}

impl StreamOrDevice {
    /// The stream on this thread.
    ///
    /// # Errors
    /// What MLX reports: the device is not there.
    pub fn into_stream(self) -> mlx_graft::Result<Stream> {
        match self {
            Self::Stream(stream) => Ok(stream),
            Self::ThreadLocal(stream) => stream.stream(),
            Self::Device(device) => Stream::default_of(device),
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
        // SAFETY: the object is live, the GIL is held, and the searches above have joined.
        let stream = unsafe { graft_bridge_thread_local_stream_from_python(object.as_ptr()) };
        if stream.is_null() {
            let wanted = "an mlx.core.Stream, ThreadLocalStream, Device or DeviceType";
            return Err(wrong_type(wanted, object));
        }
        // SAFETY: `stream` points to the C++ stream inside the object, which lives during the call.
        let stream = unsafe { mlx_graft::thread_local_stream_from_raw(stream) };
        Ok(Self::ThreadLocal(stream.map_err(Error::from)?))
    }
}
