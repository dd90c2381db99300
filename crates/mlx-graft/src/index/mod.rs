//! Indexing, as `numpy` and `mlx.core` do it.
//!
//! An index is a value that [`Index`] can be made from, or a tuple of such values, one for each
//! dimension from the first on:
//!
//! | Rust | Python | selects |
//! |---|---|---|
//! | `2`, `-1` | `2`, `-1` | one place, and drops the dimension; negative ones count from the end |
//! | `1..3`, `..-1`, `2..`, `..` | `1:3`, `:-1`, `2:`, `:` | a range |
//! | `(1..9).step(2)`, `(..).step(-1)` | `1:9:2`, `::-1` | every second place; backwards |
//! | [`Ellipsis`] | `...` | as many whole dimensions as are left |
//! | [`NewAxis`] | `None` | a new dimension of length 1 |
//! | `&array` of integers | `array` | the places it holds, in its shape |
//! | `&array` of booleans | `array` | the places where it is true, of as many dimensions as it has |
//!
//! Arrays and integers beside arrays are broadcast together. The dimensions of their common shape
//! replace those they index, or come first if a range, an ellipsis or a new axis separates them.
//!
//! Arrays do not change: [`At::set`] and its kin return a new one.
//!
//! ```
//! use mlx_graft::index::{Ellipsis, NewAxis, Step};
//! use mlx_graft::{Array, ops};
//!
//! let x = Array::from_slice(&[1, 2, 3, 4, 5, 6], &[2, 3])?;
//! assert_eq!(x.get(1)?.to_vec::<i32>()?, [4, 5, 6]);
//! assert_eq!(x.get((.., (..).step(-2)))?.to_vec::<i32>()?, [3, 1, 6, 4]);
//! assert_eq!(x.get((Ellipsis, NewAxis, 0))?.shape(), [2, 1]);
//! let columns = Array::from_slice(&[2, 0], &[2])?;
//! assert_eq!(x.get((.., &columns))?.to_vec::<i32>()?, [3, 1, 6, 4]);
//!
//! let zero = Array::scalar(0)?;
//! let large = ops::greater(&x, &Array::scalar(4)?)?;
//! assert_eq!(x.get(&large)?.to_vec::<i32>()?, [5, 6]);
//! assert_eq!(x.at(&large).set(&zero)?.to_vec::<i32>()?, [1, 2, 3, 4, 0, 0]);
//! let one = Array::scalar(1)?;
//! let twice = Array::from_slice(&[0, 0], &[2])?;
//! assert_eq!(x.at((0, &twice)).add(&one)?.to_vec::<i32>()?, [3, 2, 3, 4, 5, 6]);
//! # Ok::<(), mlx_graft::Error>(())
//! ```
//!
//! # Indices out of range
//! They are errors ([`Error::Index`](crate::Error::Index)): here and in the operations that take
//! indices, such as [`ops::take`](crate::ops::take) and [`ops::scatter`](crate::ops::scatter). MLX
//! itself does not look at them. Evaluated ones are checked at once, others when the result is
//! evaluated. On a GPU, indices that are not evaluated yet are moved to the nearest in range. Where
//! there is none, as in an empty axis, an index that is not evaluated yet is an error at once, of the
//! kind [`OutOfRange`](crate::ErrorKind). A range beyond the end is cut, as in Python. [`unchecked`]
//! leaves the checks out.
//!
//! An evaluation that failed is over for MLX: to evaluate or read the same array once more succeeds,
//! and gives what index 0 selects.

mod at;
pub(crate) mod check;
mod check_node;
mod item;
mod plan;

pub use at::At;
pub use item::{Ellipsis, Index, Indices, NewAxis, Slice, Step};

use crate::{Array, Result};

impl Array {
    /// The elements at an index; a new array, which shares memory where it can.
    ///
    /// # Errors
    /// [`Error::Index`](crate::Error::Index) for a place that is not there; an invalid argument if
    /// there are more indices than dimensions, or arrays of indices do not broadcast. A mask must
    /// have values: inside of a compiled function the shape of the result would depend on them.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// let x = Array::from_slice(&[1, 2, 3, 4], &[2, 2])?;
    /// assert_eq!(x.get((-1, 0))?.item::<i32>()?, 3);
    /// assert!(x.get(2).is_err());
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn get(&self, index: impl Indices) -> Result<Self> {
        self.at(index).get()
    }

    /// The place of an index, for an update: `x.at(index).add(&y)`.
    ///
    /// ```
    /// # use mlx_graft::Array;
    /// let x = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[3])?;
    /// let y = x.at(1..).multiply(&Array::scalar(10.0_f32)?)?;
    /// assert_eq!(y.to_vec::<f32>()?, [1.0, 20.0, 30.0]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn at(&self, index: impl Indices) -> At<'_> {
        At::new(self, index.indices())
    }
}

/// [`unchecked`] for indices that this crate made itself.
pub(crate) fn in_range<R>(f: impl FnOnce() -> R) -> R {
    check::without(f)
}

/// Runs `f` without the checks of indices, as MLX itself works, on this thread.
///
/// The name of a matrix's triangle is not looked at either: MLX takes all others than `L` for `U`.
///
/// # Safety
/// Every index that an operation takes in `f` is in range: at least `-length`, if the operation
/// counts negative ones from the end, or zero, and below `length`, less the size of a slice that
/// starts there. MLX reads and writes wherever it points.
#[allow(unsafe_code)]
pub unsafe fn unchecked<R>(f: impl FnOnce() -> R) -> R {
    check::without(f)
}
