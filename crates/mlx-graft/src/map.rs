//! The RAII handle of a map from names to arrays.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use crate::handles::Live;
use crate::{Array, call, sys};

/// A map from names to arrays on the C++ side.
pub(crate) struct MapStringToArray {
    raw: sys::mlx_map_string_to_array,
    _live: Live,
}

impl MapStringToArray {
    pub(crate) fn new() -> Self {
        call::ready();
        // SAFETY: makes an empty map, which the wrapper frees.
        Self { raw: unsafe { sys::mlx_map_string_to_array_new() }, _live: Live::new() }
    }

    pub(crate) fn as_mut_raw(&mut self) -> *mut sys::mlx_map_string_to_array {
        &raw mut self.raw
    }

    /// The arrays by name.
    pub(crate) fn to_map(&self) -> BTreeMap<String, Array> {
        let mut out = BTreeMap::new();
        // SAFETY: the map is live while it is iterated; `key` points into it and is copied; every
        // `value` is a new handle that the wrapper frees; the iterator is freed once.
        unsafe {
            let it = sys::mlx_map_string_to_array_iterator_new(self.raw);
            loop {
                let mut key: *const c_char = std::ptr::null();
                let mut value = sys::mlx_array { ctx: null_mut() };
                if sys::mlx_map_string_to_array_iterator_next(&raw mut key, &raw mut value, it) != 0
                {
                    break;
                }
                let name = CStr::from_ptr(key).to_string_lossy().into_owned();
                out.insert(name, Array::from_raw(value));
            }
            sys::mlx_map_string_to_array_iterator_free(it);
        }
        out
    }
}

impl Drop for MapStringToArray {
    fn drop(&mut self) {
        // SAFETY: frees the map we own, once.
        unsafe { sys::mlx_map_string_to_array_free(self.raw) };
    }
}

/// The RAII handle of a map from names to strings.
pub(crate) struct MapStringToString {
    raw: sys::mlx_map_string_to_string,
    _live: Live,
}

impl MapStringToString {
    pub(crate) fn new() -> Self {
        call::ready();
        // SAFETY: makes an empty map, which the wrapper frees.
        Self { raw: unsafe { sys::mlx_map_string_to_string_new() }, _live: Live::new() }
    }

    pub(crate) fn as_mut_raw(&mut self) -> *mut sys::mlx_map_string_to_string {
        &raw mut self.raw
    }

    /// The strings by name.
    pub(crate) fn to_map(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        // SAFETY: as for the map of arrays.
        unsafe {
            let it = sys::mlx_map_string_to_string_iterator_new(self.raw);
            loop {
                let mut key: *const c_char = std::ptr::null();
                let mut value: *const c_char = std::ptr::null();
                if sys::mlx_map_string_to_string_iterator_next(&raw mut key, &raw mut value, it)
                    != 0
                {
                    break;
                }
                let text = |p| CStr::from_ptr(p).to_string_lossy().into_owned();
                out.insert(text(key), text(value));
            }
            sys::mlx_map_string_to_string_iterator_free(it);
        }
        out
    }
}

impl Drop for MapStringToString {
    fn drop(&mut self) {
        // SAFETY: frees the map we own, once.
        unsafe { sys::mlx_map_string_to_string_free(self.raw) };
    }
}
