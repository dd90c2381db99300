//! Lists.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::null_mut;

use crate::handles::Live;
use crate::{Array, Result, Stream, call, sys};

/// Elements as a C call takes them, valid as long as what they were made from.
struct Borrowed<R> {
    raw: Vec<R>,
    _text: Vec<CString>,
}

impl<R> Borrowed<R> {
    fn new(raw: impl Iterator<Item = R>) -> Self {
        Self { raw: raw.collect(), _text: Vec::new() }
    }
}

impl Borrowed<*const c_char> {
    fn text<'a>(items: impl Iterator<Item = &'a str>) -> Result<Self> {
        let text: Vec<CString> =
            items.map(|item| call::c_string("vector_string", item)).collect::<Result<_>>()?;
        Ok(Self { raw: text.iter().map(|text| text.as_ptr()).collect(), _text: text })
    }
}

/// A list type: its elements cross by `borrow` into C++ and by `own` out of it.
macro_rules! vector {
    (
        $(#[$doc:meta])*
        $name:ident($raw:ident) of $item:ty as $op:literal,
        $from:ident<$given:ident: [$($bound:tt)*]>,
        borrow($list:ident) $borrow:expr,
        get($slot:ident: $slot_ty:ty = $empty:expr) $own:expr,
        $new:ident, $new_data:ident, $new_value:ident, $set:ident, $set_data:ident,
        $set_value:ident, $append_data:ident, $append_value:ident, $get:ident, $size:ident,
        $free:ident
    ) => {
        $(#[$doc])*
        pub struct $name {
            raw: sys::$raw,
            _live: Live,
        }

        impl $name {
            fn own(raw: sys::$raw) -> Result<Self> {
                call::status($op, || c_int::from(raw.ctx.is_null()))?;
                Ok(Self { raw, _live: Live::new() })
            }

            /// An empty list.
            pub fn new() -> Self {
                call::ready();
                // SAFETY: makes an empty list, which the wrapper frees.
                Self { raw: unsafe { sys::$new() }, _live: Live::new() }
            }

            /// A list of copies of `items`; of arrays, it shares them.
            ///
            /// # Errors
            /// An element cannot cross (a text with a zero byte), or memory is short.
            pub fn $from<$given: $($bound)*>($list: &[$given]) -> Result<Self> {
                call::ready();
                let mut items: Borrowed<_> = $borrow?;
                // SAFETY: `items` holds live elements for the length of the call, which copies.
                Self::own(unsafe { sys::$new_data(items.raw.as_mut_ptr(), items.raw.len()) })
            }

            /// A list of one element.
            ///
            /// # Errors
            /// As for a list of several.
            pub fn from_value<$given: $($bound)*>(item: $given) -> Result<Self> {
                call::ready();
                let $list = &[item];
                let items = $borrow?;
                // SAFETY: as above.
                Self::own(unsafe { sys::$new_value(items.raw[0]) })
            }

            /// Replaces all elements.
            ///
            /// # Errors
            /// As for a new list; the old elements may be gone then.
            pub fn assign<$given: $($bound)*>(&mut self, $list: &[$given]) -> Result<()> {
                let mut items: Borrowed<_> = $borrow?;
                call::status($op, || {
                    // SAFETY: as above; the list is ours.
                    unsafe {
                        let (data, len) = (items.raw.as_mut_ptr(), items.raw.len());
                        sys::$set_data(&raw mut self.raw, data, len)
                    }
                })
            }

            /// Replaces all elements by one.
            ///
            /// # Errors
            /// As for a new list; the old elements may be gone then.
            pub fn assign_value<$given: $($bound)*>(&mut self, item: $given) -> Result<()> {
                let $list = &[item];
                let items = $borrow?;
                call::status($op, || {
                    // SAFETY: as above.
                    unsafe { sys::$set_value(&raw mut self.raw, items.raw[0]) }
                })
            }

            /// Adds elements at the end.
            ///
            /// # Errors
            /// As for a new list.
            pub fn extend<$given: $($bound)*>(&mut self, $list: &[$given]) -> Result<()> {
                let mut items: Borrowed<_> = $borrow?;
                call::status($op, || {
                    // SAFETY: as above.
                    unsafe {
                        sys::$append_data(self.raw, items.raw.as_mut_ptr(), items.raw.len())
                    }
                })
            }

            /// Adds an element at the end.
            ///
            /// # Errors
            /// As for a new list.
            pub fn push<$given: $($bound)*>(&mut self, item: $given) -> Result<()> {
                let $list = &[item];
                let items = $borrow?;
                call::status($op, || {
                    // SAFETY: as above.
                    unsafe { sys::$append_value(self.raw, items.raw[0]) }
                })
            }

            /// The number of elements.
            pub fn len(&self) -> usize {
                // SAFETY: the handle is live.
                unsafe { sys::$size(self.raw) }
            }

            /// Whether there is no element.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// The element at `index`.
            ///
            /// # Errors
            /// [`ErrorKind::OutOfRange`](crate::ErrorKind) if there is none.
            pub fn get(&self, index: usize) -> Result<$item> {
                let mut $slot: $slot_ty = $empty;
                call::status($op, || {
                    // SAFETY: the list is live, and the call checks the index.
                    unsafe { sys::$get(&raw mut $slot, self.raw, index) }
                })?;
                $own
            }

            /// The elements in order.
            pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<$item>> {
                (0..self.len()).map(|index| self.get(index))
            }

            /// The elements.
            ///
            /// # Errors
            /// Memory is short.
            pub fn to_vec(&self) -> Result<Vec<$item>> {
                self.iter().collect()
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

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl Clone for $name {
            fn clone(&self) -> Self {
                let mut list = Self::new();
                // SAFETY: both handles are live. Copying fails only for want of memory, and leaves
                // an empty list then.
                unsafe { sys::$set(&raw mut list.raw, self.raw) };
                list
            }
        }

        impl AsRef<Self> for $name {
            fn as_ref(&self) -> &Self {
                self
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: frees the list we own, once.
                unsafe { sys::$free(self.raw) };
            }
        }
    };
}

vector! {
    /// A list of arrays.
    VectorArray(mlx_vector_array) of Array as "vector_array",
    from_arrays<A: [AsRef<Array>]>,
    borrow(items) Ok(Borrowed::new(items.iter().map(|item| item.as_ref().as_raw()))),
    get(slot: sys::mlx_array = sys::mlx_array { ctx: null_mut() }) {
        // SAFETY: `slot` is a new handle that we own.
        Ok(unsafe { Array::from_raw(slot) })
    },
    mlx_vector_array_new, mlx_vector_array_new_data, mlx_vector_array_new_value,
    mlx_vector_array_set, mlx_vector_array_set_data, mlx_vector_array_set_value,
    mlx_vector_array_append_data, mlx_vector_array_append_value, mlx_vector_array_get,
    mlx_vector_array_size, mlx_vector_array_free
}

vector! {
    /// A list of lists of arrays.
    VectorVectorArray(mlx_vector_vector_array) of VectorArray as "vector_vector_array",
    from_lists<A: [AsRef<VectorArray>]>,
    borrow(items) Ok(Borrowed::new(items.iter().map(|item| item.as_ref().as_raw()))),
    get(slot: sys::mlx_vector_array = sys::mlx_vector_array { ctx: null_mut() }) {
        Ok(VectorArray { raw: slot, _live: Live::new() })
    },
    mlx_vector_vector_array_new, mlx_vector_vector_array_new_data,
    mlx_vector_vector_array_new_value, mlx_vector_vector_array_set,
    mlx_vector_vector_array_set_data, mlx_vector_vector_array_set_value,
    mlx_vector_vector_array_append_data, mlx_vector_vector_array_append_value,
    mlx_vector_vector_array_get, mlx_vector_vector_array_size, mlx_vector_vector_array_free
}

vector! {
    /// A list of integers.
    VectorInt(mlx_vector_int) of i32 as "vector_int",
    from_ints<A: [Copy + Into<i32>]>,
    borrow(items) Ok(Borrowed::new(items.iter().map(|&item| item.into()))),
    get(slot: c_int = 0) Ok(slot),
    mlx_vector_int_new, mlx_vector_int_new_data, mlx_vector_int_new_value, mlx_vector_int_set,
    mlx_vector_int_set_data, mlx_vector_int_set_value, mlx_vector_int_append_data,
    mlx_vector_int_append_value, mlx_vector_int_get, mlx_vector_int_size, mlx_vector_int_free
}

vector! {
    /// A list of texts.
    VectorString(mlx_vector_string) of String as "vector_string",
    from_strings<A: [AsRef<str>]>,
    borrow(items) Borrowed::text(items.iter().map(AsRef::as_ref)),
    get(slot: *mut c_char = null_mut()) {
        // SAFETY: `slot` points into the list, which lives, and is copied.
        Ok(unsafe { CStr::from_ptr(slot) }.to_string_lossy().into_owned())
    },
    mlx_vector_string_new, mlx_vector_string_new_data, mlx_vector_string_new_value,
    mlx_vector_string_set, mlx_vector_string_set_data, mlx_vector_string_set_value,
    mlx_vector_string_append_data, mlx_vector_string_append_value, mlx_vector_string_get,
    mlx_vector_string_size, mlx_vector_string_free
}

vector! {
    /// A list of streams.
    VectorStream(mlx_vector_stream) of Stream as "vector_stream",
    from_streams<A: [AsRef<Stream>]>,
    borrow(items) Ok(Borrowed::new(items.iter().map(|item| item.as_ref().as_raw()))),
    get(slot: sys::mlx_stream = sys::mlx_stream { ctx: null_mut() }) {
        // SAFETY: `slot` is a new handle that we own.
        Ok(unsafe { Stream::from_raw(slot) })
    },
    mlx_vector_stream_new, mlx_vector_stream_new_data, mlx_vector_stream_new_value,
    mlx_vector_stream_set, mlx_vector_stream_set_data, mlx_vector_stream_set_value,
    mlx_vector_stream_append_data, mlx_vector_stream_append_value, mlx_vector_stream_get,
    mlx_vector_stream_size, mlx_vector_stream_free
}

/// Shares the arrays of a list that somebody else owns.
///
/// # Safety
/// `raw` is a live list.
pub(crate) unsafe fn vec_from_raw(raw: sys::mlx_vector_array) -> Result<Vec<Array>> {
    // SAFETY: the caller says that the list is live.
    let len = unsafe { sys::mlx_vector_array_size(raw) };
    (0..len)
        .map(|index| {
            let mut res = sys::mlx_array { ctx: null_mut() };
            call::status("vector_array", || {
                // SAFETY: `index` is below the size of the list.
                unsafe { sys::mlx_vector_array_get(&raw mut res, raw, index) }
            })?;
            // SAFETY: `res` is a new handle that we own.
            Ok(unsafe { Array::from_raw(res) })
        })
        .collect()
}

/// Fills a list that somebody else owns.
///
/// # Safety
/// `slot` is the place of a list.
pub(crate) unsafe fn fill(slot: *mut sys::mlx_vector_array, arrays: &[Array]) -> Result<()> {
    let raw: Vec<sys::mlx_array> = arrays.iter().map(Array::as_raw).collect();
    call::status("vector_array", || {
        // SAFETY: the caller says that `slot` is one; `raw` holds live handles, which are copied.
        unsafe { sys::mlx_vector_array_set_data(slot, raw.as_ptr(), raw.len()) }
    })
}

/// Puts the axes of vectorised arrays into a list that somebody else owns.
///
/// # Safety
/// `slot` is the place of a list.
pub(crate) unsafe fn fill_axes(slot: *mut sys::mlx_vector_int, axes: &[Option<i32>]) -> Result<()> {
    let mut axes: Vec<c_int> = axes.iter().map(|axis| axis.unwrap_or(-1)).collect();
    call::status("vector_int", || {
        // SAFETY: the caller says that `slot` is the place of a list; the numbers are copied.
        unsafe { sys::mlx_vector_int_set_data(slot, axes.as_mut_ptr(), axes.len()) }
    })
}

/// The axis of a vectorised array: MLX writes -1 for one that has none.
pub(crate) fn axis(raw: c_int) -> Option<i32> {
    (raw >= 0).then_some(raw)
}

/// Numbers that C++ passes by their address.
///
/// # Safety
/// `first` points to `len` numbers, or `len` is 0.
pub(crate) unsafe fn numbers<R>(first: *const c_int, len: usize, f: impl Fn(c_int) -> R) -> Vec<R> {
    // SAFETY: the caller says so.
    (0..len).map(|i| f(unsafe { *first.add(i) })).collect()
}
