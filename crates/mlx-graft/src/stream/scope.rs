//! Scopes in which operations run on a stream.
#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};

use crate::device::RawDevice;
use crate::{Device, Result, Stream, call, sys};

/// Puts back the default device when a scope ends, also by a panic.
struct RestoreDevice(Device);

impl Drop for RestoreDevice {
    fn drop(&mut self) {
        // The device was the default a moment ago, so this cannot fail; a drop must not panic.
        let _ = self.0.set_default();
    }
}

/// Puts back a default stream when a scope ends, also by a panic.
struct RestoreStream(Stream);

impl Drop for RestoreStream {
    fn drop(&mut self) {
        let _ = self.0.set_default();
    }
}

/// Puts back the stream of an enclosing [`on_stream`] when a scope ends, also by a panic.
struct RestoreExplicit(sys::mlx_stream);

impl RestoreExplicit {
    fn replace(stream: sys::mlx_stream) -> Self {
        Self(STREAMS.with(|streams| streams.explicit.replace(stream)))
    }
}

impl Drop for RestoreExplicit {
    fn drop(&mut self) {
        STREAMS.with(|streams| streams.explicit.set(self.0));
    }
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
    device.set_default()?;
    let _inner = RestoreExplicit::replace(super::null());
    Ok(f())
}

/// Runs `f` with `stream` as the default stream and its device as the default device.
///
/// # Errors
/// What MLX reports; `f` has not run then.
///
/// ```
/// use mlx_graft::{Array, Device, Stream, ops, with_stream};
///
/// let stream = Stream::new(Device::cpu())?;
/// let nine = with_stream(&stream, || {
///     assert_eq!(Stream::default_of(Device::cpu())?, stream);
///     ops::square(&Array::scalar(3.0_f32)?)?.item::<f32>()
/// })??;
/// assert_eq!(nine, 9.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn with_stream<R>(stream: &Stream, f: impl FnOnce() -> R) -> Result<R> {
    let device = stream.device()?;
    let _restore =
        (RestoreStream(Stream::default_of(device)?), RestoreDevice(Device::default_device()?));
    device.set_default()?;
    stream.set_default()?;
    let _inner = RestoreExplicit::replace(super::null());
    Ok(f())
}

/// Runs `f` with its operations on `stream`, and leaves MLX's defaults as they are: what the
/// argument `stream=` of a Python function means.
///
/// Only operations of this crate notice it, not what MLX or Python itself puts on the default
/// stream meanwhile. [`with_stream`] is for those.
///
/// ```
/// use mlx_graft::{Array, Device, Stream, ops, stream::on_stream};
///
/// let stream = Stream::new(Device::cpu())?;
/// let y = on_stream(&stream, || ops::square(&Array::scalar(3.0_f32)?))?;
/// assert_eq!(y.item::<f32>()?, 9.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn on_stream<R>(stream: &Stream, f: impl FnOnce() -> R) -> R {
    let _restore = RestoreExplicit::replace(stream.as_raw());
    f()
}

/// The device on which operations run: that of the stream in scope, or the default device.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// use mlx_graft::{Device, with_device, stream::current_device};
///
/// assert_eq!(with_device(Device::cpu(), current_device)??, Device::cpu());
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn current_device() -> Result<Device> {
    let Some(stream) = explicit() else { return Device::default_device() };
    let mut device = RawDevice::null();
    call::status("stream_device", || {
        // SAFETY: the scope keeps the stream handle live; the call fills a null handle.
        unsafe { sys::mlx_stream_get_device(&raw mut device.0, stream) }
    })?;
    device.describe()
}

/// What this thread's operations choose their stream by: one value, as every operation looks for it.
struct Streams {
    /// The stream of the innermost `on_stream`, borrowed for its length; null outside.
    explicit: Cell<sys::mlx_stream>,
    /// A handle that every operation fills anew instead of allocating: MLX's default stream may
    /// change between two operations, by our scopes or by Python's.
    default: UnsafeCell<sys::mlx_stream>,
}

impl Drop for Streams {
    fn drop(&mut self) {
        let stream = *self.default.get_mut();
        if !stream.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_stream_free(stream) };
        }
    }
}

thread_local! {
    static STREAMS: Streams = const {
        Streams { explicit: Cell::new(super::null()), default: UnsafeCell::new(super::null()) }
    };
}

/// The stream that the innermost scope names for its operations, if it does. Valid as long as the
/// scope.
pub(crate) fn explicit() -> Option<sys::mlx_stream> {
    Some(STREAMS.with(|streams| streams.explicit.get())).filter(|stream| !stream.ctx.is_null())
}

/// Calls `f` with the stream in scope: the one that the scope names, or the default stream of the
/// default device.
///
/// The handle is valid during `f` only, and `f` must not call this again before it is done with
/// the handle; operations pass it straight to one C call.
#[inline]
pub(crate) fn with_current<R>(
    op: &'static str,
    f: impl FnOnce(sys::mlx_stream) -> Result<R>,
) -> Result<R> {
    let mut failed = None;
    let stream = STREAMS.with(|streams| {
        let explicit = streams.explicit.get();
        if !explicit.ctx.is_null() {
            return explicit;
        }
        let default = streams.default.get();
        let filled = call::plain_status(op, || {
            // SAFETY: the cell belongs to this thread, no other reference to it exists, and the
            // call keeps the handle valid, reusing its memory.
            unsafe { sys::graft_get_default_stream(default) }
        });
        failed = filled.err();
        // SAFETY: as above.
        unsafe { *default }
    });
    match failed {
        Some(error) => Err(error),
        None => f(stream),
    }
}
