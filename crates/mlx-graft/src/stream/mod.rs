//! Streams, and scopes in which operations run on one.
//!
//! Operations take no stream argument. They run on the default stream of the default device, and
//! [`with_stream`] and [`with_device`] change that for the length of a closure. The scopes set
//! MLX's own defaults too, and outside of them MLX's are asked, so Python's `mx.stream(...)` around a
//! call into Rust is honoured. Inside of a scope, its device stays for the operations of this crate,
//! whatever Python or other threads make MLX's default.
//!
//! # Threads
//! A [`Stream`] belongs to the thread that made it: MLX registers what encodes its commands there,
//! and an evaluation on it elsewhere fails. So it is neither `Send` nor `Sync`. A
//! [`ThreadLocalStream`] crosses: it stands for another stream on every thread.
//!
//! ```compile_fail,E0277
//! # fn crosses<T: Send>(_: T) {}
//! crosses(mlx_graft::Stream::new(mlx_graft::Device::cpu()).unwrap());
//! ```
#![allow(unsafe_code)]

mod scope;
mod thread_local;

use std::ffi::{c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::null_mut;

use crate::containers::VectorStream;
use crate::device::RawDevice;
use crate::handles::Live;
use crate::{Device, DeviceType, Result, call, sys, transforms};

pub use scope::{current_device, on_stream, with_device, with_stream};
pub(crate) use scope::{explicit, replace_device, with_current};
pub use thread_local::ThreadLocalStream;

/// A stream of operations on one device, bound to the thread that made it.
///
/// Two handles are equal if they are of the same stream. Displayed as MLX does,
/// `Stream(Device(cpu, 0), 0)`.
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
    ///
    /// ```
    /// use mlx_graft::{Device, Stream};
    ///
    /// let stream = Stream::new(Device::cpu())?;
    /// assert_ne!(stream, Stream::new(Device::cpu())?);
    /// assert!(stream.is_on(Device::cpu())?);
    /// assert!(Device::gpu().is_available()? || Stream::new(Device::gpu()).is_err());
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn new(device: Device) -> Result<Self> {
        let device = device.to_raw();
        // SAFETY: the device handle is live.
        Self::made("new_stream", || unsafe { sys::mlx_stream_new_device(device.0) })
    }

    /// A new stream on `device` whose arrays may be evaluated on any thread.
    ///
    /// # Safety
    /// MLX does not synchronise what threads do with such a stream. The caller sees to it that
    /// never two of them use it, or arrays that hang on it, at a time. Types cannot: an operation
    /// anywhere in a graph may name the stream, so no lock knows when it is free, and a handle
    /// that crossed would carry its graph along.
    ///
    /// # Errors
    /// What MLX reports, for example for a device that is not there.
    ///
    /// ```
    /// use mlx_graft::{Array, Device, Stream, ops, stream::on_stream};
    ///
    /// // SAFETY: only this thread uses it.
    /// let stream = unsafe { Stream::new_thread_unsafe(Device::cpu()) }?;
    /// let y = on_stream(&stream, || ops::square(&Array::scalar(3.0_f32)?))?;
    /// assert_eq!(y.item::<f32>()?, 9.0);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub unsafe fn new_thread_unsafe(device: Device) -> Result<Self> {
        let device = device.to_raw();
        // SAFETY: the device handle is live.
        Self::made("new_thread_unsafe_stream", || unsafe {
            sys::mlx_stream_new_thread_unsafe(device.0)
        })
    }

    /// The default stream of `device` on this thread.
    ///
    /// # Errors
    /// What MLX reports, for example for a device that is not there.
    pub fn default_of(device: Device) -> Result<Self> {
        match device {
            Device { kind: DeviceType::Cpu, index: 0 } => Self::made("default_stream", || {
                // SAFETY: takes no argument.
                unsafe { sys::mlx_default_cpu_stream_new() }
            }),
            Device { kind: DeviceType::Gpu, index: 0 } => Self::made("default_stream", || {
                // SAFETY: takes no argument.
                unsafe { sys::mlx_default_gpu_stream_new() }
            }),
            _ => {
                let device = device.to_raw();
                Self::filled("default_stream", |res| {
                    // SAFETY: the device handle is live; the call fills a null handle.
                    unsafe { sys::mlx_get_default_stream(res, device.0) }
                })
            }
        }
    }

    /// Makes this the default stream of its device on this thread; [`with_stream`] does it for a
    /// scope.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn set_default(&self) -> Result<()> {
        // SAFETY: the handle is live.
        call::status("set_default_stream", || unsafe { sys::mlx_set_default_stream(self.raw) })
    }

    /// The device of the stream.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn device(&self) -> Result<Device> {
        self.raw_device()?.describe()
    }

    /// Whether this is a stream of `device`.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn is_on(&self, device: Device) -> Result<bool> {
        Ok(self.raw_device()? == device.to_raw())
    }

    /// The number of the stream among all of the process.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn index(&self) -> Result<i32> {
        let mut index = 0;
        call::status("stream_index", || {
            // SAFETY: the stream handle is live; writes one integer.
            unsafe { sys::mlx_stream_get_index(&raw mut index, self.raw) }
        })?;
        Ok(index)
    }

    /// Waits until everything on the stream is done.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is live.
        call::status("synchronize", || unsafe { sys::mlx_synchronize(self.raw) })
    }

    fn raw_device(&self) -> Result<RawDevice> {
        let mut device = RawDevice::null();
        call::status("stream_device", || {
            // SAFETY: the stream handle is live; the call fills a null handle, which we own.
            unsafe { sys::mlx_stream_get_device(&raw mut device.0, self.raw) }
        })?;
        Ok(device)
    }

    /// The stream that a C call makes; a null one is a failure.
    fn made(op: &'static str, f: impl FnOnce() -> sys::mlx_stream) -> Result<Self> {
        // SAFETY: makes a null handle.
        let mut res = unsafe { Self::from_raw(sys::mlx_stream_new()) };
        call::status(op, || {
            res.raw = f();
            if res.raw.ctx.is_null() {
                return 1;
            }
            // SAFETY: the call made the stream.
            unsafe { sys::graft_stream_finish_at_exit(res.raw) }
        })?;
        Ok(res)
    }

    /// The stream that a C call stores in a null handle.
    pub(crate) fn filled(
        op: &'static str,
        f: impl FnOnce(*mut sys::mlx_stream) -> c_int,
    ) -> Result<Self> {
        // SAFETY: makes a null handle.
        let mut res = unsafe { Self::from_raw(sys::mlx_stream_new()) };
        call::status(op, || f(&raw mut res.raw))?;
        Ok(res)
    }

    /// A handle of the C++ stream that somebody else owns.
    ///
    /// # Safety
    /// `stream` points to a live `mlx::core::Stream`.
    pub(crate) unsafe fn copied(stream: *const c_void) -> Result<Self> {
        let borrowed = sys::mlx_stream { ctx: stream.cast_mut() };
        // SAFETY: the caller says that the stream is live; it is copied into a null handle.
        Self::filled("stream", |res| unsafe { sys::mlx_stream_set(res, borrowed) })
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
}

