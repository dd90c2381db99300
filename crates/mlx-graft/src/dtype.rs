//! Dtypes and the Rust types of their elements.

use std::fmt;

use half::{bf16, f16};

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

            /// The size of an element in bytes.
            pub fn size(self) -> usize {
                match self { $(Self::$variant => $size),* }
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
    pub trait Sealed {}
}

/// A Rust type that is the element of an array.
///
/// Sealed: exactly the types whose memory layout is that of an MLX dtype.
pub trait Element: sealed::Sealed + Copy + Default + 'static {
    /// The dtype of arrays of this type.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($ty:ty => $variant:ident),* $(,)?) => {
        $(
            impl sealed::Sealed for $ty {}
            impl Element for $ty {
                const DTYPE: Dtype = Dtype::$variant;
            }
        )*
    };
}

elements! {
    bool => Bool,
    u8 => Uint8,
    u16 => Uint16,
    u32 => Uint32,
    u64 => Uint64,
    i8 => Int8,
    i16 => Int16,
    i32 => Int32,
    i64 => Int64,
    f16 => Float16,
    f32 => Float32,
    f64 => Float64,
    bf16 => Bfloat16,
}
