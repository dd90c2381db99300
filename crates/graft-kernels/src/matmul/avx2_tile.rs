//! A tile of a product by AVX2's multiply-adds: 6 rows and 16 columns, so that the sums and what is
//! multiplied fill the registers.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // see `lanes`

use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_load_ps, _mm256_set1_ps, _mm256_setzero_ps,
};

use super::blocked::FEW_STEPS;
use crate::avx2::LANES;

/// Rows of a tile.
pub(super) const A_LINES: usize = 6;

/// Columns of a tile, and of a panel.
pub(super) const B_LINES: usize = 2 * LANES;

/// The sums of a tile.
type Sums = [[__m256; 2]; A_LINES];

/// A step of a panel of `b`, which fills a line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct B([f32; B_LINES]);

impl B {
    pub(super) const ZERO: Self = Self([0.0; B_LINES]);

    /// The address of the first number, which is that of a register.
    #[inline]
    pub(super) fn as_ptr(&self) -> *const f32 {
        self.0.as_ptr()
    }
}

/// The numbers of six rows.
pub(super) trait Numbers: Copy {
    /// Number `t` of row `i`.
    ///
    /// # Safety
    /// The row has so many.
    unsafe fn get(self, i: usize, t: usize) -> f32;
}

/// The sums of the products of six rows and a panel.
///
/// # Safety
/// The rows have a number for each step.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn product<A: Numbers>(a: A, b: &[B]) -> Sums {
    let mut sums = [[_mm256_setzero_ps(); 2]; A_LINES];
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
unsafe fn multiply<A: Numbers>(a: A, t: usize, b: &B, sums: &mut Sums) {
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

/// Gives `write` each register of the first rows of a tile: the row, which of its two, and the sums.
#[inline(always)]
pub(super) fn write(sums: &Sums, rows: usize, mut write: impl FnMut(usize, usize, __m256)) {
    if rows == A_LINES {
        // A loop of known length, so that the sums stay in registers.
        for (i, sums) in sums.iter().enumerate() {
            write(i, 0, sums[0]);
            write(i, 1, sums[1]);
        }
    } else {
        for (i, sums) in sums.iter().enumerate().take(rows) {
            write(i, 0, sums[0]);
            write(i, 1, sums[1]);
        }
    }
}
