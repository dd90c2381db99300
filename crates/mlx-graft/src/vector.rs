//! The RAII handle of a list of arrays.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use crate::handles::Live;
use crate::{Array, Result, call, sys};

/// A list of arrays on the C++ side.
pub(crate) struct VectorArray {
    raw: sys::mlx_vector_array,
    _live: Live,
}

impl VectorArray {
    /// An empty list.
    pub(crate) fn new() -> Self {
        call::ready();
        // SAFETY: makes an empty list, which the wrapper frees.
        Self { raw: unsafe { sys::mlx_vector_array_new() }, _live: Live::new() }
    }

    /// A list that shares the given arrays.
    pub(crate) fn from_arrays<A: AsRef<Array>>(arrays: &[A]) -> Result<Self> {
        let mut list = Self::new();
        let raw: Vec<sys::mlx_array> = arrays.iter().map(|a| a.as_ref().as_raw()).collect();
        call::status("vector_array", || {
            // SAFETY: `raw` holds live handles for the length of the call; mlx-c copies them.
            unsafe { sys::mlx_vector_array_set_data(&raw mut list.raw, raw.as_ptr(), raw.len()) }
        })?;
        Ok(list)
    }

    /// The arrays of the list.
    pub(crate) fn to_vec(&self) -> Result<Vec<Array>> {
        // SAFETY: the handle is live.
        unsafe { vec_from_raw(self.raw) }
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_vector_array {
        self.raw
    }

    pub(crate) fn as_mut_raw(&mut self) -> *mut sys::mlx_vector_array {
        &raw mut self.raw
    }
}

impl Drop for VectorArray {
    fn drop(&mut self) {
        // SAFETY: frees the list we own, once.
        unsafe { sys::mlx_vector_array_free(self.raw) };
    }
}

/// Shares the arrays of a list that somebody else owns.
///
/// # Safety
/// `raw` is a live list.
pub(crate) unsafe fn vec_from_raw(raw: sys::mlx_vector_array) -> Result<Vec<Array>> {
    // SAFETY: the caller says that the list is live.
    let len = unsafe { sys::mlx_vector_array_size(raw) };
    (0..len)
        .map(|i| {
            let mut res = sys::mlx_array { ctx: null_mut() };
            call::status("vector_array", || {
                // SAFETY: `i` is below the size of the list.
                unsafe { sys::mlx_vector_array_get(&raw mut res, raw, i) }
            })?;
            // SAFETY: `res` is a new handle that we own.
            Ok(unsafe { Array::from_raw(res) })
        })
        .collect()
}
