//! Crossing to other holders of the same `libmlx`, such as Python's `mlx.core`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::null_mut;

use crate::{Array, Result, call, sys};

/// A handle that shares the C++ array behind `array`, a `const mlx::core::array*`.
///
/// # Safety
/// `array` points to a live `mlx::core::array` of the same `libmlx` that this crate links.
pub unsafe fn array_from_raw(array: *const c_void) -> Result<Array> {
    let borrowed = sys::mlx_array { ctx: array.cast_mut() };
    let mut res = sys::mlx_array { ctx: null_mut() };
    // SAFETY: the caller says that `array` is live; the call copies it, which shares its data.
    call::status("array", || unsafe { sys::mlx_array_set(&raw mut res, borrowed) })?;
    // SAFETY: `res` is a new handle that we own.
    Ok(unsafe { Array::from_raw(res) })
}

/// The C++ array behind a handle, a `const mlx::core::array*` that lives as long as the handle.
pub fn array_to_raw(array: &Array) -> *const c_void {
    array.as_raw().ctx
}
