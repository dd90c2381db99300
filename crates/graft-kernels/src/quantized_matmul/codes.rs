//! Codes in AVX-512's registers: how they get there, and what they stand for.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m512, __m512i, _mm_loadu_si128, _mm512_and_si512, _mm512_broadcast_i32x4,
    _mm512_cvtepi32_epi16, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_loadu_si512,
    _mm512_mask_blend_epi8, _mm512_permutexvar_epi16, _mm512_permutexvar_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_shuffle_epi8, _mm512_slli_epi32, _mm512_sllv_epi16,
    _mm512_srai_epi32, _mm512_srli_epi32, _mm512_srlv_epi16,
};

/// Bits of a code in a register: whole codes fill a byte.
pub(super) const fn width(bits: usize) -> usize {
    match bits {
        2 | 4 => bits,
        _ => 8,
    }
}

/// Codes of one number of bits, and what they stand for.
pub(super) trait Codes {
    /// Bits of a code in memory.
    const BITS: usize;
    /// Bits of a code in a register.
    const WIDTH: usize = width(Self::BITS);
    /// What the numbers of [`next`](Self::next) are to be multiplied with.
    const FACTOR: f32 = 1.0;

    /// A register of codes, of them as they lie in memory.
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW.
    unsafe fn spread(words: __m512i) -> __m512i;

    /// What the lowest code of each word stands for, and the words without it. The numbers of codes
    /// of four bits or fewer are looked up.
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW.
    unsafe fn next(words: __m512i, numbers: __m512) -> (__m512, __m512i);
}

/// Codes of two or four bits, which are looked up.
pub(super) struct LookedUp<const BITS: usize>;

impl<const BITS: usize> Codes for LookedUp<BITS> {
    const BITS: usize = BITS;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn spread(words: __m512i) -> __m512i {
        words
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn next(words: __m512i, numbers: __m512) -> (__m512, __m512i) {
        let rest = match BITS {
            2 => _mm512_srli_epi32::<2>(words),
            _ => _mm512_srli_epi32::<4>(words),
        };
        // The look-up ignores all but the lowest four bits.
        (_mm512_permutexvar_ps(words, numbers), rest)
    }
}

/// Whole numbers of three, five, six or eight bits, which fill a byte each in a register.
pub(super) struct Whole<const BITS: usize>;

impl<const BITS: usize> Whole<BITS> {
    /// Sixteen codes take `BITS` pairs of bytes of memory. To each quarter of a register go its own,
    /// and some that follow.
    const PAIRS: [u16; 32] = {
        let mut pairs = [0; 32];
        let mut i = 0;
        while i < 32 {
            pairs[i] = (i / 8 * BITS + i % 8) as u16 % 32;
            i += 1;
        }
        pairs
    };

    /// The two bytes of a quarter that hold code 0, those that hold code 2, and so on, or those of
    /// codes 1, 3, …; and by how many bits the former move right, to the lower end of the lower byte,
    /// or the latter left, to that of the upper one.
    const fn places(odd: usize) -> ([u8; 16], [u16; 8]) {
        let (mut bytes, mut shifts) = ([0; 16], [0; 8]);
        let mut i = 0;
        while i < 8 {
            let bit = (2 * i + odd) * BITS;
            bytes[2 * i] = (bit / 8) as u8;
            bytes[2 * i + 1] = (bit / 8) as u8 + 1;
            shifts[i] = if odd == 0 { bit % 8 } else { 8 - bit % 8 } as u16;
            i += 1;
        }
        (bytes, shifts)
    }

    const PLACES: [([u8; 16], [u16; 8]); 2] = [Self::places(0), Self::places(1)];
}

impl<const BITS: usize> Codes for Whole<BITS> {
    const BITS: usize = BITS;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn spread(words: __m512i) -> __m512i {
        if BITS == 8 {
            return words;
        }
        let [(even_bytes, even_shifts), (odd_bytes, odd_shifts)] = Self::PLACES;
        // SAFETY: the arrays fill a register, and a quarter of one.
        let (pairs, even_bytes, even_shifts, odd_bytes, odd_shifts) = unsafe {
            (
                _mm512_loadu_si512(Self::PAIRS.as_ptr().cast()),
                in_each_quarter(even_bytes.as_ptr().cast()),
                in_each_quarter(even_shifts.as_ptr().cast()),
                in_each_quarter(odd_bytes.as_ptr().cast()),
                in_each_quarter(odd_shifts.as_ptr().cast()),
            )
        };
        let words = _mm512_permutexvar_epi16(pairs, words);
        let even = _mm512_srlv_epi16(_mm512_shuffle_epi8(words, even_bytes), even_shifts);
        let odd = _mm512_sllv_epi16(_mm512_shuffle_epi8(words, odd_bytes), odd_shifts);
        let both = _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, odd);
        _mm512_and_si512(both, _mm512_set1_epi8((1 << BITS) - 1))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn next(words: __m512i, _numbers: __m512) -> (__m512, __m512i) {
        let lowest = _mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32(255)));
        (lowest, _mm512_srli_epi32::<8>(words))
    }
}

