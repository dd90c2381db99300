//! Rules between dtypes and between shapes: promotion, categories, broadcasting.

use crate::{Dtype, Error, Result};

/// A set of dtypes, named as in `mlx.core`. Each is part of the one named with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DtypeCategory {
    /// complex64; part of [`Inexact`](Self::Inexact).
    Complexfloating,
    /// float16, bfloat16, float32 and float64; part of [`Inexact`](Self::Inexact).
    Floating,
    /// Real and complex floating-point dtypes; part of [`Number`](Self::Number).
    Inexact,
    /// int8 to int64; part of [`Integer`](Self::Integer).
    Signedinteger,
    /// uint8 to uint64; part of [`Integer`](Self::Integer).
    Unsignedinteger,
    /// Integers with and without sign; part of [`Number`](Self::Number).
    Integer,
    /// All dtypes but `bool_`; part of [`Generic`](Self::Generic).
    Number,
    /// All dtypes.
    Generic,
}

impl DtypeCategory {
    /// All categories.
    pub const ALL: &[Self] = &[
        Self::Complexfloating,
        Self::Floating,
        Self::Inexact,
        Self::Signedinteger,
        Self::Unsignedinteger,
        Self::Integer,
        Self::Number,
        Self::Generic,
    ];

    /// The name in `mlx.core`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complexfloating => "complexfloating",
            Self::Floating => "floating",
            Self::Inexact => "inexact",
            Self::Signedinteger => "signedinteger",
            Self::Unsignedinteger => "unsignedinteger",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Generic => "generic",
        }
    }

    /// The smallest category that contains all of this one and more; none for all dtypes.
    fn parent(self) -> Option<Self> {
        match self {
            Self::Complexfloating | Self::Floating => Some(Self::Inexact),
            Self::Signedinteger | Self::Unsignedinteger => Some(Self::Integer),
            Self::Inexact | Self::Integer => Some(Self::Number),
            Self::Number => Some(Self::Generic),
            Self::Generic => None,
        }
    }

    /// Whether all dtypes of this category are in the other, too.
    ///
    /// ```
    /// # use mlx_graft::DtypeCategory;
    /// assert!(DtypeCategory::Floating.is_in(DtypeCategory::Number));
    /// assert!(!DtypeCategory::Number.is_in(DtypeCategory::Floating));
    /// ```
    pub fn is_in(self, other: Self) -> bool {
        self == other || self.parent().is_some_and(|parent| parent.is_in(other))
    }
}

impl Dtype {
    /// The smallest category that this dtype is in.
    ///
    /// ```
    /// # use mlx_graft::{Dtype, DtypeCategory};
    /// assert_eq!(Dtype::Bfloat16.category(), DtypeCategory::Floating);
    /// ```
    pub fn category(self) -> DtypeCategory {
        match self {
            Self::Bool => DtypeCategory::Generic,
            Self::Uint8 | Self::Uint16 | Self::Uint32 | Self::Uint64 => {
                DtypeCategory::Unsignedinteger
            }
            Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64 => DtypeCategory::Signedinteger,
            Self::Float16 | Self::Float32 | Self::Float64 | Self::Bfloat16 => {
                DtypeCategory::Floating
            }
            Self::Complex64 => DtypeCategory::Complexfloating,
        }
    }

    /// The dtype that an operation on operands of both dtypes computes in.
    ///
    /// Complex numbers win over real ones, those over integers, and integers over booleans. Of two
    /// integers the result holds both ranges; there is no such dtype for uint64 and a signed one,
    /// which give float32, as float16 and bfloat16 do.
    ///
    /// ```
    /// # use mlx_graft::Dtype;
    /// assert_eq!(Dtype::Float16.promote(Dtype::Int32), Dtype::Float16);
    /// assert_eq!(Dtype::Uint8.promote(Dtype::Int8), Dtype::Int16);
    /// ```
    #[must_use]
    pub fn promote(self, other: Self) -> Self {
        let rank = |dtype: Self| match dtype.category() {
            DtypeCategory::Complexfloating => 4,
            DtypeCategory::Floating => 3,
            DtypeCategory::Signedinteger => 2,
            DtypeCategory::Unsignedinteger => 1,
            _ => 0,
        };
        let (high, low) = if rank(self) < rank(other) { (other, self) } else { (self, other) };
        match (rank(high), rank(low)) {
            _ if high == low => high,
            (3, 3) if high.size() == low.size() => Self::Float32,
            (3, 3) | (2, 2) | (1, 1) => {
                if high.size() < low.size() {
                    low
                } else {
                    high
                }
            }
            (2, 1) if high.size() > low.size() => high,
            (2, 1) => match low {
                Self::Uint8 => Self::Int16,
                Self::Uint16 => Self::Int32,
                Self::Uint32 => Self::Int64,
                _ => Self::Float32,
            },
            _ => high,
        }
    }

    /// Whether every operation on both dtypes computes in `to`.
    ///
    /// ```
    /// # use mlx_graft::Dtype;
    /// assert!(Dtype::Int16.can_cast(Dtype::Float16));
    /// assert!(!Dtype::Float32.can_cast(Dtype::Int32));
    /// ```
    pub fn can_cast(self, to: Self) -> bool {
        self.promote(to) == to
    }
}

/// The shape to which arrays of both shapes broadcast.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if two lengths differ and neither is 1.
///
/// ```
/// # use mlx_graft::broadcast_shapes;
/// assert_eq!(broadcast_shapes(&[2, 1], &[3])?, [2, 3]);
/// assert!(broadcast_shapes(&[2], &[3]).is_err());
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn broadcast_shapes(a: &[i32], b: &[i32]) -> Result<Vec<i32>> {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let mut shape = long.to_vec();
    let skipped = long.len() - short.len();
    for (length, &other) in shape[skipped..].iter_mut().zip(short) {
        match (*length, other) {
            (one, other) if one == other || other == 1 => {}
            (1, other) => *length = other,
            _ => {
                return Err(Error::invalid_argument(
                    "broadcast_shapes",
                    format!("the shapes {a:?} and {b:?} do not broadcast"),
                ));
            }
        }
    }
    Ok(shape)
}
