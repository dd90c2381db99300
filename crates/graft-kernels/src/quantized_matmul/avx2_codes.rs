//! Codes in AVX2's registers, as words of 16 bits.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256,
    _mm256_mullo_epi16, _mm256_set1_epi16, _mm256_shuffle_epi8, _mm256_slli_epi16,
    _mm256_srli_epi16,
};

/// Words of 16 bits in a register.
pub(super) const WORDS: usize = 16;

/// Bytes that a step reads at most.
pub(super) const MOST_READ: usize = 32;

/// Codes of one number of bits, and what they stand for.
pub(super) trait Codes {
    /// Registers of words of a step.
    const PARTS: usize;
    /// The codes of a step.
    const STEP: usize = WORDS * Self::PARTS;
    /// Their bytes in memory.
    const BYTES: usize;
    /// Bytes that are read for a step.
    const READ: usize = Self::BYTES;
    /// What the words are to be multiplied with.
    const FACTOR: f32 = 1.0;

    /// The part of a step, and the word in it, that code `i` becomes.
    fn place(i: usize) -> (usize, usize);

    /// A register of words.
    ///
    /// # Safety
    /// The processor has AVX2, the codes of a step lie at `from`, and [`READ`](Self::READ) bytes may
    /// be read there.
    unsafe fn part(from: *const u8, part: usize) -> __m256i;
}

/// The bytes that the step that begins at `at` reads: those of a row, or a copy in `end` of what is
/// left of it, with zeros behind.
#[inline]
pub(super) fn step_of<'a, C: Codes>(
    row: &'a [u8],
    at: usize,
    end: &'a mut [u8; MOST_READ],
) -> &'a [u8] {
    let rest = &row[at..];
    if rest.len() >= C::READ {
        return rest;
    }
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()..].fill(0);
    end
}

/// A register of what lies in memory.
///
/// # Safety
/// It may be read, and the processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn read(from: *const u8) -> __m256i {
    // SAFETY: the caller says so.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// Words moved to the right by some bits.
#[inline]
#[target_feature(enable = "avx2")]
fn right(words: __m256i, bits: usize) -> __m256i {
    match bits {
        0 => words,
        2 => _mm256_srli_epi16::<2>(words),
        4 => _mm256_srli_epi16::<4>(words),
        6 => _mm256_srli_epi16::<6>(words),
        8 => _mm256_srli_epi16::<8>(words),
        10 => _mm256_srli_epi16::<10>(words),
        12 => _mm256_srli_epi16::<12>(words),
        _ => _mm256_srli_epi16::<14>(words),
    }
}

/// Whole numbers of two, four or eight bits: a word of memory holds several, which are those of the
/// parts.
pub(super) struct Whole<const BITS: usize>;

impl<const BITS: usize> Codes for Whole<BITS> {
    const PARTS: usize = 16 / BITS;
    const BYTES: usize = 32;

    fn place(i: usize) -> (usize, usize) {
        (i % Self::PARTS, i / Self::PARTS)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn part(from: *const u8, part: usize) -> __m256i {
        // SAFETY: the caller says so.
        let words = right(unsafe { read(from) }, part * BITS);
        if part + 1 == Self::PARTS {
            return words;
        }
        _mm256_and_si256(words, _mm256_set1_epi16((1 << BITS) - 1))
    }
}

/// Whole numbers of three, five or six bits.
pub(super) struct Spread<const BITS: usize>;

impl<const BITS: usize> Spread<BITS> {
    /// For sixteen codes, the two bytes that hold each, and the power of two that moves it to the
    /// upper end of these. They lie in the first sixteen bytes, of which each half of a register has
    /// a copy.
    const PLACES: ([u8; 32], [u16; WORDS]) = {
        let (mut bytes, mut factors) = ([0; 32], [0; WORDS]);
        let mut i = 0;
        while i < WORDS {
            let bit = i * BITS;
            bytes[2 * i] = (bit / 8) as u8;
            bytes[2 * i + 1] = (bit / 8) as u8 + 1;
            factors[i] = 1 << (16 - BITS - bit % 8);
            i += 1;
        }
        (bytes, factors)
    };
}

impl<const BITS: usize> Codes for Spread<BITS> {
    const PARTS: usize = 2;
    const BYTES: usize = 4 * BITS;
    const READ: usize = 2 * BITS + 16;

