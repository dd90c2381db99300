//! Reductions of rows of scores, which are short: in a few vector registers, where `lanes` has 256
//! partial results to join at the end.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use pulp::Simd;

/// The largest number of `x`, which is negative infinity where there is none.
#[inline(always)]
pub(super) fn maximum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (x, rest) = S::as_simd_f32s(x);
    let lowest = simd.splat_f32s(f32::NEG_INFINITY);
    let highest = x.iter().fold(lowest, |highest, &x| simd.max_f32s(x, highest));
    rest.iter()
        .fold(simd.reduce_max_f32s(highest), |highest, &x| if x > highest { x } else { highest })
}

/// The sum of `x`.
#[inline(always)]
pub(super) fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (x, rest) = S::as_simd_f32s(x);
    let sum = x.iter().fold(simd.splat_f32s(0.0), |sum, &x| simd.add_f32s(sum, x));
    simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}

/// The sum of the products of neighbours.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(y));
    let zero = simd.splat_f32s(0.0);
    let sum = x.iter().zip(y).fold(zero, |sum, (&x, &y)| simd.mul_add_e_f32s(x, y, sum));
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    simd.reduce_sum_f32s(sum) + rest
}
