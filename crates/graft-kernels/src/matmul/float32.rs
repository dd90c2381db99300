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
        // SAFETY: nothing is added, so that `out` is written only.
        unsafe { gemm(a, b, out, false, parallel) };
    }
}

/// Puts `a × b` into `out`, row by row, in the place of what it held.
pub(crate) fn product_into(
    out: &mut Vec<f32>,
    a: Matrix<'_, f32>,
    b: Matrix<'_, f32>,
    parallel: bool,
) {
    let size = a.rows * b.columns;
    out.clear();
    out.reserve(size);
    // SAFETY: nothing is added, and `gemm` writes the first `size` elements.
    unsafe {
        gemm(a, b, &mut out.spare_capacity_mut()[..size], false, parallel);
        out.set_len(size);
    }
}

/// Adds `a × b` to `out`, row by row, on this thread.
pub(crate) fn add_product(out: &mut [f32], a: Matrix<'_, f32>, b: Matrix<'_, f32>) {
    // SAFETY: the elements are initialised, and stay so.
    unsafe { gemm(a, b, &mut *(&raw mut *out as *mut [MaybeUninit<f32>]), true, false) };
}

/// Writes `a × b` to `out`, all of it, or adds it, by the `gemm` crate.
///
/// # Safety
/// If it is added, `out` is initialised.
unsafe fn gemm(
    a: Matrix<'_, f32>,
    b: Matrix<'_, f32>,
    out: &mut [MaybeUninit<f32>],
    add: bool,
    parallel: bool,
) {
    assert!(a.columns == b.rows && out.len() == a.rows * b.columns);
    let (a_data, a_row, a_column) = a.as_parts();
    let (b_data, b_row, b_column) = b.as_parts();
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: `Matrix` promises that every index is a live element; `out` is row-major with
    // `a.rows * b.columns` elements, checked above, and overlaps neither, being a unique
    // reference. It is read only if the caller says that it may be.
    unsafe {
        ::gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr().cast::<f32>(),
            1,
            b.columns as isize,
            add,
            a_data,
            a_column,
            a_row,
            b_data,
            b_column,
            b_row,
            f32::from(u8::from(add)),
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
