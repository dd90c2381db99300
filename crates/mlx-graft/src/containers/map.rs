//! Maps from names.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};

use crate::call::owned_text;
use crate::handles::Live;
use crate::{Array, Error, Result, call, sys};

/// A map type: its values cross by `borrow` into C++ and by `own` out of it.
macro_rules! map {
    (
        $(#[$doc:meta])*
        $name:ident($raw:ident) to $item:ty as $op:literal,
        borrow($given:ident: &$given_ty:ty) $borrow:expr => $arg:expr,
        get($slot:ident: $slot_ty:ty = $empty:expr) $own:expr,
        $new:ident, $set:ident, $insert:ident, $get:ident, $it_new:ident, $it_next:ident,
        $it_free:ident, $free:ident
    ) => {
        $(#[$doc])*
        pub struct $name {
            raw: sys::$raw,
            _live: Live,
        }

        impl $name {
            /// An empty map.
            pub fn new() -> Self {
                call::ready();
                // SAFETY: makes an empty map, which the wrapper frees.
                Self { raw: unsafe { sys::$new() }, _live: Live::new() }
            }

            /// Stores a copy of a value under a name, in place of what was there; of an array, it
            /// shares it.
            ///
            /// # Errors
            /// A text contains a zero byte, or memory is short.
            pub fn insert(&mut self, name: &str, $given: &$given_ty) -> Result<()> {
                let name = call::c_string($op, name)?;
                let $given = $borrow;
                call::status($op, || {
                    // SAFETY: the map is ours; name and value live during the call, which copies.
                    unsafe { sys::$insert(self.raw, name.as_ptr(), $arg) }
                })
            }

            /// The value under a name, if there is one.
            ///
            /// # Errors
            /// The name contains a zero byte, or memory is short.
            pub fn get(&self, name: &str) -> Result<Option<$item>> {
                let name = call::c_string($op, name)?;
                let mut $slot: $slot_ty = $empty;
                let mut found = true;
                call::status($op, || {
                    // SAFETY: the map is live; the slot takes a value, which is owned below.
                    let status = unsafe { sys::$get(&raw mut $slot, self.raw, name.as_ptr()) };
                    // mlx-c says 2 for a name that is not there, which is no failure.
                    found = status != 2;
                    if found { status } else { 0 }
                })?;
                // SAFETY: the call filled the slot, which lives as long as the map or is ours.
                Ok(found.then(|| unsafe { $own }))
            }

            /// The values by name.
            pub fn to_map(&self) -> BTreeMap<String, $item> {
                // SAFETY: the map is live.
                unsafe { Self::map_from_raw(self.raw) }
            }

            /// The values of a map that somebody else owns.
            ///
            /// # Safety
            /// `raw` is a live map.
            pub(crate) unsafe fn map_from_raw(raw: sys::$raw) -> BTreeMap<String, $item> {
                let mut out = BTreeMap::new();
                // SAFETY: the map lives while it is iterated; `key` points into it and is copied;
                // every value is owned or copied; the iterator is freed once.
                unsafe {
                    let it = sys::$it_new(raw);
                    loop {
                        let mut key: *const c_char = null();
                        let mut $slot: $slot_ty = $empty;
                        if sys::$it_next(&raw mut key, &raw mut $slot, it) != 0 {
                            break;
                        }
                        out.insert(owned_text(key), $own);
                    }
                    sys::$it_free(it);
                }
                out
            }

            /// The handle, for a C call; it stays this value's.
            pub fn as_raw(&self) -> sys::$raw {
                self.raw
            }

            /// The place of the handle, for a C call that fills it.
            pub fn as_mut_raw(&mut self) -> *mut sys::$raw {
                &raw mut self.raw
            }
        }

        impl<K: AsRef<str>, V: std::borrow::Borrow<$given_ty>> TryFrom<&BTreeMap<K, V>> for $name {
            type Error = Error;

            fn try_from(values: &BTreeMap<K, V>) -> Result<Self> {
                let mut map = Self::new();
                for (name, value) in values {
                    map.insert(name.as_ref(), value.borrow())?;
                }
                Ok(map)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl Clone for $name {
            fn clone(&self) -> Self {
                let mut map = Self::new();
                // SAFETY: both handles are live. Copying fails only for want of memory, and leaves
                // an empty map then.
                unsafe { sys::$set(&raw mut map.raw, self.raw) };
                map
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: frees the map we own, once.
                unsafe { sys::$free(self.raw) };
            }
        }
    };
}

map! {
    /// A map from names to arrays.
    MapStringToArray(mlx_map_string_to_array) to Array
        as "map_string_to_array",
    borrow(value: &Array) value.as_raw() => value,
    get(slot: sys::mlx_array = sys::mlx_array { ctx: null_mut() }) Array::from_raw(slot),
    mlx_map_string_to_array_new, mlx_map_string_to_array_set, mlx_map_string_to_array_insert,
    mlx_map_string_to_array_get, mlx_map_string_to_array_iterator_new,
    mlx_map_string_to_array_iterator_next, mlx_map_string_to_array_iterator_free,
    mlx_map_string_to_array_free
}

map! {
    /// A map from names to texts.
    MapStringToString(mlx_map_string_to_string) to String
        as "map_string_to_string",
    borrow(value: &str) call::c_string("map_string_to_string", value)? => CStr::as_ptr(&value),
    get(slot: *const c_char = null()) owned_text(slot),
    mlx_map_string_to_string_new, mlx_map_string_to_string_set, mlx_map_string_to_string_insert,
    mlx_map_string_to_string_get, mlx_map_string_to_string_iterator_new,
    mlx_map_string_to_string_iterator_next, mlx_map_string_to_string_iterator_free,
    mlx_map_string_to_string_free
}
