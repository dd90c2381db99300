//! Registers of eight `float32` read from, and written to, numbers of each floating-point dtype.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, _CMP_UNORD_Q, _mm_loadu_si128, _mm_storeu_si128, _mm256_add_epi32, _mm256_and_si256,
    _mm256_blendv_ps, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_castsi256_si128,
    _mm256_cmp_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_loadu_ps,
    _mm256_or_si256, _mm256_packus_epi32, _mm256_permute4x64_epi64, _mm256_set1_epi32,
    _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_ps,
};
use std::ptr;

use half::{bf16, f16};

use crate::avx2::LANES;
use crate::floats::Float;

/// A floating-point type that is read and written eight at a time, as `float32`.
pub(super) trait Lanes: Float + Send + Sync {
    /// The numbers at `from`.
    ///
    /// # Safety
    /// The processor has AVX2, FMA and F16C, and eight numbers may be read.
    unsafe fn load(from: *const Self) -> __m256;

    /// Writes the lanes, rounded to the nearest number, to the even one of two.
    ///
    /// # Safety
    /// The processor has AVX2, FMA and F16C, and eight numbers may be written.
    unsafe fn store(to: *mut Self, x: __m256);
}

/// The first numbers at `from`, at most eight, and zeros.
///
/// # Safety
/// The processor has the instructions, and `count` numbers may be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load<T: Lanes>(from: *const T, count: usize) -> __m256 {
    // SAFETY: the caller says so; what is not read is 0.
    unsafe {
        if count >= LANES {
            return T::load(from);
        }
        let mut few = [T::round(0.0); LANES];
        ptr::copy_nonoverlapping(from, few.as_mut_ptr(), count);
        T::load(few.as_ptr())
    }
}

/// Writes the first lanes, at most eight.
///
/// # Safety
/// The processor has the instructions, and `count` numbers may be written.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn store<T: Lanes>(to: *mut T, count: usize, x: __m256) {
    // SAFETY: the caller says so.
    unsafe {
        if count >= LANES {
            return T::store(to, x);
        }
        let mut few = [T::round(0.0); LANES];
        T::store(few.as_mut_ptr(), x);
        ptr::copy_nonoverlapping(few.as_ptr(), to, count);
    }
}

impl Lanes for f32 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller says so.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store(to: *mut Self, x: __m256) {
        // SAFETY: the caller says so.
        unsafe { _mm256_storeu_ps(to, x) };
    }
}

impl Lanes for bf16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller says so.
        let bits = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store(to: *mut Self, x: __m256) {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
        // A NaN keeps its upper half and a bit that no rounding can clear.
        let nan = _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000)));
        let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
        let rounded = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), nan, is_nan);
        let halves = _mm256_srli_epi32::<16>(_mm256_castps_si256(rounded));
        // Each half of the register is packed by itself.
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(halves, halves));
        // SAFETY: the caller says so.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed)) };
    }
}

impl Lanes for f16 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller says so.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn store(to: *mut Self, x: __m256) {
        /// To the nearest.
        const ROUNDING: i32 = 0;
        // SAFETY: the caller says so.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<ROUNDING>(x)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn numbers_are_rounded_as_the_portable_kernels_do() {
        if !Isa::Avx2.is_supported() {
            eprintln!("skipped: this processor has no AVX2");
            return;
        }
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, 1e-40];
        let samples = (0..1_u32 << 16).map(|i| f32::from_bits(i.wrapping_mul(65_521)));
        let samples: Vec<f32> = special.into_iter().chain(samples).collect();
        for part in samples.chunks(LANES) {
            let (mut bf, mut half) = ([bf16::ZERO; LANES], [f16::ZERO; LANES]);
            // SAFETY: the instructions were found above; `part` has so many numbers.
            unsafe {
                let x = load(part.as_ptr(), part.len());
                store(bf.as_mut_ptr(), part.len(), x);
                store(half.as_mut_ptr(), part.len(), x);
            }
            for (i, &x) in part.iter().enumerate() {
                let (wanted_bf, wanted_half) = (bf16::from_f32(x), f16::from_f32(x));
                assert!(bf[i] == wanted_bf || x.is_nan() && bf[i].is_nan(), "{x}: {}", bf[i]);
                assert!(half[i] == wanted_half || x.is_nan() && half[i].is_nan(), "{x}");
            }
        }
    }
}
