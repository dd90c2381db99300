//! Streams as scopes.
//!
//! Operations take no stream argument. They run on the default stream of the default device, and
//! [`with_stream`] and [`with_device`] change that for the length of a closure. The scopes are
//! MLX's own, so Python's `mx.stream(...)` around a call into Rust is honoured too.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::null_mut;

use crate::device::RawDevice;
use crate::handles::Live;
use crate::{Device, Result, call, sys};

/// A stream of operations on one device, bound to the thread that made it.
pub struct Stream {
    raw: sys::mlx_stream,
    _live: Live,
    _thread: PhantomData<*const ()>,
}

impl Stream {
    /// A new stream on `device`.
    ///
    /// # Errors
    /// What MLX reports, for example for a device that is not there.
    pub fn new(device: Device) -> Result<Self> {
        let device = device.to_raw();
        // SAFETY: the device handle is live; a failure gives a null handle and a stored error.
        let raw = unsafe { sys::mlx_stream_new_device(device.0) };
        call::status("stream", || c_int::from(raw.ctx.is_null()))?;
        Ok(Self { raw, _live: Live::new(), _thread: PhantomData })
    }

    /// Wraps a handle that nobody else frees.
    ///
    /// # Safety
    /// `raw` was made by mlx-c on this thread, and the caller gives up ownership.
    pub(crate) unsafe fn from_raw(raw: sys::mlx_stream) -> Self {
        Self { raw, _live: Live::new(), _thread: PhantomData }
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_stream {
        self.raw
    }

    /// The default stream of `device` on this thread.
    ///
    /// # Errors
    /// What MLX reports, for example for a device that is not there.
    pub fn default_of(device: Device) -> Result<Self> {
        let device = device.to_raw();
        let mut raw = sys::mlx_stream { ctx: null_mut() };
        call::status("default_stream", || {
            // SAFETY: the device handle is live; the call fills a null handle, which we own.
            unsafe { sys::mlx_get_default_stream(&raw mut raw, device.0) }
        })?;
        Ok(Self { raw, _live: Live::new(), _thread: PhantomData })
    }

    /// The device of the stream.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn device(&self) -> Result<Device> {
        let mut device = RawDevice::null();
        call::status("stream_device", || {
            // SAFETY: the stream handle is live; the call fills a null handle, which we own.
            unsafe { sys::mlx_stream_get_device(&raw mut device.0, self.raw) }
        })?;
        device.describe()
    }

    /// Waits until everything on the stream is done.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is live.
        call::status("synchronize", || unsafe { sys::mlx_synchronize(self.raw) })
    }

    fn make_default(&self) -> Result<()> {
        // SAFETY: the handle is live.
        call::status("set_default_stream", || unsafe { sys::mlx_set_default_stream(self.raw) })
    }
}

impl AsRef<Self> for Stream {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: frees the handle we own, once.
        unsafe { sys::mlx_stream_free(self.raw) };
    }
}

/// Puts back the default device when a scope ends, also by a panic.
struct RestoreDevice(Device);

impl Drop for RestoreDevice {
    fn drop(&mut self) {
        // The device was the default a moment ago, so this cannot fail; a drop must not panic.
        let _ = set_default_device(self.0);
    }
}

/// Puts back a default stream when a scope ends, also by a panic.
struct RestoreStream(Stream);

impl Drop for RestoreStream {
    fn drop(&mut self) {
        let _ = self.0.make_default();
    }
}

fn set_default_device(device: Device) -> Result<()> {
    let raw = device.to_raw();
    // SAFETY: the handle is live.
    call::status("set_default_device", || unsafe { sys::mlx_set_default_device(raw.0) })
}

/// Runs `f` with `device` as the default device.
///
/// # Errors
/// What MLX reports if the device is not there; `f` has not run then.
///
/// ```
/// use mlx_graft::{Array, Device, ops, with_device};
///
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
/// let y = with_device(Device::cpu(), || ops::exp(&x))??;
/// assert_eq!(y.shape(), [2]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn with_device<R>(device: Device, f: impl FnOnce() -> R) -> Result<R> {
    let _restore = RestoreDevice(Device::default_device()?);
    set_default_device(device)?;
    Ok(f())
}

/// Runs `f` with `stream` as the default stream and its device as the default device.
///
/// # Errors
/// What MLX reports; `f` has not run then.
pub fn with_stream<R>(stream: &Stream, f: impl FnOnce() -> R) -> Result<R> {
    let device = stream.device()?;
    let _restore =
        (RestoreStream(Stream::default_of(device)?), RestoreDevice(Device::default_device()?));
    set_default_device(device)?;
    stream.make_default()?;
    Ok(f())
}

/// A handle that every operation fills anew instead of allocating: MLX's default stream may change
/// between two operations, by our scopes or by Python's.
struct Current(sys::mlx_stream);

impl Drop for Current {
    fn drop(&mut self) {
        if !self.0.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_stream_free(self.0) };
        }
    }
}

thread_local! {
    static CURRENT: UnsafeCell<Current> = const {
        UnsafeCell::new(Current(sys::mlx_stream { ctx: null_mut() }))
    };
}

/// Calls `f` with the default stream of the default device.
///
/// The handle is valid during `f` only, and `f` must not call this again before it is done with
/// the handle; operations pass it straight to one C call.
pub(crate) fn with_current<R>(
    op: &'static str,
    f: impl FnOnce(sys::mlx_stream) -> Result<R>,
) -> Result<R> {
    let stream = CURRENT.with(|current| {
        let current = current.get();
        call::status(op, || {
            // SAFETY: the cell belongs to this thread, no other reference to it exists, and the
            // call keeps the handle valid, reusing its memory.
            unsafe { sys::graft_get_default_stream(&raw mut (*current).0) }
        })?;
        // SAFETY: as above.
        Ok(unsafe { (*current).0 })
    })?;
    f(stream)
}