impl AsRef<Self> for Stream {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        // SAFETY: both handles are live, which the C function relies on.
        unsafe { sys::mlx_stream_equal(self.raw, other.raw) }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the stream handle is live, and `res` a slot for a new string.
        let text = call::text("stream", |res| unsafe { sys::mlx_stream_tostring(res, self.raw) });
        f.write_str(text.as_deref().unwrap_or("Stream"))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_stream_free(self.raw) };
        }
    }
}

/// Waits until everything on the default stream of the default device is done.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// mlx_graft::stream::synchronize()?;
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn synchronize() -> Result<()> {
    // SAFETY: takes no argument.
    call::status("synchronize", || unsafe { sys::mlx_synchronize_default() })
}

/// All streams of the process, also those of other threads, which only they can use.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// use mlx_graft::{Device, Stream, stream};
///
/// let made = Stream::new(Device::cpu())?;
/// assert!(stream::all()?.contains(&made));
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn all() -> Result<Vec<Stream>> {
    let mut streams = VectorStream::new();
    // SAFETY: the list is live.
    call::status("get_streams", || unsafe { sys::mlx_get_streams(streams.as_mut_raw()) })?;
    streams.to_vec()
}

/// Ends all streams of this thread, and forgets what was compiled on it.
///
/// A thread that is about to end calls it to give its resources back. The default stream is gone
/// too: lazy arrays of this thread cannot be evaluated any more, and new ones neither unless they
/// are made on a new stream.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind) while a function is traced; what MLX reports.
///
/// ```
/// std::thread::spawn(|| {
///     let x = mlx_graft::Array::scalar(2.0_f32)?;
///     mlx_graft::ops::square(&x)?.eval()?;
///     mlx_graft::stream::clear_streams()
/// })
/// .join()
/// .unwrap()?;
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn clear_streams() -> Result<()> {
    transforms::check_none_is_made("clear_streams")?;
    // SAFETY: takes no argument.
    call::status("clear_streams", || unsafe { sys::mlx_clear_streams() })
}

/// A null handle, for those who fill it again and again.
pub(super) const fn null() -> sys::mlx_stream {
    sys::mlx_stream { ctx: null_mut() }
}
