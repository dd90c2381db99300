//! Registers of sixteen `float32` read from, and written to, numbers of each floating-point dtype.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, __m512i, _CMP_UNORD_Q, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16,
    _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cmp_ps_mask, _mm512_cvtepi32_epi16, _mm512_cvtepu16_epi32, _mm512_cvtph_ps,
    _mm512_cvtps_ph, _mm512_mask_or_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi16,
    _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_slli_epi32, _mm512_srli_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use half::{bf16, f16};

use crate::avx512::{LANES, mask};
use crate::floats::Float;

/// A floating-point type that is read and written sixteen at a time, as `float32`.
pub(super) trait Lanes: Float + Send + Sync {
    /// Numbers of a line that [`transpose`](Self::transpose) reads: a register of them at most.
    const TOGETHER: usize = LANES;

    /// The numbers at `from` in the lanes of `mask`, zeros in the others.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL, and the lanes of `mask` may be read.
    unsafe fn load(from: *const Self, mask: u16) -> __m512;

    /// Writes the lanes of `mask`, rounded to the nearest number, to the even one of two.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL, and the lanes of `mask` may be written.
    unsafe fn store(to: *mut Self, mask: u16, x: __m512);

    /// Gives `put` the first numbers of sixteen lines, then the second ones, and so on: those of
    /// [`TOGETHER`](Self::TOGETHER), zeros where the `count` that the lines have are fewer.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL, and each line has so many numbers, at least one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn transpose(
        lines: [*const Self; LANES],
        count: usize,
        mut put: impl FnMut(usize, __m512),
    ) {
        let mask = mask(count);
        let mut r = [_mm512_setzero_si512(); LANES];
        for (r, line) in r.iter_mut().zip(lines) {
            // SAFETY: the mask covers numbers of the line.
            *r = _mm512_castps_si512(unsafe { Self::load(line, mask) });
        }
        // SAFETY: this function is compiled for the instructions.
        let r = unsafe { transposed(r) };
        for (i, r) in r.into_iter().enumerate() {
            put(i, _mm512_castsi512_ps(r));
        }
    }
}

impl Lanes for f32 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: u16) -> __m512 {
        // SAFETY: the caller says so.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store(to: *mut Self, mask: u16, x: __m512) {
        // SAFETY: the caller says so.
        unsafe { _mm512_mask_storeu_ps(to, mask, x) };
    }
}

impl Lanes for bf16 {
    const TOGETHER: usize = 2 * LANES;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: u16) -> __m512 {
        // SAFETY: the caller says so.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store(to: *mut Self, mask: u16, x: __m512) {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
        // A NaN keeps its upper half and a bit that no rounding can clear.
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
        let rounded = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
        // SAFETY: the caller says so.
        unsafe { _mm256_mask_storeu_epi16(to.cast(), mask, rounded) };
    }

    /// Pairs of neighbours, which are converted last: that takes less than half of the shuffles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn transpose(
        lines: [*const Self; LANES],
        count: usize,
        mut put: impl FnMut(usize, __m512),
    ) {
        // SAFETY: the caller says so, and this function is compiled for the instructions.
        let pairs = unsafe { transposed_pairs(lines, count) };
        let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
        for (i, pairs) in pairs.into_iter().enumerate() {
            put(2 * i, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)));
            put(2 * i + 1, _mm512_castsi512_ps(_mm512_and_si512(pairs, upper)));
        }
    }
}

impl Lanes for f16 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: u16) -> __m512 {
        // SAFETY: the caller says so.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store(to: *mut Self, mask: u16, x: __m512) {
        /// To the nearest.
        const ROUNDING: i32 = 0;
        // SAFETY: the caller says so.
        unsafe { _mm256_mask_storeu_epi16(to.cast(), mask, _mm512_cvtps_ph::<ROUNDING>(x)) };
    }
}

/// The first two numbers of sixteen lines, then the next ones, and so on: those of 32, zeros where the
/// `count` that the lines have are fewer.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL, the caller is compiled for it, and each line has so many
/// numbers.
#[allow(clippy::inline_always)] // The registers would go through memory.
#[inline(always)]
pub(super) unsafe fn transposed_pairs(
    lines: [*const bf16; LANES],
    count: usize,
) -> [__m512i; LANES] {
    let mask = u32::MAX >> (2 * LANES).saturating_sub(count);
    // SAFETY: the caller says so; the mask covers numbers of the line.
    unsafe {
        let mut pairs = [_mm512_setzero_si512(); LANES];
        for (pairs, line) in pairs.iter_mut().zip(lines) {
            *pairs = _mm512_maskz_loadu_epi16(mask, line.cast());
        }
        transposed(pairs)
    }
}

/// Exchanges rows and columns of sixteen registers of sixteen lanes of 32 bits.
///
/// # Safety
/// The processor has AVX-512 F, and the caller is compiled for it.
#[allow(clippy::inline_always)] // The registers would go through memory.
#[inline(always)]
pub(super) unsafe fn transposed(mut r: [__m512i; LANES]) -> [__m512i; LANES] {
    // SAFETY: the caller says so.
    unsafe {
        // In each quarter of a register: lanes of two rows, then of four.
        let mut t = r;
        for i in 0..LANES / 2 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..LANES / 4 {
            r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        // Quarters of four registers change places.
        let mut out = [_mm512_setzero_si512(); LANES];
        for j in 0..LANES / 4 {
            let even = _mm512_shuffle_i32x4::<0x88>(r[j], r[4 + j]);
            let odd = _mm512_shuffle_i32x4::<0xdd>(r[j], r[4 + j]);
            let even_2 = _mm512_shuffle_i32x4::<0x88>(r[8 + j], r[12 + j]);
            let odd_2 = _mm512_shuffle_i32x4::<0xdd>(r[8 + j], r[12 + j]);
            out[j] = _mm512_shuffle_i32x4::<0x88>(even, even_2);
            out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even, even_2);
            out[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd, odd_2);
            out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_2);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn numbers_are_rounded_as_the_portable_kernels_do() {
        if !Isa::Avx512.is_supported() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, 1e-40];
        let samples = (0..1_u32 << 16).map(|i| f32::from_bits(i.wrapping_mul(65_521)));
        let samples: Vec<f32> = special.into_iter().chain(samples).collect();
        for part in samples.chunks(LANES) {
            let mask = mask(part.len());
            let (mut bf, mut half) = ([bf16::ZERO; LANES], [f16::ZERO; LANES]);
            // SAFETY: the instructions were found above; the mask covers the elements.
            unsafe {
                let x = <f32 as Lanes>::load(part.as_ptr(), mask);
                <bf16 as Lanes>::store(bf.as_mut_ptr(), mask, x);
                <f16 as Lanes>::store(half.as_mut_ptr(), mask, x);
            }
            for (i, &x) in part.iter().enumerate() {
                let (wanted_bf, wanted_half) = (bf16::from_f32(x), f16::from_f32(x));
                assert!(bf[i] == wanted_bf || x.is_nan() && bf[i].is_nan(), "{x}: {}", bf[i]);
                assert!(half[i] == wanted_half || x.is_nan() && half[i].is_nan(), "{x}");
            }
        }
    }
}
