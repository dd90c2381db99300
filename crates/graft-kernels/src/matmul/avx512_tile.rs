//! Products of rows where they lie and a packed matrix, by AVX-512's multiply-adds: see `panels`.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};
use std::array;

use super::avx512::Avx512;
use super::avx512_panels::{A_LINES, B_ROWS, Row};
use super::blocked::FEW_STEPS;
use super::panels::{Numbers, RowKernel, Tile};
use crate::avx512::{LANES, mask};

/// Rows of the tiles that take what is left of a matrix: as few as hide the latency of a
/// multiplication, and half of them.
pub(super) const FEWER: usize = 8;
pub(super) const FEWEST: usize = FEWER / 2;

impl RowKernel for Avx512 {
    fn rows_read(rows: usize) -> usize {
        [FEWEST, FEWER].into_iter().find(|&fewer| rows <= fewer).unwrap_or(A_LINES)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn multiply<A: Numbers>(tile: &Tile, a: A, b: &[[Row; B_ROWS]]) {
        // SAFETY: the caller says so.
        unsafe {
            match (Self::rows_read(tile.rows), tile.columns <= LANES) {
                (A_LINES, false) => multiply_rows::<A, A_LINES, B_ROWS>(tile, a, b),
                (A_LINES, true) => multiply_rows::<A, A_LINES, 1>(tile, a, b),
                (FEWER, false) => multiply_rows::<A, FEWER, B_ROWS>(tile, a, b),
                (FEWER, true) => multiply_rows::<A, FEWER, 1>(tile, a, b),
                (_, false) => multiply_rows::<A, FEWEST, B_ROWS>(tile, a, b),
                (_, true) => multiply_rows::<A, FEWEST, 1>(tile, a, b),
            }
        }
    }
}

/// Writes or adds the product of `ROWS` rows and as many columns of a panel as `REGISTERS` hold.
///
/// # Safety
/// As [`RowKernel::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn multiply_rows<A: Numbers, const ROWS: usize, const REGISTERS: usize>(
    tile: &Tile,
    a: A,
    b: &[[Row; B_ROWS]],
) {
    // SAFETY: the caller says so.
    let sums = unsafe { product::<A, ROWS, REGISTERS>(a, b) };
    let masks: [u16; REGISTERS] =
        array::from_fn(|part| mask(tile.columns.saturating_sub(part * LANES)));
    let write = |i: usize, sums: &[__m512; REGISTERS]| {
        for (part, (&sum, &mask)) in sums.iter().zip(&masks).enumerate() {
            let out = tile.at(i, part * LANES);
            // SAFETY: the mask covers columns that the caller has.
            unsafe {
                let sum = if tile.add {
                    _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, out))
                } else {
                    sum
                };
                _mm512_mask_storeu_ps(out, mask, sum);
            }
        }
    };
    if tile.rows == ROWS {
        // A loop of known length, so that the sums stay in registers.
        for (i, sums) in sums.iter().enumerate() {
            write(i, sums);
        }
    } else {
        for (i, sums) in sums.iter().enumerate().take(tile.rows) {
            write(i, sums);
        }
    }
}

/// The sums of the products of `ROWS` rows and the columns of `REGISTERS` of a panel.
///
/// # Safety
/// The rows have a number for each step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn product<A: Numbers, const ROWS: usize, const REGISTERS: usize>(
    a: A,
    b: &[[Row; B_ROWS]],
) -> [[__m512; REGISTERS]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
    let (many, rest) = b.as_chunks::<FEW_STEPS>();
    // Few steps at a time, so that they are written out one behind the other.
    for (block, few) in many.iter().enumerate() {
        for (t, b) in few.iter().enumerate() {
            // SAFETY: the caller says so.
            unsafe { multiply(a, block * FEW_STEPS + t, b, &mut sums) };
        }
    }
    for (t, b) in rest.iter().enumerate() {
        // SAFETY: as above.
        unsafe { multiply(a, many.len() * FEW_STEPS + t, b, &mut sums) };
    }
    sums
}

/// Adds the products of number `t` of each row and a step of a panel.
///
/// # Safety
/// The rows have so many numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn multiply<A: Numbers, const ROWS: usize, const REGISTERS: usize>(
    a: A,
    t: usize,
    b: &[Row; B_ROWS],
    sums: &mut [[__m512; REGISTERS]; ROWS],
) {
    // SAFETY: a row has 64 bytes, and is aligned to as many.
    let b: [__m512; REGISTERS] = array::from_fn(|i| unsafe { _mm512_load_ps(b[i].0.as_ptr()) });
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller says so.
        let a = _mm512_set1_ps(unsafe { a.get(i, t) });
        for (sum, &b) in sums.iter_mut().zip(&b) {
            *sum = _mm512_fmadd_ps(a, b, *sum);
        }
    }
}
