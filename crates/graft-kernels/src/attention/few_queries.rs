//! Attention of a few queries, as in generation: keys and values are read once, in the order they
//! lie in.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use pulp::{Arch, Simd, WithSimd};

use crate::floats::Float;
use crate::matmul::matrix::Matrix;

/// Rows of queries up to which this is faster than a product of matrices.
pub(super) const ROWS: usize = 8;

/// Puts the products of all rows of `queries` with all `keys` into `scores`, a row for each query.
pub(super) fn scores<T: Float>(queries: &[f32], keys: Matrix<'_, T>, scores: &mut Vec<f32>) {
    let arch = Arch::new();
    let (dim, count) = (keys.columns, keys.rows);
    scores.clear();
    scores.resize(queries.len() / dim * count, 0.0);
    let mut key = vec![0.0; dim];
    for i in 0..count {
        keys.widen_row(i, &mut key);
        for (row, query) in queries.chunks(dim).enumerate() {
            scores[row * count + i] = arch.dispatch(Dot(query, &key));
        }
    }
}

/// Puts the sums of `values`, weighted by each row of `weights`, into `sums`.
pub(super) fn mix<T: Float>(weights: &[f32], values: Matrix<'_, T>, sums: &mut Vec<f32>) {
    let arch = Arch::new();
    let (dim, count) = (values.columns, values.rows);
    sums.clear();
    sums.resize(weights.len() / count * dim, 0.0);
    let mut value = vec![0.0; dim];
    for i in 0..count {
        values.widen_row(i, &mut value);
        for (row, sums) in sums.chunks_mut(dim).enumerate() {
            arch.dispatch(AddScaled { to: sums, factor: weights[row * count + i], x: &value });
        }
    }
}

/// The sum of the products of neighbours.
struct Dot<'a>(&'a [f32], &'a [f32]);

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let ((x, x_rest), (y, y_rest)) = (S::as_simd_f32s(self.0), S::as_simd_f32s(self.1));
        let zero = simd.splat_f32s(0.0);
        let sum = x.iter().zip(y).fold(zero, |sum, (&x, &y)| simd.mul_add_e_f32s(x, y, sum));
        let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
        simd.reduce_sum_f32s(sum) + rest
    }
}

/// `to += factor * x`.
struct AddScaled<'a> {
    to: &'a mut [f32],
    factor: f32,
    x: &'a [f32],
}

impl WithSimd for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let ((x, x_rest), (to, to_rest)) = (S::as_simd_f32s(self.x), S::as_mut_simd_f32s(self.to));
        let factor = simd.splat_f32s(self.factor);
        for (to, &x) in to.iter_mut().zip(x) {
            *to = simd.mul_add_e_f32s(factor, x, *to);
        }
        for (to, &x) in to_rest.iter_mut().zip(x_rest) {
            *to += self.factor * x;
        }
    }
}
