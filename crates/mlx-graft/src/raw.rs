//! Crossing to other holders of the same `libmlx`, such as Python's `mlx.core`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;

use crate::{Array, sys};

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
