//! Products of few rows of 16-bit numbers and a quantized matrix, in whole numbers.
//!
//! The numbers of a group become multiples of a power of two, up to 2¹⁴, so that those of
//! `bfloat16` within 2⁶ of the largest stay exact, and the others are rounded as that one is. Their
//! lower and upper bytes meet the codes in AVX-512's dot products of bytes (VNNI), whose sums are
//! exact. This takes half the instructions of `avx512`, from which the rest comes: a register of
//! words belongs to few groups, each of its lanes to one.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_cvtepi32_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_ps, _mm512_load_si512, _mm512_mul_ps,
    _mm512_set1_epi8, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_slli_epi32, _mm512_srli_epi32, _mm512_sub_epi32,
};

use super::avx512::{Lanes, Tile};
use super::codes::{Codes, width};
use super::format::{Format, Mode};
use super::multiples::{round, unit_of};
use super::operands::Row;
use crate::avx512::LANES;
use crate::isa::Isa;

/// Bytes in a register.
const BYTES: usize = 64;

/// Twice the numbers of 4 bits, and 12, so that they are not negative.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// A register of bytes.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bytes([i8; BYTES]);

/// A register of whole numbers.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Integers([i32; LANES]);

/// Whether the processor has the instructions, and they may be used.
pub(super) fn is_supported() -> bool {
    Isa::Avx512Vnni.is_usable()
}

/// Whether codes of this format stand for multiples of a number.
pub(super) fn suits(Format { mode, bits, .. }: Format) -> bool {
    mode == Mode::Affine || bits == 4
}

/// Rows of `x` as whole numbers, in the order in which codes come.
#[derive(Default)]
pub(super) struct Multiples {
    /// For each row, register of words, and position in a byte: the upper and the lower bytes of
    /// the numbers that meet its codes.
    bytes: Vec<[Bytes; 2]>,
    /// For each row and register: what 1 is worth in each lane.
    units: Vec<Lanes>,
    /// For each row and register: what the 12 in the codes of floating-point modes adds.
    offsets: Vec<Integers>,
}