    fn place(i: usize) -> (usize, usize) {
        (i / WORDS, i % WORDS)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn part(from: *const u8, part: usize) -> __m256i {
        let (bytes, factors) = &Self::PLACES;
        // SAFETY: the arrays fill a register; the rest is the caller's promise.
        let (codes, bytes, factors) = unsafe {
            (
                _mm_loadu_si128(from.add(part * 2 * BITS).cast()),
                read(bytes.as_ptr()),
                read(factors.as_ptr().cast()),
            )
        };
        let words = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(codes), bytes);
        let words = _mm256_mullo_epi16(words, factors);
        match BITS {
            3 => _mm256_srli_epi16::<13>(words),
            5 => _mm256_srli_epi16::<11>(words),
            _ => _mm256_srli_epi16::<10>(words),
        }
    }
}

/// Floating-point numbers of four bits (E2M1): 512 times what they stand for.
pub(super) struct Float4;

impl Float4 {
    /// Twice the numbers, in each half of a register. That of 0 leaves lower bytes 0.
    const NUMBERS: [i8; 32] = {
        let numbers = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
        let mut twice = [0; 32];
        let mut i = 0;
        while i < 32 {
            twice[i] = numbers[i % 16];
            i += 1;
        }
        twice
    };
}

impl Codes for Float4 {
    const PARTS: usize = 4;
    const BYTES: usize = 32;
    const FACTOR: f32 = 1.0 / 512.0;

    fn place(i: usize) -> (usize, usize) {
        Whole::<4>::place(i)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn part(from: *const u8, part: usize) -> __m256i {
        // SAFETY: the array fills a register; the rest is the caller's promise.
        let (words, numbers) = unsafe { (read(from), read(Self::NUMBERS.as_ptr().cast())) };
        // The code becomes the upper byte, in which its number has a sign.
        let words = match part {
            0 => _mm256_slli_epi16::<8>(words),
            1 => _mm256_slli_epi16::<4>(words),
            2 => words,
            _ => _mm256_srli_epi16::<4>(words),
        };
        _mm256_shuffle_epi8(numbers, _mm256_and_si256(words, _mm256_set1_epi16(0x0f00)))
    }
}

#[cfg(test)]
mod tests {
    use std::arch::x86_64::_mm256_storeu_si256;

    use super::super::format::E2M1;
    use super::*;
    use crate::isa::Isa;

    /// The words of the codes of a step, in the order of the codes.
    #[target_feature(enable = "avx2")]
    fn words<C: Codes>(memory: &[u8; 64]) -> Vec<i16> {
        let mut parts = vec![[0_i16; WORDS]; C::PARTS];
        for (i, part) in parts.iter_mut().enumerate() {
            // SAFETY: no step reads as much as there is; an element of `parts` fills a register.
            unsafe {
                _mm256_storeu_si256(part.as_mut_ptr().cast(), C::part(memory.as_ptr(), i));
            }
        }
        let place = |i: usize| C::place(i);
        (0..C::STEP).map(|i| parts[place(i).0][place(i).1]).collect()
    }

    #[test]
    fn codes_become_words() {
        if !Isa::Avx2.is_supported() {
            eprintln!("skipped: this processor has no AVX2");
            return;
        }
        let memory: [u8; 64] = std::array::from_fn(|i| (i * 167 + 29) as u8);
        let bit = |i: usize| memory[i / 8] >> (i % 8) & 1;
        let code = |bits: usize, i: usize| (0..bits).map(|b| bit(i * bits + b) << b).sum::<u8>();
        // SAFETY: the instructions were found above.
        let (found, floats) = unsafe {
            let found = [
                (2, words::<Whole<2>>(&memory)),
                (3, words::<Spread<3>>(&memory)),
                (4, words::<Whole<4>>(&memory)),
                (5, words::<Spread<5>>(&memory)),
                (6, words::<Spread<6>>(&memory)),
                (8, words::<Whole<8>>(&memory)),
            ];
            (found, words::<Float4>(&memory))
        };
        for (bits, words) in found {
            for (i, word) in words.into_iter().enumerate() {
                assert_eq!(word, i16::from(code(bits, i)), "code {i} of {bits} bits");
            }
        }
        for (i, word) in floats.into_iter().enumerate() {
            let wanted = E2M1[usize::from(code(4, i))];
            assert!((f32::from(word) * Float4::FACTOR - wanted).abs() < 1e-9, "float {i}");
        }
    }
}
