//! What can stand in an index.

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use crate::Array;

/// A range with a step, made by [`Step::step`]; or written out where Clippy takes a range of two
/// literals, such as `1..-1`, for an empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// The first place; the begin, or the end if the step is negative, if there is none.
    pub start: Option<i32>,
    /// The place behind the last; none to take all that is left.
    pub stop: Option<i32>,
    /// The distance between two places.
    pub step: i32,
}

/// As many whole dimensions as the other indices leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ellipsis;

/// A new dimension of length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAxis;

/// What selects along one dimension, or along several.
#[derive(Debug, Clone)]
pub enum Index {
    /// One place.
    Int(i32),
    /// A range.
    Slice(Slice),
    /// The dimensions that are left.
    Ellipsis,
    /// A new dimension.
    NewAxis,
    /// The places that an array of integers holds, or where one of booleans is true.
    Array(Array),
}

/// A range that can have a step.
pub trait Step {
    /// The places of the range at distances of `step`, backwards if it is negative: the range then
    /// goes from a high place to a low one.
    ///
    /// ```
    /// # use mlx_graft::{Array, index::Step};
    /// let x = Array::from_slice(&[0, 1, 2, 3, 4], &[5])?;
    /// assert_eq!(x.get((3..0).step(-2))?.to_vec::<i32>()?, [3, 1]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    fn step(self, step: i32) -> Slice;
}

/// An index of an array: one [`Index`], a tuple of up to eight, or a list of them.
pub trait Indices {
    /// The indices of the dimensions.
    fn indices(self) -> Vec<Index>;
}

/// The end of a range that includes its last place; that behind -1 is the end of the dimension.
fn behind(last: i32) -> Option<i32> {
    if last == -1 { None } else { last.checked_add(1) }
}

macro_rules! ranges {
    ($($ty:ty: $range:ident => $start:expr, $stop:expr;)*) => {
        $(
            impl Step for $ty {
                fn step(self, step: i32) -> Slice {
                    let $range = self;
                    Slice { start: $start, stop: $stop, step }
                }
            }

            impl From<$ty> for Index {
                fn from(range: $ty) -> Self {
                    Self::Slice(range.step(1))
                }
            }
        )*
    };
}

ranges! {
    Range<i32>: range => Some(range.start), Some(range.end);
    RangeFrom<i32>: range => Some(range.start), None;
    RangeTo<i32>: range => None, Some(range.end);
    RangeFull: _range => None, None;
    RangeInclusive<i32>: range => Some(*range.start()), behind(*range.end());
    RangeToInclusive<i32>: range => None, behind(range.end);
}

macro_rules! conversions {
    ($($ty:ty: $value:ident => $index:expr;)*) => {
        $(
            impl From<$ty> for Index {
                fn from($value: $ty) -> Self {
                    $index
                }
            }
        )*
    };
}

conversions! {
    i32: place => Self::Int(place);
    Slice: slice => Self::Slice(slice);
    Ellipsis: _all => Self::Ellipsis;
    NewAxis: _one => Self::NewAxis;
    Array: array => Self::Array(array);
    &Array: array => Self::Array(array.clone());
}

macro_rules! single {
    ($($ty:ty)*) => {
        $(
            impl Indices for $ty {
                fn indices(self) -> Vec<Index> {
                    vec![self.into()]
                }
            }
        )*
    };
}

single! {
    Index i32 Slice Ellipsis NewAxis Array &Array Range<i32> RangeFrom<i32> RangeTo<i32> RangeFull
    RangeInclusive<i32> RangeToInclusive<i32>
}

impl Indices for Vec<Index> {
    fn indices(self) -> Vec<Index> {
        self
    }
}

impl Indices for &[Index] {
    fn indices(self) -> Vec<Index> {
        self.to_vec()
    }
}

impl Indices for () {
    fn indices(self) -> Vec<Index> {
        Vec::new()
    }
}

macro_rules! tuples {
    ($(($($name:ident)+))*) => {
        $(
            impl<$($name: Into<Index>),+> Indices for ($($name,)+) {
                #[allow(non_snake_case)]
                fn indices(self) -> Vec<Index> {
                    let ($($name,)+) = self;
                    vec![$($name.into()),+]
                }
            }
        )*
    };
}

tuples! {
    (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H)
}
