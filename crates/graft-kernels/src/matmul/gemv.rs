//! A row times a matrix: the product of generation, one token at a time. It is bound by the
//! memory's bandwidth, so each element of the matrix is read once, in the order it lies in.
// What is not inlined into a dispatched closure is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use std::array;
use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use super::matrix::Matrix;
use crate::isa;
use crate::prefetch::prefetch;
use crate::tasks;

/// Outputs that a task computes at least, a multiple of a cache line.
const CHUNK: usize = 64;

/// Dense columns that are read side by side, for each of which the row is in a register anyway.
const COLUMNS: usize = 4;

/// Sums of each column that are independent of each other, so that one need not wait for another.
const SUMS: usize = 2;

/// Whether [`row_times_matrix`] reads this matrix in the order it lies in.
pub(super) fn suits(matrix: &Matrix<'_, f32>) -> bool {
    matrix.has_dense_rows() || matrix.transposed().has_dense_rows()
}

/// Writes `x × matrix` to `out`, all of it.
pub(super) fn row_times_matrix(
    x: &[f32],
    matrix: Matrix<'_, f32>,
    out: &mut [MaybeUninit<f32>],
    parallel: bool,
) {
    let arch = isa::arch();
    let chunk = |start: usize, out: &mut [MaybeUninit<f32>]| {
        arch.dispatch(Chunk { x, matrix, start, out });
    };
    let length = out.len().div_ceil(4 * tasks::threads()).next_multiple_of(16);
    let length = if parallel { length.max(CHUNK) } else { out.len() };
    tasks::for_each_chunk(out, length, parallel, |i, out| chunk(i * length, out));
}

/// Columns `start..` of a product.
struct Chunk<'a> {
    x: &'a [f32],
    matrix: Matrix<'a, f32>,
    start: usize,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let columns = self.matrix.transposed();
        // Where the rows are dense too (a matrix of one row or column), either is right.
        if !columns.has_dense_rows() {
            return add_rows(self.x, self.matrix, self.start, self.out);
        }
        let (groups, rest) = self.out.as_chunks_mut::<COLUMNS>();
        let mut j = self.start;
        for group in groups {
            let columns = array::from_fn(|i| columns.dense_row(j + i));
            *group = dots::<S, COLUMNS>(simd, self.x, columns).map(MaybeUninit::new);
            j += COLUMNS;
        }
        for (i, out) in rest.iter_mut().enumerate() {
            *out = dots(simd, self.x, [columns.dense_row(j + i)]).map(MaybeUninit::new)[0];
        }
    }
}

/// The dot products of `x` and each of `columns`, which are as long.
#[inline(always)]
pub(super) fn dots<S: Simd, const N: usize>(simd: S, x: &[f32], columns: [&[f32]; N]) -> [f32; N] {
    let parts = |numbers| {
        let (registers, rest) = S::as_simd_f32s(numbers);
        let (groups, last) = registers.as_chunks::<SUMS>();
        (groups, last, simd.partial_load_f32s(rest))
    };
    let (x, x_last, x_rest) = parts(x);
    let columns = columns.map(|column| {
        let (column, last, rest) = parts(column);
        (&column[..x.len()], &last[..x_last.len()], rest)
    });
    let mut sums = [[simd.splat_f32s(0.0); SUMS]; N];
    for (i, x) in x.iter().enumerate() {
        for (sums, (column, ..)) in sums.iter_mut().zip(&columns) {
            for (s, sum) in sums.iter_mut().enumerate() {
                prefetch(&raw const column[i][s]);
                *sum = simd.mul_add_f32s(x[s], column[i][s], *sum);
            }
        }
    }
    array::from_fn(|n| {
        let (_, last, rest) = columns[n];
        let mut sum = simd.mul_add_f32s(x_rest, rest, sums[n][0]);
        for &other in &sums[n][1..] {
            sum = simd.add_f32s(sum, other);
        }
        for (&x, &y) in x_last.iter().zip(last) {
            sum = simd.mul_add_f32s(x, y, sum);
        }
        simd.reduce_sum_f32s(sum)
    })
}

/// Writes columns `start..` of `x × matrix`, whose rows are dense.
#[inline(always)]
fn add_rows(x: &[f32], matrix: Matrix<'_, f32>, start: usize, out: &mut [MaybeUninit<f32>]) {
    let mut sums = vec![0.0_f32; out.len()];
    for (i, &x) in x.iter().enumerate() {
        let row = &matrix.dense_row(i)[start..start + sums.len()];
        for (sum, &element) in sums.iter_mut().zip(row) {
            *sum += x * element;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        out.write(sum);
    }
}
