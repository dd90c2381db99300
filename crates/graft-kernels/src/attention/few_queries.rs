//! Attention of a few queries, as in generation: keys and values are read once, in the order they
//! lie in.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::floats::Float;
use crate::matmul::matrix::Matrix;
use crate::prefetch::prefetch_row;

/// Rows of queries up to which this is faster than a product of matrices.
pub(super) const ROWS: usize = 8;

/// Registers of a row that are computed at once: with 16 numbers in each, a head of 64.
const REGISTERS: usize = 4;

/// Numbers that [`REGISTERS`] hold at most.
const NUMBERS: usize = 16 * REGISTERS;

/// Rows of queries that are computed at once.
const TOGETHER: usize = 4;

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
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (rows, columns) = (self.queries.len() / self.keys.columns, self.keys.columns);
        compute(simd, &mut self, rows, columns);
    }
}

impl<T: Float> Parts for Scores<'_, T> {
    /// Adds the products of some columns of `R` queries with all keys.
    #[inline(always)]
    fn part<S: Simd, const R: usize>(&mut self, simd: S, row: usize, columns: Range<usize>) {
        let (dim, count) = (self.keys.columns, self.keys.rows);
        let mut queries = [[simd.splat_f32s(0.0); REGISTERS]; R];
        for (r, query) in queries.iter_mut().enumerate() {
            let mut numbers = [0.0; NUMBERS];
            let part = &self.queries[(row + r) * dim..][columns.clone()];
            numbers[..columns.len()].copy_from_slice(part);
            *query = registers::<S>(&numbers);
        }
        let keys = self.keys.columns(columns.start, columns.len());
        let mut key = [0.0; NUMBERS];
        for i in 0..count {
            read(&keys, i, &mut key[..columns.len()]);
            let key = registers::<S>(&key);
            for (r, query) in queries.iter().enumerate() {
                let sums = [
                    simd.mul_add_e_f32s(query[1], key[1], simd.mul_f32s(query[0], key[0])),
                    simd.mul_add_e_f32s(query[3], key[3], simd.mul_f32s(query[2], key[2])),
                ];
                let sum = simd.add_f32s(sums[0], sums[1]);
                self.out[(row + r) * count + i] += simd.reduce_sum_f32s(sum);
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
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (rows, columns) = (self.weights.len() / self.values.rows, self.values.columns);
        compute(simd, &mut self, rows, columns);
    }
}

impl<T: Float> Parts for Mix<'_, T> {
    /// Writes some columns of the sums of `R` rows of weights.
    #[inline(always)]
    fn part<S: Simd, const R: usize>(&mut self, simd: S, row: usize, columns: Range<usize>) {
        let (dim, count) = (self.values.columns, self.values.rows);
        let mut sums = [[simd.splat_f32s(0.0); REGISTERS]; R];
        let values = self.values.columns(columns.start, columns.len());
        let mut value = [0.0; NUMBERS];
        for i in 0..count {
            read(&values, i, &mut value[..columns.len()]);
            let value = registers::<S>(&value);
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = simd.splat_f32s(self.weights[(row + r) * count + i]);
                for (sum, &x) in sums.iter_mut().zip(&value) {
                    *sum = simd.mul_add_e_f32s(weight, x, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let mut numbers = [0.0; NUMBERS];
            S::as_mut_simd_f32s(&mut numbers).0[..REGISTERS].copy_from_slice(sums);
            let to = &mut self.sums[(row + r) * dim..][columns.clone()];
            to.copy_from_slice(&numbers[..columns.len()]);
        }
    }
}

/// What is computed for some rows of queries and some columns of keys or values at a time.
trait Parts {
    /// Rows `row..row + R`, as many columns as [`REGISTERS`] hold at most.
    fn part<S: Simd, const R: usize>(&mut self, simd: S, row: usize, columns: Range<usize>);
}

/// Computes all rows and columns.
#[inline(always)]
fn compute<S: Simd>(simd: S, parts: &mut impl Parts, rows: usize, columns: usize) {
    for (row, count) in pieces(rows, TOGETHER) {
        for (first, width) in pieces(columns, REGISTERS * S::F32_LANES) {
            let columns = first..first + width;
            match count {
                1 => parts.part::<S, 1>(simd, row, columns),
                2 => parts.part::<S, 2>(simd, row, columns),
                3 => parts.part::<S, 3>(simd, row, columns),
                _ => parts.part::<S, TOGETHER>(simd, row, columns),
            }
        }
    }
}

/// Where pieces of up to `most` of `all` begin, and how long they are.
fn pieces(all: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..all).step_by(most).map(move |first| (first, most.min(all - first)))
}

/// Converts a row, and asks for one of those that follow.
#[inline(always)]
fn read<T: Float>(matrix: &Matrix<'_, T>, i: usize, wide: &mut [f32]) {
    matrix.widen_row(i, wide);
    if matrix.has_dense_rows() {
        prefetch_row(matrix.dense_row(i));
    }
}

/// The first numbers, in registers.
#[inline(always)]
fn registers<S: Simd>(numbers: &[f32; NUMBERS]) -> [S::f32s; REGISTERS] {
    let all = S::as_simd_f32s(numbers).0;
    [all[0], all[1], all[2], all[3]]
}
