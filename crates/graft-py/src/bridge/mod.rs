//! What the conversions of `mlx-graft-pyo3` leave to this module: arguments without a reference of
//! their own, Python objects inside closures of MLX, and work without the GIL. The only module of
//! this crate with `unsafe` code.
#![allow(unsafe_code)]

mod held;
mod traces;

use std::ops::Deref;

use mlx_graft::{Array, BorrowedArray, Device, Stream, sys};
use pyo3::prelude::*;

pub(crate) use held::Held;
pub(crate) use mlx_graft_pyo3::{
    ArrayOut as Out, DeviceIn, DeviceOut, DeviceTypeIn, DtypeArg, GroupIn, GroupOut, Owned,
    StreamIn, StreamOrDevice, StreamOut, ThreadLocalStreamOut, wrong_type,
};
pub(crate) use traces::PyTraces;

/// An argument that is an `mlx.core.array`, borrowed from the Python object.
///
/// Other Python code may change an array in place, so what runs without the GIL or calls Python
/// takes a handle of its own, by [`In::into_array`].
pub(crate) struct In {
    array: BorrowedArray<'static>,
    /// Keeps the array alive.
    _object: Py<PyAny>,
}

impl Deref for In {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.array
    }
}

impl AsRef<Array> for In {
    fn as_ref(&self) -> &Array {
        &self.array
    }
}

impl In {
    /// The object as an array, if it is one.
    #[inline]
    pub(crate) fn of(object: Borrowed<'_, '_, PyAny>) -> Option<Self> {
        borrowed(object).map(|array| Self { array, _object: object.to_owned().unbind() })
    }

    /// A handle of our own.
    pub(crate) fn into_array(self) -> Array {
        self.array.clone()
    }
}

impl<'py> FromPyObject<'_, 'py> for In {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Self::of(object).ok_or_else(|| wrong_type("an mlx.core.array", object))
    }
}

/// The array inside an object, if it is one. The callers keep the object alive as long as the
/// result.
fn borrowed(object: Borrowed<'_, '_, PyAny>) -> Option<BorrowedArray<'static>> {
    // SAFETY: the module joined when it was made. The callers keep the object alive, and borrow
    // nothing of the array beyond the call of an operation.
    unsafe { mlx_graft_pyo3::borrow_array(object) }
}

/// A handle of our own of the array that an object is, if it is one.
pub(crate) fn array_of(object: &Bound<'_, PyAny>) -> Option<Array> {
    borrowed(object.as_borrowed()).map(|array| array.clone())
}

/// Puts another array in the place of the one that an object is, as MLX's operators in place do.
pub(crate) fn overwrite(object: Borrowed<'_, '_, PyAny>, array: &Array) -> PyResult<()> {
    let target = borrowed(object).ok_or_else(|| wrong_type("an mlx.core.array", object))?;
    let raw = |array: &Array| sys::mlx_array { ctx: mlx_graft::array_to_raw(array).cast_mut() };
    let mut held = raw(&target);
    // SAFETY: both C++ arrays are live, and the GIL is held, so that nobody else uses the one that
    // is assigned to. Nothing is borrowed from it.
    unsafe { sys::mlx_array_set(&raw mut held, raw(array)) };
    Ok(())
}

/// Whether an object is an array.
pub(crate) fn is_array(object: &Bound<'_, PyAny>) -> bool {
    borrowed(object.as_borrowed()).is_some()
}

/// A new stream that Python may use on any thread.
pub(crate) fn thread_unsafe_stream(device: Device) -> mlx_graft::Result<StreamOut> {
    // SAFETY: Rust gives the stream away at once and evaluates nothing on it by itself. What
    // threads of Python do with it is theirs to order, as the name of the function says.
    unsafe { Stream::new_thread_unsafe(device) }.map(StreamOut)
}

/// The number of references to an object.
pub(crate) fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: the object is live and the GIL is held.
    unsafe { pyo3::ffi::Py_REFCNT(object.as_ptr()) }
}

/// Runs an operation without the checks of indices, which `mlx.core` does not make either: the
/// Python functions build the very graph of `mlx.core`, which can be exported.
pub(crate) fn unchecked<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: none that this crate could show. As with `mlx.core`, and as its documentation says,
    // an index out of range is undefined, and the caller in Python answers for it.
    unsafe { mlx_graft::index::unchecked(f) }
}

/// A value that is moved into a call without the GIL and out again on the same thread.
struct SameThread<T>(T);

// SAFETY: `Python::detach` runs its closure on the calling thread; the bound only keeps Python
// objects out, and `without_gil` has its own rule for those.
unsafe impl<T> Send for SameThread<T> {}

impl<T> SameThread<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

/// Runs `f` without the GIL, so that other Python threads go on while MLX computes.
///
/// `f` must not touch Python objects. It may hold arrays: it stays on this thread. Closures of
/// Python's that MLX holds take the GIL themselves when they are called or freed.
pub(crate) fn without_gil<T>(py: Python<'_>, f: impl FnOnce() -> T) -> T {
    let f = SameThread(f);
    py.detach(move || SameThread(f.into_inner()())).into_inner()
}
