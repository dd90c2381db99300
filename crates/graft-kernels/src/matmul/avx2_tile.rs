//! Products of rows where they lie and a packed matrix, by AVX2's multiply-adds: see `panels`.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_set1_ps, _mm256_setzero_ps,
};

use super::avx2::{A_LINES, Avx2, B, FEWER};
use super::avx2_lanes::{load, store};
use super::blocked::FEW_STEPS;
use super::panels::{Numbers, RowKernel, Tile};
use crate::avx2::LANES;

impl RowKernel for Avx2 {
    fn rows_read(rows: usize) -> usize {
        if rows <= FEWER { FEWER } else { A_LINES }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn multiply<A: Numbers>(tile: &Tile, a: A, b: &[B]) {
        // SAFETY: the caller says so.
        unsafe {
            match Self::rows_read(tile.rows) {
                FEWER => multiply_rows::<A, FEWER>(tile, a, b),
                _ => multiply_rows::<A, A_LINES>(tile, a, b),
            }
        }
    }
}

/// Writes or adds the product of `ROWS` rows and a panel.
///
/// # Safety
/// As [`RowKernel::multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_rows<A: Numbers, const ROWS: usize>(tile: &Tile, a: A, b: &[B]) {
    // SAFETY: the caller says so.
    let sums = unsafe { product::<A, ROWS>(a, b) };
    let write = |i: usize, part: usize, sum: __m256| {
        let count = tile.columns.saturating_sub(part * LANES);
        let out = tile.at(i, part * LANES);
        // SAFETY: the caller has so many rows and columns.
        unsafe {
            let sum = if tile.add { _mm256_add_ps(sum, load(out, count)) } else { sum };
            store(out, count, sum);
        }
    };
    if tile.rows == ROWS {
        // A loop of known length, so that the sums stay in registers.
        for (i, sums) in sums.iter().enumerate() {
            write(i, 0, sums[0]);
            write(i, 1, sums[1]);
        }
    } else {
        for (i, sums) in sums.iter().enumerate().take(tile.rows) {
            write(i, 0, sums[0]);
            write(i, 1, sums[1]);
        }
    }
}

/// The sums of the products of `ROWS` rows and a panel.
///
/// # Safety
/// The rows have a number for each step.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn product<A: Numbers, const ROWS: usize>(a: A, b: &[B]) -> [[__m256; 2]; ROWS] {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
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
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<A: Numbers, const ROWS: usize>(
    a: A,
    t: usize,
    b: &B,
    sums: &mut [[__m256; 2]; ROWS],
) {
    let from = b.as_ptr();
    // SAFETY: a step is two registers, and aligned as they are.
    let b = unsafe { [_mm256_load_ps(from), _mm256_load_ps(from.add(LANES))] };
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller says so.
        let a = _mm256_set1_ps(unsafe { a.get(i, t) });
        for (sum, &b) in sums.iter_mut().zip(&b) {
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
}
