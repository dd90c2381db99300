//! One slice of an array.

use super::{slice, squeeze_axis};
use crate::{Array, Error, Result};

/// The elements at one index along an axis; a negative one counts from the end.
///
/// As [`take_axis`](super::take_axis) with a scalar, but the index is checked.
///
/// Shape: without the axis.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if the axis or the index is out of range.
///
/// ```
/// # use mlx_graft::{Array, ops};
/// let a = Array::from_slice(&[1, 2, 3, 4, 5, 6], &[2, 3])?;
/// assert_eq!(ops::take_index(&a, -1, 0)?.to_vec::<i32>()?, [4, 5, 6]);
/// assert!(ops::take_index(&a, 3, 1).is_err());
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn take_index(a: &Array, index: i32, axis: i32) -> Result<Array> {
    let ndim = a.ndim() as i32;
    let from_start = if axis < 0 { axis + ndim } else { axis };
    let Some(&length) = usize::try_from(from_start).ok().and_then(|axis| a.shape().get(axis))
    else {
        return Err(Error::invalid_argument(
            "take",
            format!("axis {axis} of an array with {ndim} dimensions"),
        ));
    };
    let place = if index < 0 { index.saturating_add(length) } else { index };
    if !(0..length).contains(&place) {
        return Err(Error::invalid_argument(
            "take",
            format!("index {index} along axis {axis} of an array of shape {:?}", a.shape()),
        ));
    }
    let axis = from_start as usize;
    let (mut start, mut stop) = (vec![0; a.ndim()], a.shape().to_vec());
    (start[axis], stop[axis]) = (place, place + 1);
    squeeze_axis(&slice(a, &start, &stop, &vec![1; a.ndim()])?, from_start)
}
