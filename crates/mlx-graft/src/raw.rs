//! Crossing to other holders of the same `libmlx`, such as Python's `mlx.core`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;

use crate::device::RawDevice;
use crate::distributed::Group;
use crate::{Array, Device, Result, Stream, ThreadLocalStream, sys};

/// An array that somebody else holds, as a reference; a clone of the array is a handle of our own.
pub struct BorrowedArray<'a> {
    array: ManuallyDrop<Array>,
    _holder: PhantomData<&'a c_void>,
}

impl BorrowedArray<'_> {
    /// Borrows a C++ array; this costs nothing.
    ///
    /// # Safety
    /// `array` points to a `mlx::core::array` of the same `libmlx` that this crate links, which
    /// lives, and which nobody changes, as long as the result is used.
    pub unsafe fn new(array: *const c_void) -> Self {
        let raw = sys::mlx_array { ctx: array.cast_mut() };
        // SAFETY: the caller says that the array is live; it is never dropped through this.
        Self { array: unsafe { Array::lent(raw) }, _holder: PhantomData }
    }
}

impl Deref for BorrowedArray<'_> {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.array
    }
}

/// The C++ array behind a handle, a `const mlx::core::array*` that lives as long as the handle.
pub fn array_to_raw(array: &Array) -> *const c_void {
    array.as_raw().ctx
}

/// The value of a C++ device, a `const mlx::core::Device*`.
///
/// # Safety
/// `device` points to a live `mlx::core::Device`.
pub unsafe fn device_from_raw(device: *const c_void) -> Result<Device> {
    // SAFETY: as the caller says.
    unsafe { RawDevice::copied(device) }?.describe()
}

/// A handle of the stream at `stream`, a `const mlx::core::Stream*`.
///
/// # Safety
/// `stream` points to a live `mlx::core::Stream`, which is of this thread.
pub unsafe fn stream_from_raw(stream: *const c_void) -> Result<Stream> {
    // SAFETY: as the caller says.
    unsafe { Stream::copied(stream) }
}

/// The C++ stream behind a handle, a `const mlx::core::Stream*` that lives as long as the handle.
pub fn stream_to_raw(stream: &Stream) -> *const c_void {
    stream.as_raw().ctx
}

/// A handle of the stream at `stream`, a `const mlx::core::ThreadLocalStream*`.
///
/// # Safety
/// `stream` points to a live `mlx::core::ThreadLocalStream`.
pub unsafe fn thread_local_stream_from_raw(stream: *const c_void) -> Result<ThreadLocalStream> {
    // SAFETY: as the caller says.
    unsafe { ThreadLocalStream::copied(stream) }
}

/// The C++ stream behind a handle, a `const mlx::core::ThreadLocalStream*` that lives as long as
/// the handle.
pub fn thread_local_stream_to_raw(stream: &ThreadLocalStream) -> *const c_void {
    stream.as_raw().ctx
}

/// A handle of the group at `group`, a `const mlx::core::distributed::Group*`, which it takes over.
///
/// # Safety
/// `group` is a `mlx::core::distributed::Group` made with `new`, which nobody else deletes.
pub unsafe fn group_from_raw(group: *mut c_void) -> Group {
    // SAFETY: as the caller says.
    unsafe { Group::from_raw(sys::mlx_distributed_group { ctx: group }) }
}

/// The C++ group behind a handle, a `const mlx::core::distributed::Group*` that lives as long as
/// the handle.
pub fn group_to_raw(group: &Group) -> *const c_void {
    group.as_raw().ctx
}
