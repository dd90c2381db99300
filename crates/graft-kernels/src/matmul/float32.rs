//! Products of `float32`, by the `gemm` crate.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use gemm::Parallelism;

use super::gemv;
use super::matrix::Matrix;
use super::problem::Product;

impl Product for f32 {
    fn multiply(
        a: Matrix<'_, f32>,
        b: Matrix<'_, f32>,
        out: &mut [MaybeUninit<f32>],
        parallel: bool,
    ) {
        assert!(a.columns == b.rows && out.len() == a.rows * b.columns);
        if a.rows == 1 && gemv::suits(&b) {
            return gemv::row_times_matrix(&a.row_to_vec(0), b, out, parallel);
        }
        // A product with a column is that of the transposed matrices, and so is its output.
        if b.columns == 1 && gemv::suits(&a.transposed()) {
            return gemv::row_times_matrix(
                &b.transposed().row_to_vec(0),
                a.transposed(),
                out,
                parallel,
            );
        }
        gemm(a, b, out, parallel);
    }
}

/// Puts `a × b` into `out`, row by row, in the place of what it held.
pub(super) fn product_into(
    out: &mut Vec<f32>,
    a: Matrix<'_, f32>,
    b: Matrix<'_, f32>,
    parallel: bool,
) {
    let size = a.rows * b.columns;
    out.clear();
    out.reserve(size);
    gemm(a, b, &mut out.spare_capacity_mut()[..size], parallel);
    // SAFETY: `gemm` has written the first `size` elements.
    unsafe { out.set_len(size) };
}

/// Writes `a × b` to `out`, all of it, by the `gemm` crate.
fn gemm(a: Matrix<'_, f32>, b: Matrix<'_, f32>, out: &mut [MaybeUninit<f32>], parallel: bool) {
    assert!(a.columns == b.rows && out.len() == a.rows * b.columns);
    let (a_data, a_row, a_column) = a.as_parts();
    let (b_data, b_row, b_column) = b.as_parts();
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: `Matrix` promises that every index is a live element; `out` is row-major with
    // `a.rows * b.columns` elements, checked above, and overlaps neither, being a unique
    // reference. `read_dst` is false, so that `out` is written only.
    unsafe {
        ::gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr().cast::<f32>(),
            1,
            b.columns as isize,
            false,
            a_data,
            a_column,
            a_row,
            b_data,
            b_column,
            b_row,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
