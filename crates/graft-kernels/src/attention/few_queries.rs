//! Attention of a few queries, as in generation: keys and values are read once, in the order they
//! lie in.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use std::array::from_fn;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::floats::Float;
use crate::isa;
use crate::matmul::matrix::Matrix;
use crate::prefetch::prefetch_row;

/// Rows of queries up to which this is faster than a product of matrices.
pub(super) const ROWS: usize = 8;

/// Registers of keys or values that are computed at once for several rows of queries: with 16 numbers
/// in each, a head of 64.
const FEW: usize = 4;

/// Registers that are computed at once for one row of queries, whose sums take less room: with 8
/// numbers in each, a head of 64.
const MANY: usize = 8;

/// Numbers that [`MANY`] registers hold at most.
const NUMBERS: usize = 16 * MANY;

/// Rows of queries that are computed at once.
const TOGETHER: usize = 4;

/// Puts the products of all rows of `queries` with all `keys` into `scores`, a row for each query.
pub(super) fn scores<T: Float>(queries: &[f32], keys: Matrix<'_, T>, scores: &mut Vec<f32>) {
    scores.clear();
    scores.resize(queries.len() / keys.columns * keys.rows, 0.0);
    isa::arch().dispatch(Scores { queries, keys, out: scores });
}

/// Puts the sums of `values`, weighted by each row of `weights`, into `sums`.
pub(super) fn mix<T: Float>(weights: &[f32], values: Matrix<'_, T>, sums: &mut Vec<f32>) {
    sums.clear();
    sums.resize(weights.len() / values.rows * values.columns, 0.0);
    isa::arch().dispatch(Mix { weights, values, sums });
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
    fn part<S: Simd, const R: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        simd: S,
        row: usize,
        columns: Range<usize>,
    ) {
        let (dim, count) = (self.keys.columns, self.keys.rows);
        let mut queries = [[simd.splat_f32s(0.0); N]; R];
        for (r, query) in queries.iter_mut().enumerate() {
            let mut numbers = [0.0; NUMBERS];
            let part = &self.queries[(row + r) * dim..][columns.clone()];
            numbers[..columns.len()].copy_from_slice(part);
            *query = registers::<S, N>(&numbers);
        }
        let keys = self.keys.columns(columns.start, columns.len());
        for i in 0..count {
            let key = read::<T, S, N, WHOLE>(&keys, i);
            for (r, query) in queries.iter().enumerate() {
                let mut sums = [0, 1].map(|n| simd.mul_f32s(query[n], key[n]));
                for n in 2..N {
                    sums[n % 2] = simd.mul_add_e_f32s(query[n], key[n], sums[n % 2]);
                }
                let sum = simd.add_f32s(sums[0], sums[1]);
                self.out[(row + r) * count + i] += simd.reduce_sum_f32s(sum);
            }
        }
    }

    fn is_dense(&self) -> bool {
        self.keys.has_dense_rows()
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
    fn part<S: Simd, const R: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        simd: S,
        row: usize,
        columns: Range<usize>,
    ) {
        let (dim, count) = (self.values.columns, self.values.rows);
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        let values = self.values.columns(columns.start, columns.len());
        for i in 0..count {
            let value = read::<T, S, N, WHOLE>(&values, i);
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = simd.splat_f32s(self.weights[(row + r) * count + i]);
                for (sum, &x) in sums.iter_mut().zip(&value) {
                    *sum = simd.mul_add_e_f32s(weight, x, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let mut numbers = [0.0; NUMBERS];
            S::as_mut_simd_f32s(&mut numbers).0[..N].copy_from_slice(sums);
            let to = &mut self.sums[(row + r) * dim..][columns.clone()];
            to.copy_from_slice(&numbers[..columns.len()]);
        }
    }

    fn is_dense(&self) -> bool {
        self.values.has_dense_rows()
    }
}

/// What is computed for some rows of queries and some columns of keys or values at a time.
trait Parts {
    /// Rows `row..row + R`, as many columns as `N` registers hold at most: just as many, of rows that
    /// lie dense, if `WHOLE`.
    fn part<S: Simd, const R: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        simd: S,
        row: usize,
        columns: Range<usize>,
    );

    /// Whether the rows of keys or values lie dense.
    fn is_dense(&self) -> bool;
}

/// Computes all rows and columns.
#[inline(always)]
fn compute<S: Simd>(simd: S, parts: &mut impl Parts, rows: usize, columns: usize) {
    let (few, many) = (FEW * S::F32_LANES, MANY * S::F32_LANES);
    for row in (0..rows).step_by(TOGETHER) {
        let count = TOGETHER.min(rows - row);
        let mut first = 0;
        while first < columns {
            let rest = columns - first;
            let whole = parts.is_dense() && count == 1 && rest >= many;
            let width = if whole { many } else { rest.min(few) };
            let range = first..first + width;
            if !parts.is_dense() || width < few {
                compute_rows::<S, false>(simd, parts, row, count, range);
            } else if width == few {
                compute_rows::<S, true>(simd, parts, row, count, range);
            } else {
                parts.part::<S, 1, MANY, true>(simd, row, range);
            }
            first += width;
        }
    }
}

/// Computes some columns of up to [`TOGETHER`] rows.
#[inline(always)]
fn compute_rows<S: Simd, const WHOLE: bool>(
    simd: S,
    parts: &mut impl Parts,
    row: usize,
    count: usize,
    columns: Range<usize>,
) {
    match count {
        1 => parts.part::<S, 1, FEW, WHOLE>(simd, row, columns),
        2 => parts.part::<S, 2, FEW, WHOLE>(simd, row, columns),
        3 => parts.part::<S, 3, FEW, WHOLE>(simd, row, columns),
        _ => parts.part::<S, TOGETHER, FEW, WHOLE>(simd, row, columns),
    }
}

/// Converts a row, and asks for one of those that follow.
#[inline(always)]
fn read<T: Float, S: Simd, const N: usize, const WHOLE: bool>(
    matrix: &Matrix<'_, T>,
    i: usize,
) -> [S::f32s; N] {
    let mut wide = [0.0; NUMBERS];
    if WHOLE {
        // The compiler knows the length, and needs no call to copy or to convert.
        let width = N * S::F32_LANES;
        T::widen(&matrix.dense_row(i)[..width], &mut wide[..width]);
    } else {
        matrix.widen_row(i, &mut wide[..matrix.columns]);
    }
    if matrix.has_dense_rows() {
        prefetch_row(matrix.dense_row(i));
    }
    registers::<S, N>(&wide)
}

/// The first numbers, in registers.
#[inline(always)]
fn registers<S: Simd, const N: usize>(numbers: &[f32; NUMBERS]) -> [S::f32s; N] {
    let all = S::as_simd_f32s(numbers).0;
    from_fn(|n| all[n])
}
