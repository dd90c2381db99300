//! Streams that are another one on every thread.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use crate::handles::Live;
use crate::{Device, Result, Stream, call, sys};

/// A stream that is another one on every thread, made when the thread first asks for it.
///
/// It may cross threads and be shared by them, as it is only a name: [`ThreadLocalStream::stream`]
/// gives the stream of the calling thread.
///
/// ```
/// use std::thread;
/// use mlx_graft::{Array, Device, ThreadLocalStream, ops, with_stream};
///
/// let shared = ThreadLocalStream::new(Device::cpu())?;
/// let sums: Vec<f32> = thread::scope(|scope| {
///     let threads: Vec<_> = (0..2_u8)
///         .map(|n| {
///             let shared = &shared;
///             scope.spawn(move || {
///                 with_stream(&shared.stream()?, || {
///                     let x = Array::scalar(f32::from(n))?;
///                     ops::add(&x, &x)?.item::<f32>()
///                 })?
///             })
///         })
///         .collect();
///     threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<_, _>>()
/// })?;
/// assert_eq!(sums, [0.0, 2.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub struct ThreadLocalStream {
    raw: sys::mlx_stream_thread_local,
    _live: Live,
}

// SAFETY: the handle owns a device and a number, plain data that no call changes; what differs by
// thread lives in MLX.
unsafe impl Send for ThreadLocalStream {}
// SAFETY: as above.
unsafe impl Sync for ThreadLocalStream {}

impl ThreadLocalStream {
    /// A new one on `device`.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn new(device: Device) -> Result<Self> {
        let device = device.to_raw();
        let mut res = Self::null();
        call::status("new_thread_local_stream", || {
            // SAFETY: the device handle is live; a failure gives a null handle.
            res.raw = unsafe { sys::mlx_stream_thread_local_new(device.0) };
            c_int::from(res.raw.ctx.is_null())
        })?;
        Ok(res)
    }

    /// The stream of the calling thread.
    ///
    /// # Errors
    /// What MLX reports, for example for a device that is not there.
    pub fn stream(&self) -> Result<Stream> {
        Stream::filled("stream", |res| {
            // SAFETY: our handle is live; the call fills a null one.
            unsafe { sys::mlx_stream_from_thread_local(res, self.raw) }
        })
    }

    /// Waits until everything on the stream of the calling thread is done.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is live.
        call::status("synchronize", || unsafe { sys::mlx_synchronize_thread_local(self.raw) })
    }

    /// A handle of the C++ stream that somebody else owns.
    ///
    /// # Safety
    /// `stream` points to a live `mlx::core::ThreadLocalStream`.
    pub(crate) unsafe fn copied(stream: *const c_void) -> Result<Self> {
        let borrowed = sys::mlx_stream_thread_local { ctx: stream.cast_mut() };
        let mut res = Self::null();
        call::status("stream", || {
            // SAFETY: the caller says that the stream is live; it is copied into a null handle.
            unsafe { sys::mlx_stream_thread_local_set(&raw mut res.raw, borrowed) }
        })?;
        Ok(res)
    }

    fn null() -> Self {
        Self { raw: sys::mlx_stream_thread_local { ctx: null_mut() }, _live: Live::new() }
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_stream_thread_local {
        self.raw
    }
}

impl Drop for ThreadLocalStream {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_stream_thread_local_free(self.raw) };
        }
    }
}
