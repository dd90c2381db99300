//! Attention of a few queries, as in generation: keys and values are read once, in the order they
//! lie in.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use pulp::{Arch, Simd, WithSimd};

use super::reductions::dot;
use crate::floats::Float;
use crate::matmul::matrix::Matrix;

/// Rows of queries up to which this is faster than a product of matrices.
pub(super) const ROWS: usize = 8;

/// Puts the products of all rows of `queries` with all `keys` into `scores`, a row for each query.
pub(super) fn scores<T: Float>(queries: &[f32], keys: Matrix<'_, T>, scores: &mut Vec<f32>) {
    scores.clear();
    scores.resize(queries.len() / keys.columns * keys.rows, 0.0);
    Arch::new().dispatch(Scores { queries, keys, out: scores });
}

/// Puts the sums of `values`, weighted by each row of `weights`, into `sums`.
pub(super) fn mix<T: Float>(weights: &[f32], values: Matrix<'_, T>, sums: &mut Vec<f32>) {
    sums.clear();
    sums.resize(weights.len() / values.rows * values.columns, 0.0);
    Arch::new().dispatch(Mix { weights, values, sums });
}

/// What [`scores`] computes.
struct Scores<'a, T> {
    queries: &'a [f32],
    keys: Matrix<'a, T>,
    out: &'a mut [f32],
}

impl<T: Float> WithSimd for Scores<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (dim, count) = (self.keys.columns, self.keys.rows);
        let mut key = vec![0.0; dim];
        for i in 0..count {
            self.keys.widen_row(i, &mut key);
            for (row, query) in self.queries.chunks_exact(dim).enumerate() {
                self.out[row * count + i] = dot(simd, query, &key);
            }
        }
    }
}

/// What [`mix`] computes.
struct Mix<'a, T> {
    weights: &'a [f32],
    values: Matrix<'a, T>,
    sums: &'a mut [f32],
}

impl<T: Float> WithSimd for Mix<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (dim, count) = (self.values.columns, self.values.rows);
        let mut value = vec![0.0; dim];
        for i in 0..count {
            self.values.widen_row(i, &mut value);
            for (row, sums) in self.sums.chunks_exact_mut(dim).enumerate() {
                add_scaled(simd, sums, self.weights[row * count + i], &value);
            }
        }
    }
}

/// `to += factor * x`.
#[inline(always)]
fn add_scaled<S: Simd>(simd: S, to: &mut [f32], factor: f32, x: &[f32]) {
    let ((x, x_rest), (to, to_rest)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(to));
    let factors = simd.splat_f32s(factor);
    for (to, &x) in to.iter_mut().zip(x) {
        *to = simd.mul_add_e_f32s(factors, x, *to);
    }
    for (to, &x) in to_rest.iter_mut().zip(x_rest) {
        *to += factor * x;
    }
}
