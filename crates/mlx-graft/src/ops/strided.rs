//! Strided views with checked bounds.
#![allow(unsafe_code)]

use super::as_strided;
use crate::{Array, Error, Result};

/// A view of the flat elements with any shape, strides and offset, counted in elements.
///
/// As [`as_strided`], but what would reach outside the array is an error.
///
/// Shape: `shape`.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if shape and strides differ in length, or an
/// element of the view is none of `a`.
///
/// ```
/// # use mlx_graft::{Array, ops};
/// let a = Array::from_slice(&[1, 2, 3, 4], &[4])?;
/// let pairs = ops::strided_view(&a, &[3, 2], &[1, 1], 0)?;
/// assert_eq!(pairs.to_vec::<i32>()?, [1, 2, 2, 3, 3, 4]);
/// assert!(ops::strided_view(&a, &[3, 2], &[2, 1], 0).is_err());
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn strided_view(a: &Array, shape: &[i32], strides: &[i64], offset: usize) -> Result<Array> {
    if shape.len() == strides.len() && !fits(a.size(), shape, strides, offset) {
        return Err(Error::invalid_argument(
            "as_strided",
            format!(
                "shape {shape:?} with strides {strides:?} from element {offset} reaches outside an \
                 array of {} elements",
                a.size()
            ),
        ));
    }
    // SAFETY: every element of the view is one of `a`; MLX reports lists of different lengths.
    unsafe { as_strided(a, shape, strides, offset) }
}

/// Whether all elements of a view lie among the first `size`.
fn fits(size: usize, shape: &[i32], strides: &[i64], offset: usize) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let offset = i128::try_from(offset).unwrap_or(i128::MAX);
    let steps =
        shape.iter().zip(strides).map(|(&n, &stride)| i128::from(n - 1) * i128::from(stride));
    let (below, above): (Vec<i128>, Vec<i128>) = steps.partition(|step| *step < 0);
    let (first, last) = (offset + below.iter().sum::<i128>(), offset + above.iter().sum::<i128>());
    first >= 0 && last < size as i128
}
