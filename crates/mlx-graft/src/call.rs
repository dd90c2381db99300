//! The call layer: the one place where a status of mlx-c becomes a `Result`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Once;

use crate::closure::without_drops;
use crate::containers::Text;
use crate::{Array, Error, Result, VectorArray, error, fork, guard, stream, sys};

static READY: Once = Once::new();

/// Makes errors readable before the first call: mlx-c's default handler ends the process. From
/// then on a fork is noticed.
#[inline]
pub(crate) fn ready() {
    READY.call_once(|| {
        // SAFETY: installs a handler that only stores into thread-local memory.
        unsafe { sys::graft_error_install() };
        fork::watch();
    });
}

/// Runs one C call and turns a non-zero status into the error of this thread.
#[inline]
pub(crate) fn status(op: &'static str, f: impl FnOnce() -> c_int) -> Result<()> {
    ready();
    fork::check(op)?;
    // A callback that MLX ran for another caller, such as Python's `mx.grad`, may have left one.
    error::clear_parked();
    if f() == 0 { Ok(()) } else { Err(Error::last(op)) }
}

/// [`status`] of a call that evaluates arrays. MLX frees their graphs while it does, when it takes
/// arrays for computed that are not yet; what the graphs held is dropped afterwards.
pub(crate) fn evaluation(op: &'static str, f: impl FnOnce() -> c_int) -> Result<()> {
    let done = without_drops(|| status(op, f));
    // A forked child has evaluated nothing, and has no thread that would give back MLX's locks.
    if !matches!(done, Ok(()) | Err(Error::Forked(_))) {
        // SAFETY: takes no arguments, and is no part of an evaluation. Should it fail, the error of
        // the evaluation is the one to tell.
        unsafe { sys::graft_uncount_lost_tasks() };
    }
    done
}

/// [`status`] of a call during which MLX calls nobody back, so that nothing new is parked.
#[inline]
pub(crate) fn plain_status(op: &'static str, f: impl FnOnce() -> c_int) -> Result<()> {
    ready();
    fork::check(op)?;
    if f() == 0 {
        return Ok(());
    }
    error::clear_parked();
    Err(Error::last(op))
}

/// Runs an operation with one output on the stream in scope.
#[inline]
pub(crate) fn array(
    op: &'static str,
    f: impl FnOnce(*mut sys::mlx_array, sys::mlx_stream) -> c_int,
) -> Result<Array> {
    let mut res = sys::mlx_array { ctx: null_mut() };
    let done = stream::with_current(op, |s| status(op, || f(&raw mut res, s)));
    // SAFETY: `res` is null or a handle that mlx-c made for us; the wrapper frees it.
    let out = unsafe { Array::from_raw(res) };
    done.and_then(|()| guard::possible(op, out))
}

/// Runs an operation with two outputs on the stream in scope.
pub(crate) fn array2(
    op: &'static str,
    f: impl FnOnce(*mut sys::mlx_array, *mut sys::mlx_array, sys::mlx_stream) -> c_int,
) -> Result<(Array, Array)> {
    let mut first = sys::mlx_array { ctx: null_mut() };
    let mut second = sys::mlx_array { ctx: null_mut() };
    let done = stream::with_current(op, |s| status(op, || f(&raw mut first, &raw mut second, s)));
    // SAFETY: both are null or handles that mlx-c made for us; the wrappers free them.
    let (first, second) = unsafe { (Array::from_raw(first), Array::from_raw(second)) };
    done?;
    Ok((guard::possible(op, first)?, guard::possible(op, second)?))
}

/// Runs an operation with a list of outputs on the stream in scope.
pub(crate) fn arrays(
    op: &'static str,
    f: impl FnOnce(*mut sys::mlx_vector_array, sys::mlx_stream) -> c_int,
) -> Result<Vec<Array>> {
    let mut res = VectorArray::new();
    stream::with_current(op, |s| status(op, || f(res.as_mut_raw(), s)))?;
    res.to_vec()?.into_iter().map(|out| guard::possible(op, out)).collect()
}

/// The text that a C call stores in a string.
pub(crate) fn text(
    op: &'static str,
    f: impl FnOnce(*mut sys::mlx_string) -> c_int,
) -> Result<String> {
    let mut text = Text::new();
    status(op, || f(text.as_mut_raw()))?;
    Ok(text.to_string())
}

/// The raw handle of an optional array; mlx-c takes a null one for "not given".
pub(crate) fn optional(array: Option<&Array>) -> sys::mlx_array {
    array.map_or(sys::mlx_array { ctx: null_mut() }, Array::as_raw)
}

/// A C string for a call that takes one.
pub(crate) fn c_string(op: &'static str, text: &str) -> Result<CString> {
    CString::new(text)
        .map_err(|_| Error::invalid_argument(op, format!("{text:?} contains a zero byte")))
}

/// A C string of a path for a call that takes one.
pub(crate) fn c_path(op: &'static str, path: &Path) -> Result<CString> {
    match path.to_str() {
        Some(path) => c_string(op, path),
        None => Err(Error::invalid_argument(op, format!("{} is no UTF-8", path.display()))),
    }
}

/// A slice of memory owned by C++; of no element, whatever the pointer, if `len` is 0.
///
/// # Safety
/// If `len` is not 0, `data` points to `len` values that live as long as `'a`.
pub(crate) unsafe fn slice_of<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller says so.
    unsafe { std::slice::from_raw_parts(data, len) }
}

/// A copy of a C string.
///
/// # Safety
/// `text` is a C string.
pub(crate) unsafe fn owned_text(text: *const c_char) -> String {
    // SAFETY: the caller says so.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
