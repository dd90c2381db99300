//! Products of `float32`: by this crate's own kernels where they are the faster ones, and by the `gemm`
//! crate.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ops::Range;

use gemm::Parallelism;
use mlx_graft::primitive::{KernelError, OutputBuffer};

#[cfg(target_arch = "x86_64")]
use super::avx2::{self, Avx2};
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::converted::wide_rows;
use super::gemv;
use super::matrix::Matrix;
use super::problem::{Output, Product, is_parallel};
#[cfg(target_arch = "x86_64")]
use super::{avx2_few_rows, blocked, problem::Each, skinny};
use crate::floats::Float;
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::tasks;

impl Product for f32 {
    fn multiply(
        a: Matrix<'_, f32>,
        b: Matrix<'_, f32>,
        out: &mut [MaybeUninit<f32>],
        parallel: bool,
    ) {
        assert!(a.columns == b.rows && out.len() == a.rows * b.columns);
        #[cfg(target_arch = "x86_64")]
        if avx2_few_rows::suits(&a, &b) {
            return avx2_few_rows::multiply(a, b, out, parallel);
        }
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
        #[cfg(target_arch = "x86_64")]
        if skinny::multiply_along(a, b, out, parallel)
            || skinny::multiply_across(a, b, out, parallel)
        {
            return;
        }
        write(a, b, out, parallel);
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_few_rows(
        a: Matrix<'_, f32>,
        products: &mut [Each<'_, '_, f32>],
        parallel: bool,
    ) -> bool {
        avx2_few_rows::multiply_each(a, products, parallel)
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_sum(
        products: &[[Matrix<'_, f32>; 2]],
        short: Option<[Matrix<'_, f32>; 2]>,
        out: &mut [MaybeUninit<f32>],
        parallel: bool,
    ) -> bool {
        blocked::multiply_sum_in_float32(products, short, out, parallel)
    }
}

/// Writes a product whose first factor has 16-bit numbers.
pub(super) fn narrow_first<T: Float + Send + Sync>(
    a: Matrix<'_, T>,
    b: Matrix<'_, f32>,
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    let parallel = is_parallel(a.rows, a.columns, b.columns);
    // SAFETY: each of the kernels writes all of it.
    let out = unsafe { output.as_uninit_slice::<f32>()? };
    #[cfg(target_arch = "x86_64")]
    if skinny::multiply_along(a, b, out, parallel) || skinny::multiply_across(a, b, out, parallel) {
        return Ok(());
    }
    f32::multiply(wide(a, parallel, &mut Vec::new()), b, out, parallel);
    Ok(())
}

/// Writes a product whose second factor has 16-bit numbers.
pub(super) fn narrow_second<T: Float + Send + Sync>(
    a: Matrix<'_, f32>,
    b: Matrix<'_, T>,
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    let parallel = is_parallel(a.rows, a.columns, b.columns);
    // SAFETY: each of the kernels writes all of it.
    let out = unsafe { output.as_uninit_slice::<f32>()? };
    #[cfg(target_arch = "x86_64")]
    if skinny::multiply_across(a, b, out, parallel) {
        return Ok(());
    }
    f32::multiply(a, wide(b, parallel, &mut Vec::new()), out, parallel);
    Ok(())
}

/// A matrix in `float32`, which lies as it does.
fn wide<'a, T: Float>(
    matrix: Matrix<'_, T>,
    parallel: bool,
    memory: &'a mut Vec<f32>,
) -> Matrix<'a, f32> {
    let is_across = !matrix.has_dense_rows() && matrix.transposed().has_dense_rows();
    let lying = if is_across { matrix.transposed() } else { matrix };
    *memory = wide_rows(lying, parallel);
    let wide = Matrix::from_rows(memory, lying.rows, lying.columns);
    if is_across { wide.transposed() } else { wide }
}

/// Whether the kernel for AVX-512 is the faster one, as measured on one and two threads. It packs all
/// of `a`, so the other sizes must not be small, unless the sum is so short that writing is all.
#[cfg(target_arch = "x86_64")]
fn suits_avx512(a: &Matrix<'_, f32>, b: &Matrix<'_, f32>) -> bool {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    let is_faster = if k <= 16 {
        m >= 512 && n >= 256
    } else if k < 256 {
        false
    } else if !a.has_dense_rows() {
        // Gradients of weights, whose `a` the `gemm` crate packs slowly.
        a.transposed().has_dense_rows() && (m >= 512 || m >= 64 && n >= 256)
    } else if b.transposed().has_dense_rows() {
        // A layer's weights: with four rows it takes half of the time, with 128 nine tenths.
        m >= 512 && n >= 256 || m >= 2 && k > m && n >= m.max(128)
    } else {
        m >= 512 && n >= 256
    };
    is_faster && Isa::Avx512.is_usable()
}

/// Whether the kernel for AVX2 is the faster one, on one and on two threads: it takes 10 to 30 % less
/// time, unless the sum is short, there are few columns, or few rows for which `b` is packed across.
#[cfg(target_arch = "x86_64")]
fn suits_avx2(a: &Matrix<'_, f32>, b: &Matrix<'_, f32>) -> bool {
    let is_faster =
        (a.rows >= 16 || b.transposed().has_dense_rows()) && a.columns >= 256 && b.columns >= 256;
    is_faster && avx2::suits(a, b) && !Isa::Avx512.is_usable()
}

/// Writes `a × b` to `out`, all of it.
fn write(a: Matrix<'_, f32>, b: Matrix<'_, f32>, out: &mut [MaybeUninit<f32>], parallel: bool) {
    #[cfg(target_arch = "x86_64")]
    if suits_avx512(&a, &b) {
        return blocked::multiply::<Avx512, _>(a, b, out, parallel);
    }
    #[cfg(target_arch = "x86_64")]
    if suits_avx2(&a, &b) {
        return blocked::multiply::<Avx2, _>(a, b, out, parallel);
    }
    // SAFETY: nothing is added, so that `out` is written only.
    unsafe { gemm(a, b, out, false, parallel) };
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
    write(a, b, &mut out.spare_capacity_mut()[..size], parallel);
    // SAFETY: the first `size` elements are written.
    unsafe { out.set_len(size) };
}

/// Adds `a × b` to `out`, row by row, on this thread.
pub(crate) fn add_product(out: &mut [f32], a: Matrix<'_, f32>, b: Matrix<'_, f32>) {
    // SAFETY: the elements are initialised, and stay so.
    unsafe { gemm(a, b, &mut *(&raw mut *out as *mut [MaybeUninit<f32>]), true, false) };
}

/// Writes `a × b` to `out`, all of it, or adds it, in blocks, by the `gemm` crate.
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
    let (m, n) = (a.rows, b.columns);
    let out = Output(out.as_mut_ptr());
    let [down, across] = if parallel { blocks(m, n, tasks::threads()) } else { [1, 1] };
    tasks::for_each(down * across, parallel, |task, (): &mut ()| {
        let rows = part(task / across, down, m);
        let columns = part(task % across, across, n);
        let a = a.rows(rows.start, rows.len());
        let b = b.columns(columns.start, columns.len());
        // SAFETY: the block is one of a row-major matrix of `m` by `n` elements, checked above, and
        // no other task's. It is initialised if the caller says so.
        unsafe { block(a, b, out.at(rows.start * n + columns.start).cast(), n, add) };
    });
}

/// Into how many blocks, down and across, a product is cut: two for each thread, so that one that
/// is held up does not hold up the other. Blocks of all rows and fewer columns were the faster ones.
fn blocks(m: usize, n: usize, threads: usize) -> [usize; 2] {
    /// Rows, and columns, of a block at least: the other operand is packed once for each.
    const LEAST: [usize; 2] = [96, 192];
    let across = (n / LEAST[1]).clamp(1, 2 * threads);
    [(2 * threads).div_ceil(across).min(m / LEAST[0]).max(1), across]
}

/// Part `i` of `parts` of `count` rows or columns: multiples of what kernels compute at once.
fn part(i: usize, parts: usize, count: usize) -> Range<usize> {
    let size = count.div_ceil(parts).next_multiple_of(16);
    (i * size).min(count)..((i + 1) * size).min(count)
}

/// Writes `a × b`, or adds it, by the `gemm` crate, to a block of a row-major matrix of `stride`
/// columns.
///
/// # Safety
/// The block is there, nobody else uses it, and if it is added to, it is initialised.
unsafe fn block(a: Matrix<'_, f32>, b: Matrix<'_, f32>, out: *mut f32, stride: usize, add: bool) {
    let (a_data, a_row, a_column) = a.as_parts();
    let (b_data, b_row, b_column) = b.as_parts();
    // SAFETY: `Matrix` promises that every index is a live element; the rest is the caller's
    // promise.
    unsafe {
        ::gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            stride as isize,
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
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_product_once() {
        for (m, n, threads) in
            [(1, 1, 2), (7, 4096, 2), (1024, 8, 2), (1000, 777, 16), (97, 193, 3)]
        {
            let [down, across] = blocks(m, n, threads);
            assert!(down * across <= 4 * threads);
            for (parts, count) in [(down, m), (across, n)] {
                let ranges = (0..parts).map(|i| part(i, parts, count));
                assert!(ranges.flatten().eq(0..count), "{count} in {parts}");
            }
        }
    }

    /// Products on both sides of what decides between the kernels, against sums of `f64`.
    #[test]
    fn every_kernel_multiplies() {
        let number = |i: usize| ((i * 7919) % 1009) as f32 / 504.5 - 1.0;
        let sizes = [(1, 256, 128), (2, 256, 128), (5, 1030, 129), (40, 255, 130), (130, 300, 129)];
        let more = [(5, 256, 256), (17, 300, 257), (511, 260, 256), (513, 8, 257), (65, 257, 256)];
        for (m, k, n) in sizes.into_iter().chain(more) {
            let (a, b) = ((0..m * k).map(number), (0..k * n).map(|i| number(i + 77)));
            let (a, b): (Vec<_>, Vec<_>) = (a.collect(), b.collect());
            let rows = [Matrix::from_rows(&a, m, k), Matrix::from_rows(&a, k, m).transposed()];
            let columns = [Matrix::from_rows(&b, k, n), Matrix::from_rows(&b, n, k).transposed()];
            for (a, b) in rows.into_iter().flat_map(|a| columns.map(|b| (a, b))) {
                let mut found = Vec::new();
                for parallel in [false, true] {
                    product_into(&mut found, a, b, parallel);
                    assert_eq!(found.len(), m * n);
                    for (at, &found) in found.iter().enumerate() {
                        let (i, j) = (at / n, at % n);
                        let terms = (0..k).map(|t| f64::from(a.get(i, t)) * f64::from(b.get(t, j)));
                        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| {
                            (sum + term, size + f64::abs(term))
                        });
                        let bound = k as f64 * 6e-8 * size;
                        assert!((f64::from(found) - sum).abs() <= bound, "{m} {k} {n}: {found}");
                    }
                }
            }
        }
    }
}
