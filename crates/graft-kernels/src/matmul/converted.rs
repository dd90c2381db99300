//! Products of 16-bit numbers where the processor has no instruction for them: in `float32`, a
//! block of rows at a time, rounded once.

// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use std::mem::MaybeUninit;

use half::f16;
use pulp::{NullaryFnOnce, Simd, WithSimd};

use super::float32::product_into;
use super::gemv::dots;
use super::matrix::Matrix;
#[cfg(target_arch = "x86_64")]
use super::problem::Each;
use super::problem::Product;
use crate::floats::Float;
use crate::isa;
use crate::tasks;

/// Rows of `a` that are converted at a time.
const ROWS: usize = 512;

/// Rows that a task converts.
const ROWS_OF_A_TASK: usize = 16;

/// Elements that are converted at a time for the product with a few rows, on the stack.
const BLOCK: usize = 512;

/// Columns that a task computes for the product with a few rows.
const COLUMNS: usize = 64;

/// Rows for which no block of `b` is converted.
const FEW_ROWS: usize = 4;

/// Bytes of `b` in `float32` that are held at a time.
const CONVERTED_BYTES: usize = 8 << 20;

/// The sum of the products of neighbours.
struct Dot<'a>(&'a [f32], &'a [f32]);

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let [product] = dots(simd, self.0, [self.1]);
        product
    }
}

impl Product for f16 {
    fn multiply(a: Matrix<'_, f16>, b: Matrix<'_, f16>, out: &mut [MaybeUninit<f16>], par: bool) {
        #[cfg(target_arch = "x86_64")]
        {
            use super::avx2::{self, Avx2};
            use super::avx512::{self, Avx512};
            use super::{avx2_few_rows, blocked, skinny};
            if avx2_few_rows::suits(&a, &b) {
                return avx2_few_rows::multiply(a, b, out, par);
            }
            if skinny::multiply_across(a, b, out, par) {
                return;
            }
            if avx512::suits(&a, &b) {
                return blocked::multiply::<Avx512, _>(a, b, out, par);
            }
            if avx2::suits(&a, &b) {
                return blocked::multiply::<Avx2, _>(a, b, out, par);
            }
        }
        multiply(a, b, out, par);
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_few_rows(
        a: Matrix<'_, f16>,
        products: &mut [Each<'_, '_, f16>],
        parallel: bool,
    ) -> bool {
        super::avx2_few_rows::multiply_each(a, products, parallel)
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_sum(
        products: &[[Matrix<'_, f16>; 2]],
        short: Option<[Matrix<'_, f16>; 2]>,
        out: &mut [MaybeUninit<f16>],
        parallel: bool,
    ) -> bool {
        super::blocked::multiply_sum_in_float32(products, short, out, parallel)
    }
}

/// Writes `a × b` to `out`, all of it.
pub(super) fn multiply<T: Float>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    if a.rows <= FEW_ROWS && b.transposed().has_dense_rows() {
        return few_rows(a, b, out, parallel);
    }
    if b.columns == 1 && a.has_dense_rows() {
        // A product with a column is that of the transposed matrices, and so is its output.
        return few_rows(b.transposed(), a.transposed(), out, parallel);
    }
    let (k, n) = (b.rows, b.columns);
    let columns = (CONVERTED_BYTES / (4 * k)).clamp(1, n).next_multiple_of(64).min(n);
    let mut product = Vec::new();
    for first in (0..n).step_by(columns) {
        let columns = columns.min(n - first);
        let part = b.transposed().rows(first, columns);
        // Whatever lies together is converted together.
        let by_columns = part.has_dense_rows();
        let wide = wide_rows(if by_columns { part } else { part.transposed() }, parallel);
        let part = if by_columns {
            Matrix::from_rows(&wide, columns, k).transposed()
        } else {
            Matrix::from_rows(&wide, k, columns)
        };
        for (block, out) in out.chunks_mut(ROWS * n).enumerate() {
            let rows = out.len() / n;
            let wide = wide_rows(a.rows(block * ROWS, rows), parallel);
            product_into(&mut product, Matrix::from_rows(&wide, rows, k), part, parallel);
            for (out, product) in out.chunks_mut(n).zip(product.chunks(columns)) {
                for (out, &product) in out[first..first + columns].iter_mut().zip(product) {
                    out.write(T::round(product));
                }
            }
        }
    }
}

/// The matrix in `float32`, row by row.
pub(crate) fn wide_rows<T: Float>(matrix: Matrix<'_, T>, parallel: bool) -> Vec<f32> {
    let (size, columns) = (matrix.rows * matrix.columns, matrix.columns);
    tasks::filled(size, ROWS_OF_A_TASK * columns, 0.0, parallel, |task, wide| {
        let rows = matrix.rows(task * ROWS_OF_A_TASK, wide.len() / columns);
        isa::arch().dispatch(Widen { rows, wide });
    })
}

/// Converts the rows of a matrix.
pub(crate) struct Widen<'a, T> {
    pub(crate) rows: Matrix<'a, T>,
    pub(crate) wide: &'a mut [f32],
}

impl<T: Float> NullaryFnOnce for Widen<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (i, wide) in self.wide.chunks_exact_mut(self.rows.columns).enumerate() {
            self.rows.widen_row(i, wide);
        }
    }
}

/// Writes the product of at most [`FEW_ROWS`] rows and a matrix whose columns are dense, each of
/// which is read once.
fn few_rows<T: Float>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    let (k, n) = (b.rows, b.columns);
    let (x, columns) = (wide_rows(a, false), b.transposed());
    let arch = isa::arch();
    let products = |j: usize| {
        let (column, mut wide, mut sums) = (columns.dense_row(j), [0.0; BLOCK], [0.0; FEW_ROWS]);
        for (block, column) in column.chunks(BLOCK).enumerate() {
            let wide = &mut wide[..column.len()];
            T::widen(column, wide);
            for (x, sum) in x.chunks(k).zip(&mut sums) {
                *sum += arch.dispatch(Dot(&x[block * BLOCK..][..wide.len()], wide));
            }
        }
        sums.map(T::round)
    };
    let mut all = vec![[T::round(0.0); FEW_ROWS]; n];
    tasks::for_each_chunk(&mut all, COLUMNS, parallel, |task, sums| {
        for (i, sums) in sums.iter_mut().enumerate() {
            *sums = products(task * COLUMNS + i);
        }
    });
    for (i, row) in out.chunks_mut(n).enumerate() {
        for (out, sums) in row.iter_mut().zip(&all) {
            out.write(sums[i]);
        }
    }
}
