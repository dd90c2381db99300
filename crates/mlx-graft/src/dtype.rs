//! Dtypes and the Rust types of their elements.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fmt;

use half::{bf16, f16};
use num_complex::Complex32;

use crate::sys;

macro_rules! dtypes {
    ($($variant:ident $raw:ident $name:literal $size:literal;)*) => {
        /// The type of an array's elements, named as in `mlx.core`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Dtype {
            $(
                #[doc = concat!("`mlx.core.", $name, "`, ", stringify!($size), " bytes.")]
                $variant,
            )*
        }

        impl Dtype {
            /// All dtypes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in `mlx.core`, for example `float32`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            pub(crate) fn as_raw(self) -> sys::mlx_dtype {
                match self { $(Self::$variant => sys::$raw),* }
            }

            pub(crate) fn from_raw(raw: sys::mlx_dtype) -> Option<Self> {
                match raw { $(sys::$raw => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

dtypes! {
    Bool MLX_BOOL "bool_" 1;
    Uint8 MLX_UINT8 "uint8" 1;
    Uint16 MLX_UINT16 "uint16" 2;
    Uint32 MLX_UINT32 "uint32" 4;
    Uint64 MLX_UINT64 "uint64" 8;
    Int8 MLX_INT8 "int8" 1;
    Int16 MLX_INT16 "int16" 2;
    Int32 MLX_INT32 "int32" 4;
    Int64 MLX_INT64 "int64" 8;
    Float16 MLX_FLOAT16 "float16" 2;
    Float32 MLX_FLOAT32 "float32" 4;
    Float64 MLX_FLOAT64 "float64" 8;
    Bfloat16 MLX_BFLOAT16 "bfloat16" 2;
    Complex64 MLX_COMPLEX64 "complex64" 8;
}

impl Dtype {
    /// The size of an element in bytes.
    pub fn size(self) -> usize {
        // SAFETY: takes one of the values of the enumeration.
        unsafe { sys::mlx_dtype_size(self.as_raw()) }
    }

    /// Whether this is an integer type, signed or not.
    pub fn is_integer(self) -> bool {
        !self.is_floating() && !matches!(self, Self::Bool | Self::Complex64)
    }

    /// Whether this is a real floating-point type.
    pub fn is_floating(self) -> bool {
        matches!(self, Self::Float16 | Self::Float32 | Self::Float64 | Self::Bfloat16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    use std::ffi::c_int;

    use crate::sys;

    /// How elements of a type cross: the functions of mlx-c that are named after its dtype.
    pub trait Sealed: Sized {
        /// Reads the element of an array of this type and one element, evaluating it.
        ///
        /// # Safety
        /// `array` is such an array, and `res` is a place for the value.
        unsafe fn item(res: *mut Self, array: sys::mlx_array) -> c_int;

        /// The first element of an evaluated array of this type.
        ///
        /// # Safety
        /// `array` is such an array.
        unsafe fn data(array: sys::mlx_array) -> *const Self;

        /// A new array of one element, if mlx-c has a function for it.
        fn scalar(self) -> Option<sys::mlx_array> {
            None
        }

        /// Makes a handle one of an array of one element, if mlx-c has a function for it.
        ///
        /// # Safety
        /// `array` is a place of a handle.
        unsafe fn set_scalar(self, array: *mut sys::mlx_array) -> Option<c_int> {
            let _ = array;
            None
        }
    }
}

/// A Rust type that is the element of an array.
///
/// Sealed: exactly the types whose memory layout is that of an MLX dtype. Halves are those of the
/// crate `half`, complex numbers those of `num-complex`, which numeric crates of Rust share.
pub trait Element: sealed::Sealed + Copy + Default + PartialEq + Send + Sync + 'static {
    /// The dtype of arrays of this type.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($ty:ty => $variant:ident, $item:ident, $data:ident $(, $new:ident, $set:ident)?;)*) => {
        $(
            impl sealed::Sealed for $ty {
                unsafe fn item(res: *mut Self, array: sys::mlx_array) -> c_int {
                    // SAFETY: the caller says so; the C type has the layout of this one.
                    unsafe { sys::$item(res.cast(), array) }
                }

                unsafe fn data(array: sys::mlx_array) -> *const Self {
                    // SAFETY: the caller says so.
                    unsafe { sys::$data(array).cast() }
                }

                $(
                    fn scalar(self) -> Option<sys::mlx_array> {
                        // SAFETY: makes a handle from a value.
                        Some(unsafe { sys::$new(self) })
                    }

                    unsafe fn set_scalar(self, array: *mut sys::mlx_array) -> Option<c_int> {
                        // SAFETY: the caller says that `array` is a place of a handle.
                        Some(unsafe { sys::$set(array, self) })
                    }
                )?
            }

            impl Element for $ty {
                const DTYPE: Dtype = Dtype::$variant;
            }
        )*
    };
}

elements! {
    bool => Bool, mlx_array_item_bool, mlx_array_data_bool, mlx_array_new_bool, mlx_array_set_bool;
    u8 => Uint8, mlx_array_item_uint8, mlx_array_data_uint8;
    u16 => Uint16, mlx_array_item_uint16, mlx_array_data_uint16;
    u32 => Uint32, mlx_array_item_uint32, mlx_array_data_uint32;
    u64 => Uint64, mlx_array_item_uint64, mlx_array_data_uint64;
    i8 => Int8, mlx_array_item_int8, mlx_array_data_int8;
    i16 => Int16, mlx_array_item_int16, mlx_array_data_int16;
    i32 => Int32, mlx_array_item_int32, mlx_array_data_int32, mlx_array_new_int, mlx_array_set_int;
    i64 => Int64, mlx_array_item_int64, mlx_array_data_int64;
    f32 => Float32, mlx_array_item_float32, mlx_array_data_float32, mlx_array_new_float32,
        mlx_array_set_float32;
    f64 => Float64, mlx_array_item_float64, mlx_array_data_float64, mlx_array_new_float64,
        mlx_array_set_float64;
}

#[cfg(target_arch = "aarch64")]
elements! {
    f16 => Float16, mlx_array_item_float16, mlx_array_data_float16;
    bf16 => Bfloat16, mlx_array_item_bfloat16, mlx_array_data_bfloat16;
}

/// mlx-c has its functions for halves where C has the type, which is on arm64 only.
#[cfg(not(target_arch = "aarch64"))]
macro_rules! halves {
    ($($ty:ty => $variant:ident),*) => {
        $(
            impl sealed::Sealed for $ty {
                unsafe fn item(res: *mut Self, array: sys::mlx_array) -> c_int {
                    // SAFETY: the caller says that the array is of this type and has one element,
                    // and `res` is a place for it; only evaluated data are read.
                    unsafe {
                        let status = sys::mlx_array_eval(array);
                        let data = Self::data(array);
                        if status == 0 && !data.is_null() {
                            *res = *data;
                        }
                        status
                    }
                }

                unsafe fn data(array: sys::mlx_array) -> *const Self {
                    // SAFETY: the caller says so.
                    unsafe { sys::graft_array_data(array).cast() }
                }
            }

            impl Element for $ty {
                const DTYPE: Dtype = Dtype::$variant;
            }
        )*
    };
}

#[cfg(not(target_arch = "aarch64"))]
halves!(f16 => Float16, bf16 => Bfloat16);

impl sealed::Sealed for Complex32 {
    unsafe fn item(res: *mut Self, array: sys::mlx_array) -> c_int {
        // SAFETY: the caller says so; both types are two floats, the real part first.
        unsafe { sys::mlx_array_item_complex64(res.cast(), array) }
    }

    unsafe fn data(array: sys::mlx_array) -> *const Self {
        // SAFETY: the caller says so.
        unsafe { sys::mlx_array_data_complex64(array).cast() }
    }

    fn scalar(self) -> Option<sys::mlx_array> {
        // SAFETY: makes a handle from a value.
        Some(unsafe { sys::mlx_array_new_complex(self.re, self.im) })
    }

    unsafe fn set_scalar(self, array: *mut sys::mlx_array) -> Option<c_int> {
        // SAFETY: the caller says that `array` is a place of a handle.
        Some(unsafe { sys::mlx_array_set_complex(array, self.re, self.im) })
    }
}

impl Element for Complex32 {
    const DTYPE: Dtype = Dtype::Complex64;
}

/// Whether bytes are values of `T`: every pattern is one of a number, but a boolean is 0 or 1, and
/// a view of other data need not be.
pub(crate) fn are_values<T: Element>(bytes: &[u8]) -> bool {
    T::DTYPE != Dtype::Bool || bytes.iter().all(|&byte| byte <= 1)
}
