//! Indices of matrices, and what they pick.

use mlx_graft::{Array, Result, ops};

use crate::common::assert_within;

/// Seeded indices below a number.
pub fn indices(seed: i32, shape: &[i32], count: i32) -> Result<Array> {
    let values = (0..shape.iter().product()).map(|i: i32| (i * 7919 + seed * 31) % count);
    Array::from_slice(&values.collect::<Vec<_>>(), shape)
}

/// The matrices of a stack that indices pick, or all.
pub fn gathered(x: &Array, indices: Option<&Array>) -> Result<Array> {
    let Some(indices) = indices else { return Ok(x.clone()) };
    let (stack, matrix) = x.shape().split_at(x.ndim() - 2);
    let flat = ops::reshape(x, &[&[stack.iter().product()], matrix].concat())?;
    ops::take_axis(&flat, indices, 0)
}

/// Asserts that two arrays are the same within `bound`, relative to the largest number wanted.
#[track_caller]
pub fn assert_close(bound: f32, found: &Array, wanted: &Array) -> Result<()> {
    let largest = match wanted.size() {
        0 => 0.0,
        _ => wanted.to_vec::<f32>()?.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())),
    };
    let bound = Array::scalar(bound * largest.max(1.0))?;
    assert_within(found, wanted, &ops::broadcast_to(&bound, wanted.shape())?);
    Ok(())
}