/// Sixteen bytes in each quarter of a register.
///
/// # Safety
/// There are so many.
#[target_feature(enable = "avx512f")]
unsafe fn in_each_quarter(bytes: *const __m128i) -> __m512i {
    // SAFETY: the caller says so.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(bytes) })
}

/// Floating-point numbers of eight bits (E4M3), by way of those of 16 bits, which have more exponents
/// below.
pub(super) struct Float8;

impl Codes for Float8 {
    const BITS: usize = 8;
    /// The exponent of 1 is 7 there, and 15 here.
    const FACTOR: f32 = 256.0;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn spread(words: __m512i) -> __m512i {
        words
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn next(words: __m512i, _numbers: __m512) -> (__m512, __m512i) {
        // The sign stays where it is, and what follows moves down by a bit.
        let moved = _mm512_srai_epi32::<17>(_mm512_slli_epi32::<24>(words));
        let half = _mm512_and_si512(moved, _mm512_set1_epi32(0xbf80));
        let lowest = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(half));
        (lowest, _mm512_srli_epi32::<8>(words))
    }
}

/// Runs `$run` with the type `$codes` of the codes of a format.
macro_rules! with_codes {
    ($format:expr, $codes:ident => $run:expr) => {{
        use $crate::quantized_matmul::codes::{Float8, LookedUp, Whole};
        use $crate::quantized_matmul::format::Mode;
        macro_rules! with {
            ($known:ty) => {{
                type $codes = $known;
                $run
            }};
        }
        match ($format.mode, $format.bits) {
            (Mode::Affine, 2) => with!(LookedUp<2>),
            (Mode::Affine, 3) => with!(Whole<3>),
            (Mode::Affine, 5) => with!(Whole<5>),
            (Mode::Affine, 6) => with!(Whole<6>),
            (Mode::Affine, 8) => with!(Whole<8>),
            (_, 4) => with!(LookedUp<4>),
            _ => with!(Float8),
        }
    }};
}

pub(super) use with_codes;

#[cfg(test)]
mod tests {
    use std::arch::x86_64::{_mm512_setzero_ps, _mm512_storeu_ps, _mm512_storeu_si512};
    use std::array::from_fn;

    use super::super::format::e4m3;
    use super::*;
    use crate::isa::Isa;

    /// The codes of a register, of 64 bytes of memory.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn spread<C: Codes>(memory: &[u8; 64]) -> [u8; 64] {
        let mut codes = [0; 64];
        // SAFETY: both arrays fill a register; the caller has the instructions.
        unsafe {
            let words = C::spread(_mm512_loadu_si512(memory.as_ptr().cast()));
            _mm512_storeu_si512(codes.as_mut_ptr().cast(), words);
        }
        codes
    }

    #[test]
    fn codes_fill_bytes() {
        if !Isa::Avx512.is_supported() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        let memory: [u8; 64] = from_fn(|i| (i * 167 + 29) as u8);
        let bit = |i: usize| memory[i / 8] >> (i % 8) & 1;
        // SAFETY: the instructions were found above.
        let found = unsafe {
            [
                (3, spread::<Whole<3>>(&memory)),
                (5, spread::<Whole<5>>(&memory)),
                (6, spread::<Whole<6>>(&memory)),
                (8, spread::<Whole<8>>(&memory)),
            ]
        };
        for (bits, codes) in found {
            for (i, &code) in codes.iter().enumerate() {
                let wanted: u8 = (0..bits).map(|b| bit(i * bits + b) << b).sum();
                assert_eq!(code, wanted, "code {i} of {bits} bits");
            }
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // these are exact
    fn floats_of_8_bits_are_exact() {
        #[target_feature(enable = "avx512f,avx512bw")]
        fn numbers(words: [u32; 16]) -> [f32; 16] {
            let mut numbers = [0.0; 16];
            // SAFETY: both arrays fill a register; the caller has the instructions.
            unsafe {
                let words = _mm512_loadu_si512(words.as_ptr().cast());
                let (found, _) = Float8::next(words, _mm512_setzero_ps());
                _mm512_storeu_ps(numbers.as_mut_ptr(), found);
            }
            numbers
        }

        if !Isa::Avx512.is_supported() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        for first in (0..=255_u32).step_by(16) {
            // SAFETY: the instructions were found above.
            let found = unsafe { numbers(from_fn(|i| 0x5a5a_5a00 | (first + i as u32))) };
            for (code, found) in (first..).zip(found) {
                let (found, wanted) = (found * Float8::FACTOR, e4m3(code as u8));
                assert_eq!(found.to_bits(), wanted.to_bits(), "code {code}: {found}");
            }
        }
    }
}
