//! Scopes in which operations run on a stream.
#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::device::RawDevice;
use crate::{Device, Result, Stream, call, fork, sys};

/// The scopes of all threads that set MLX's default device, which is the process's: the number of
/// each and what was the default before, in the order in which they began.
struct Scopes {
    next: u64,
    open: Vec<(u64, Device)>,
}

impl Scopes {
    fn begin(&mut self, former: Device) -> u64 {
        self.next += 1;
        self.open.push((self.next, former));
        self.next
    }

    /// The device that is the default again, unless a scope that began later still runs: on another
    /// thread, and that one inherits what was the default before both.
    fn end(&mut self, number: u64) -> Option<Device> {
        let at = self.open.iter().rposition(|(other, _)| *other == number)?;
        let (_, former) = self.open.remove(at);
        match self.open.get_mut(at) {
            Some((_, of_later)) => {
                *of_later = former;
                None
            }
            None => Some(former),
        }
    }
}

static SCOPES: Mutex<Scopes> = Mutex::new(Scopes { next: 0, open: Vec::new() });

fn scopes() -> MutexGuard<'static, Scopes> {
    SCOPES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a device MLX's default until a scope ends, also by a panic.
struct ProcessDefault(u64);

impl ProcessDefault {
    fn set(device: Device) -> Result<Self> {
        // In a forked child the lock may belong to a thread that is not there.
        fork::check("set_default_device")?;
        let mut scopes = scopes();
        let former = Device::default_device()?;
        // MLX reads it without a lock, so it is written only where it changes.
        if former != device {
            device.set_of_process()?;
        }
        Ok(Self(scopes.begin(former)))
    }
}

impl Drop for ProcessDefault {
    fn drop(&mut self) {
        if fork::check("set_default_device").is_err() {
            return;
        }
        let mut scopes = scopes();
        let Some(former) = scopes.end(self.0) else { return };
        if Device::default_device().is_ok_and(|now| now != former) {
            // The device was the default before, so this cannot fail; a drop must not panic.
            let _ = former.set_of_process();
        }
    }
}

/// Puts back what this thread's operations choose their stream by, also by a panic.
struct RestoreThread {
    explicit: sys::mlx_stream,
    device: sys::mlx_device,
}

impl RestoreThread {
    fn replace(device: &RawDevice) -> Self {
        STREAMS.with(|streams| Self {
            explicit: streams.explicit.replace(super::null()),
            device: streams.device.replace(device.0),
        })
    }
}

impl Drop for RestoreThread {
    fn drop(&mut self) {
        STREAMS.with(|streams| {
            streams.explicit.set(self.explicit);
            streams.device.set(self.device);
        });
    }
}

/// A device for the operations of this thread, and as MLX's default.
struct DeviceScope {
    // Dropped in this order: the thread borrows the handle.
    _thread: RestoreThread,
    _process: ProcessDefault,
    _device: RawDevice,
}

impl DeviceScope {
    fn enter(device: Device) -> Result<Self> {
        let process = ProcessDefault::set(device)?;
        let device = device.to_raw();
        Ok(Self { _thread: RestoreThread::replace(&device), _process: process, _device: device })
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
/// Operations of this crate on this thread run there, whatever other threads do. What MLX or Python
/// itself puts on the default device follows MLX's own setting, which is the whole process's: there,
/// of scopes on several threads the one that began last counts. When all have ended, the default is
/// what it was before.
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
    let _scope = DeviceScope::enter(device)?;
    Ok(f())
}

/// Runs `f` with `stream` as the default stream and its device as the default device.
///
/// Default streams are each thread's own; of the device, [`with_device`] says what other threads
/// notice.
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
    let _scope = DeviceScope::enter(device)?;
    let _restore = RestoreStream(Stream::default_of(device)?);
    stream.set_default()?;
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

/// A device that is set as the default one inside of a scope counts until that ends.
pub(crate) fn replace_device(device: &RawDevice) -> Result<()> {
    let mut of_scope = STREAMS.with(|streams| streams.device.get());
    if of_scope.ctx.is_null() {
        return Ok(());
    }
    call::plain_status("set_default_device", || {
        // SAFETY: the scope keeps its handle live, and this thread alone has it; the value inside
        // is replaced.
        unsafe { sys::mlx_device_set(&raw mut of_scope, device.0) }
    })
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
    let Some(stream) = explicit() else {
        let device = STREAMS.with(|streams| streams.device.get());
        if device.ctx.is_null() {
            return Device::default_device();
        }
        // The scope owns the handle.
        return ManuallyDrop::new(RawDevice(device)).describe();
    };
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
    /// The device of the innermost `with_device` or `with_stream`, borrowed for its length; null
    /// outside. MLX's own default device is the process's, and other threads may set it meanwhile.
    device: Cell<sys::mlx_device>,
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
        Streams {
            explicit: Cell::new(super::null()),
            device: Cell::new(sys::mlx_device { ctx: null_mut() }),
            default: UnsafeCell::new(super::null()),
        }
    };
}

/// The stream that the innermost scope names for its operations, if it does. Valid as long as the
/// scope.
pub(crate) fn explicit() -> Option<sys::mlx_stream> {
    Some(STREAMS.with(|streams| streams.explicit.get())).filter(|stream| !stream.ctx.is_null())
}

/// Calls `f` with the stream in scope: the one that the scope names, or the default stream of the
/// device that it names, or that of the default device.
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
            // Whoever made it: the end of the process waits for what is computed on it.
            let noted = call::plain_status(op, || {
                // SAFETY: the scope keeps the handle live.
                unsafe { sys::graft_stream_finish_at_exit(explicit) }
            });
            failed = noted.err();
            return explicit;
        }
        let default = streams.default.get();
        let device = streams.device.get();
        let filled = call::plain_status(op, || {
            // SAFETY: the cell belongs to this thread, no other reference to it exists, and the
            // calls keep the handle valid, reusing its memory; a scope keeps its device live.
            unsafe {
                if device.ctx.is_null() {
                    sys::graft_get_default_stream(default)
                } else {
                    sys::mlx_get_default_stream(default, device)
                        | sys::graft_stream_finish_at_exit(*default)
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_put_back_in_whatever_order_scopes_end() {
        let [cpu, gpu] = [Device::cpu(), Device::gpu()];
        let other = Device { index: 1, ..gpu };
        // Nested, as on one thread.
        let mut scopes = Scopes { next: 0, open: Vec::new() };
        let (outer, inner) = (scopes.begin(cpu), scopes.begin(gpu));
        assert_eq!([scopes.end(inner), scopes.end(outer)], [Some(gpu), Some(cpu)]);
        // Interleaved, as of several: the last to end puts back what was there before all.
        let (first, second, third) = (scopes.begin(cpu), scopes.begin(gpu), scopes.begin(other));
        assert_eq!(scopes.end(second), None);
        assert_eq!(scopes.end(first), None);
        assert_eq!(scopes.end(third), Some(cpu));
        let (first, second) = (scopes.begin(cpu), scopes.begin(gpu));
        assert_eq!([scopes.end(first), scopes.end(second)], [None, Some(cpu)]);
        assert!(scopes.open.is_empty() && scopes.end(first).is_none());
    }
}