impl Multiples {
    /// Adds a row, and for each of its groups the sum of the multiples to `sums`.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn push(&mut self, format: Format, x: &[f32], sums: &mut Vec<f32>) {
        let Format { mode, bits, group_size } = format;
        let (per_byte, per_lane) = (8 / width(bits), 32 / width(bits));
        let is_float = mode != Mode::Affine;
        let first_sum = sums.len();
        sums.resize(first_sum + x.len() / group_size, 0.0);
        for (register, x) in x.chunks(LANES * per_lane).enumerate() {
            let start = self.bytes.len();
            self.bytes.resize(start + per_byte, [Bytes([0; BYTES]); 2]);
            let mut units = Lanes([0.0; LANES]);
            let mut offsets = Integers([0; LANES]);
            for (group, x) in x.chunks(group_size).enumerate() {
                let (unit, per_unit) = unit_of(x);
                let first = group * group_size;
                let mut multiples = [0_i32; 128];
                let multiples = &mut multiples[..x.len()];
                for (multiple, x) in multiples.iter_mut().zip(x) {
                    *multiple = round(x * per_unit);
                }
                // A group may be parts of two registers, each of which counts in a unit of its own.
                let at = (register * LANES * per_lane + first) / group_size;
                sums[first_sum + at] += unit * multiples.iter().sum::<i32>() as f32;
                for (plane, [upper, lower]) in self.bytes[start..].iter_mut().enumerate() {
                    let places = first / per_byte..(first + x.len()) / per_byte;
                    let numbers = multiples.iter().skip(plane).step_by(per_byte);
                    let places = upper.0[places.clone()].iter_mut().zip(&mut lower.0[places]);
                    for ((upper, lower), &number) in places.zip(numbers) {
                        // The lower byte has a sign too.
                        *lower = number as i8;
                        *upper = ((number - i32::from(*lower)) >> 8) as i8;
                    }
                }
                let lanes = first / per_lane..(first + x.len()) / per_lane;
                units.0[lanes.clone()].fill(if is_float { unit / 2.0 } else { unit });
                if is_float {
                    let numbers = multiples.chunks_exact(per_lane);
                    for (offset, numbers) in offsets.0[lanes].iter_mut().zip(numbers) {
                        *offset = 12 * numbers.iter().sum::<i32>();
                    }
                }
            }
            self.units.push(units);
            if is_float {
                self.offsets.push(offsets);
            }
        }
    }

    /// The products of rows `first..first + M` and packed rows in 16 parts each, without what the
    /// biases add.
    ///
    /// # Safety
    /// The processor has the instructions, and the packed rows are those of the tile.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn products<C: Codes, const M: usize, const N: usize>(
        &self,
        rows: &[Row<'_>; N],
        tile: &Tile,
        first: usize,
    ) -> [[__m512; M]; N] {
        let per_byte = 8 / C::WIDTH;
        let is_float = rows[0].format.mode != Mode::Affine;
        let registers = tile.registers;
        assert!(self.bytes.len() >= (first + M) * registers * per_byte);
        assert!(self.units.len() >= (first + M) * registers);
        assert!(!is_float || self.offsets.len() >= (first + M) * registers);
        let low_bits = _mm512_set1_epi8(((1_u32 << C::WIDTH) - 1) as u8 as i8);
        let group_of_lane = tile.group_of_lane();
        // SAFETY: the array has 16 bytes.
        let numbers = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(E2M1.as_ptr().cast()) });

        let mut totals = [[_mm512_setzero_ps(); M]; N];
        for register in 0..registers {
            let part = tile.part(register);
            let mut codes = [[_mm512_setzero_si512(); 4]; N];
            for n in 0..N {
                // SAFETY: the caller says so.
                let words = unsafe { part.codes::<C>(&rows[n]) };
                for plane in 0..per_byte {
                    let code = _mm512_and_si512(shifted(words, C::WIDTH * plane), low_bits);
                    codes[n][plane] =
                        if is_float { _mm512_shuffle_epi8(numbers, code) } else { code };
                }
            }
            for n in 0..N {
                // SAFETY: the caller says so.
                let scales = unsafe { part.scales(&rows[n], group_of_lane) };
                for m in 0..M {
                    let at = (first + m) * registers + register;
                    let mut sums = _mm512_setzero_si512();
                    let bytes = |plane: usize, half: usize| {
                        // SAFETY: there are so many, as asserted above, and each is aligned and
                        // fills a register.
                        unsafe {
                            let bytes = self.bytes.as_ptr().add(at * per_byte + plane);
                            _mm512_load_si512(bytes.cast::<Bytes>().add(half).cast())
                        }
                    };
                    for plane in 0..per_byte {
                        sums = _mm512_dpbusd_epi32(sums, codes[n][plane], bytes(plane, 0));
                    }
                    sums = _mm512_slli_epi32::<8>(sums);
                    for plane in 0..per_byte {
                        sums = _mm512_dpbusd_epi32(sums, codes[n][plane], bytes(plane, 1));
                    }
                    if is_float {
                        // SAFETY: as above.
                        let offsets =
                            unsafe { _mm512_load_si512(self.offsets.as_ptr().add(at).cast()) };
                        sums = _mm512_sub_epi32(sums, offsets);
                    }
                    // SAFETY: as above.
                    let units = unsafe { _mm512_load_ps(self.units.as_ptr().add(at).cast()) };
                    let scales = _mm512_mul_ps(scales, units);
                    totals[n][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scales, totals[n][m]);
                }
            }
        }
        totals
    }
}

/// Words moved to the right by some bits, so that other codes lie at the lower ends of bytes.
#[target_feature(enable = "avx512f")]
fn shifted(words: __m512i, bits: usize) -> __m512i {
    match bits {
        0 => words,
        2 => _mm512_srli_epi32::<2>(words),
        4 => _mm512_srli_epi32::<4>(words),
        _ => _mm512_srli_epi32::<6>(words),
    }
}
