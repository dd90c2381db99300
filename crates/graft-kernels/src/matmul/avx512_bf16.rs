//! Products of a few rows of `bfloat16` by AVX-512's dot products of pairs, which add up in `float32`:
//! nothing is packed. Many rows are those of `avx512_pairs`.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_maskz_loadu_epi16,
    _mm512_reduce_add_ps, _mm512_setzero_ps,
};
use std::mem::{MaybeUninit, transmute};

use half::bf16;

use super::few_rows::parts;
use super::matrix::Matrix;
use super::problem::Each;
use crate::avx512::LANES;
use crate::isa::Isa;
use crate::prefetch::{prefetch, reads_in_order};
use crate::tasks;

/// Rows up to which packing does not pay.
const FEW_ROWS: usize = 4;

/// Columns that are read side by side there, for each of which the row is in a register anyway.
const TOGETHER: usize = 4;

/// Whether [`few_rows`] multiplies these matrices.
pub(super) fn suits_few_rows(a: &Matrix<'_, bf16>, b: &Matrix<'_, bf16>) -> bool {
    Isa::Avx512Bf16.is_usable()
        && (a.rows <= FEW_ROWS && b.transposed().has_dense_rows()
            || b.columns == 1 && a.has_dense_rows())
}

fn as_bf16(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { transmute(x) }
}

/// Whether [`few_rows_of_each`] multiplies these matrices.
pub(super) fn suits_each(a: &Matrix<'_, bf16>, products: &[Each<'_, '_, bf16>]) -> bool {
    let suits = |b| suits_few_rows(a, b) && b.transposed().has_dense_rows();
    a.rows <= FEW_ROWS && products.iter().all(|(b, _)| suits(b))
}

/// Writes `a × b` to `out`, all of it, for at most [`FEW_ROWS`] rows and a matrix with dense
/// columns, each of which is read once; or the other way round for a single column.
///
/// # Panics
/// If the processor lacks the instructions, or the matrices are others.
pub(super) fn few_rows(
    a: Matrix<'_, bf16>,
    b: Matrix<'_, bf16>,
    out: &mut [MaybeUninit<bf16>],
    parallel: bool,
) {
    if a.rows > FEW_ROWS || !b.transposed().has_dense_rows() {
        // A product with a column is that of the transposed matrices, and so is its output.
        return few_rows(b.transposed(), a.transposed(), out, parallel);
    }
    few_rows_of_each(a, &mut [(b, out)], parallel);
}

/// Writes the product of at most [`FEW_ROWS`] rows and each of several matrices with dense columns,
/// all of it; threads share the work of all.
///
/// # Panics
/// As [`few_rows`].
pub(super) fn few_rows_of_each(
    a: Matrix<'_, bf16>,
    products: &mut [Each<'_, '_, bf16>],
    parallel: bool,
) {
    assert!(suits_each(&a, products) && products.iter().all(|(b, _)| b.rows == a.columns));
    let rows: Vec<Vec<bf16>> = (0..a.rows).map(|i| a.row_to_vec(i)).collect();
    let parts = parts(a.rows, products);
    // With several rows, a column that is read again comes from the cache.
    let in_order = reads_in_order();
    tasks::for_each(parts.len(), parallel, |task, (): &mut ()| {
        let part = &parts[task];
        let (columns, last) = (part.columns, part.columns.rows);
        let mut j = 0;
        while j < last {
            let together = if last - j < TOGETHER || in_order { 1 } else { TOGETHER };
            for (i, row) in rows.iter().enumerate() {
                // SAFETY: the instructions were found above; elements (i, j..j + together) exist
                // and are written by this task alone.
                unsafe {
                    if together == 1 {
                        let [product] = dots::<1, TOGETHER>(row, [columns.dense_row(j)]);
                        part.write(i, j, product);
                    } else {
                        let columns = std::array::from_fn(|n| columns.dense_row(j + n));
                        for (n, product) in dots::<TOGETHER, 1>(row, columns).iter().enumerate() {
                            part.write(i, j + n, *product);
                        }
                    }
                }
            }
            j += together;
        }
    });
}

/// The dot products of `x` and each of `columns`, which are as long, in so many sums each that are
/// independent of each other: one need not wait for another.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn dots<const N: usize, const SUMS: usize>(x: &[bf16], columns: [&[bf16]; N]) -> [f32; N] {
    /// Numbers in a register.
    const WIDTH: usize = 2 * LANES;

    let columns = columns.map(|column| &column[..x.len()]);
    let mut sums = [[_mm512_setzero_ps(); SUMS]; N];
    let step = WIDTH * SUMS;
    let whole = x.len() - x.len() % step;
    for start in (0..whole).step_by(step) {
        for s in 0..SUMS {
            let at = start + s * WIDTH..start + (s + 1) * WIDTH;
            let x = part(&x[at.clone()]);
            for (sums, column) in sums.iter_mut().zip(&columns) {
                prefetch(&raw const column[at.start]);
                sums[s] = _mm512_dpbf16_ps(sums[s], x, part(&column[at.clone()]));
            }
        }
    }
    for start in (whole..x.len()).step_by(WIDTH) {
        let at = start..x.len().min(start + WIDTH);
        let x = part(&x[at.clone()]);
        for (sums, column) in sums.iter_mut().zip(&columns) {
            sums[0] = _mm512_dpbf16_ps(sums[0], x, part(&column[at.clone()]));
        }
    }
    sums.map(|sums| {
        let total = sums.into_iter().fold(_mm512_setzero_ps(), |x, y| _mm512_add_ps(x, y));
        _mm512_reduce_add_ps(total)
    })
}

/// At most 32 numbers, and zeros.
#[target_feature(enable = "avx512f,avx512bw")]
fn part(x: &[bf16]) -> __m512bh {
    assert!((1..=2 * LANES).contains(&x.len()));
    let mask = u32::MAX >> (2 * LANES - x.len());
    // SAFETY: the mask covers the elements of the slice.
    as_bf16(unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr().cast()) })
}
