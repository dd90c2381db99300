//! Evaluation of several arrays at once.
#![allow(unsafe_code)]

use crate::{Array, Result, VectorArray, call, sys};

/// Computes the arrays, and waits.
///
/// # Errors
/// What MLX reports, or a failed kernel of an operation written in Rust.
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
/// let y = ops::exp(&x)?;
/// assert!(!y.is_scheduled());
/// transforms::eval(&[&y])?;
/// assert!(y.is_scheduled());
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn eval<A: AsRef<Array>>(arrays: &[A]) -> Result<()> {
    const OP: &str = "eval";
    let list = VectorArray::from_arrays(arrays)?;
    // SAFETY: the list is live.
    call::evaluation(OP, || unsafe { sys::mlx_eval(list.as_raw()) })
}

/// Starts to compute the arrays, without waiting.
///
/// A failure of a kernel is reported by the next evaluation that waits.
///
/// # Errors
/// What MLX reports.
pub fn async_eval<A: AsRef<Array>>(arrays: &[A]) -> Result<()> {
    const OP: &str = "async_eval";
    let list = VectorArray::from_arrays(arrays)?;
    // SAFETY: the list is live.
    call::evaluation(OP, || unsafe { sys::mlx_async_eval(list.as_raw()) })
}
