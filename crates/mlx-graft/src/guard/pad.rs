//! Borders. MLX writes along axes that it has not compared with the number of dimensions, and in all
//! modes but `constant` takes its lists for those of all dimensions in order.

use std::mem::replace;

use super::axis;
use crate::{Array, Dtype, Error, Result, ops};

const OP: &str = "pad";

/// Axes and sizes before and after, for all dimensions in order.
pub(crate) fn padding(
    a: &Array,
    axes: &[i32],
    low: &[i32],
    high: &[i32],
    value: &Array,
) -> Result<(Vec<i32>, Vec<i32>, Vec<i32>)> {
    pad_value(OP, value)?;
    if low.len() != axes.len() || high.len() != axes.len() {
        // MLX says so in its own words.
        return Ok((axes.to_vec(), low.to_vec(), high.to_vec()));
    }
    let (every, mut before) = everywhere(a, 0);
    let (mut after, mut given) = (before.clone(), vec![false; every.len()]);
    for ((&number, &low), &high) in axes.iter().zip(low).zip(high) {
        let at = axis(OP, a, number)?;
        if replace(&mut given[at], true) {
            return Err(Error::invalid_argument(
                OP,
                format!("axes {axes:?} of an array of {} dimensions: one is given twice", a.ndim()),
            ));
        }
        (before[at], after[at]) = (low, high);
    }
    Ok((every, before, after))
}

/// All axes, and the same size for each.
pub(crate) fn everywhere(a: &Array, size: i32) -> (Vec<i32>, Vec<i32>) {
    ((0..a.ndim() as i32).collect(), vec![size; a.ndim()])
}

/// What borders are filled with: MLX reads its first element.
pub(crate) fn pad_value(op: &'static str, value: &Array) -> Result<()> {
    if value.size() == 0 {
        return Err(Error::invalid_argument(
            op,
            format!("a pad value of shape {:?}: it must have one element", value.shape()),
        ));
    }
    Ok(())
}

/// The array with borders of a value that is traced. MLX's rules for derivatives know none but the
/// array's, and read those of the value from beyond their list.
pub(crate) fn pad_with(
    a: &Array,
    axes: &[i32],
    low: &[i32],
    high: &[i32],
    value: &Array,
) -> Result<Array> {
    let none = Array::scalar(false)?;
    let padded = ops::pad(a, axes, low, high, &none, "constant")?;
    let whole = ops::ones(a.shape(), Dtype::Bool)?;
    let inside = ops::pad(&whole, axes, low, high, &none, "constant")?;
    let first = ops::slice(&ops::flatten(value, 0, -1)?, &[0], &[1], &[1])?;
    let value = ops::astype(&ops::reshape(&first, &[])?, a.dtype())?;
    ops::where_(&inside, &padded, &value)
}
