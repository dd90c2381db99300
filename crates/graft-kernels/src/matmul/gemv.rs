//! A row times a matrix: the product of generation, one token at a time. It is bound by the
//! memory's bandwidth, so each element of the matrix is read once, in the order it lies in.
// What is not inlined into a dispatched closure is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use std::mem::MaybeUninit;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use super::matrix::Matrix;
use crate::lanes::dot;

/// Outputs that a task computes at least, a multiple of a cache line.
const CHUNK: usize = 256;

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
    let arch = Arch::new();
    let chunk = |start: usize, out: &mut [MaybeUninit<f32>]| {
        arch.dispatch(Chunk { x, matrix, start, out });
    };
    if parallel {
        let length = out.len().div_ceil(rayon::current_num_threads());
        let length = length.next_multiple_of(16).clamp(CHUNK, 16 * CHUNK);
        out.par_chunks_mut(length).enumerate().for_each(|(i, out)| chunk(i * length, out));
    } else {
        chunk(0, out);
    }
}

/// Columns `start..` of a product.
struct Chunk<'a> {
    x: &'a [f32],
    matrix: Matrix<'a, f32>,
    start: usize,
    out: &'a mut [MaybeUninit<f32>],
}

impl NullaryFnOnce for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let columns = self.matrix.transposed();
        // Where the rows are dense too (a matrix of one row or column), either is right.
        if columns.has_dense_rows() {
            for (j, out) in self.out.iter_mut().enumerate() {
                out.write(dot(self.x, columns.dense_row(self.start + j)));
            }
        } else {
            add_rows(self.x, self.matrix, self.start, self.out);
        }
    }
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
