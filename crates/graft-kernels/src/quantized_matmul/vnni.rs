//! Products of few rows of 16-bit numbers and a quantized matrix, in whole numbers.
//!
//! The numbers of a group become multiples of a power of two, up to 2¹⁴, so that those of
//! `bfloat16` within 2⁶ of the largest stay exact, and the others are rounded as that one is. Their
//! lower and upper bytes meet the codes in AVX-512's dot products of bytes (VNNI), whose sums are
//! exact. This takes half the instructions of `avx512`, from which the rest comes: a register of
//! words belongs to few groups, each of its lanes to one.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // into functions with the instructions
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_cvtepi32_ps,
    _mm512_dpbusd_epi32, _mm512_load_si512, _mm512_loadu_ps, _mm512_set1_epi8, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_slli_epi32, _mm512_srli_epi32,
    _mm512_sub_epi32,
};

use super::avx512::{At, Buffers, Operand, Task, Tile};
use super::codes::{Codes, width};
use super::format::{Format, Mode};
use super::multiples::{round, unit_of};
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
    /// For each row and group: what 1 is worth. Those of a row fill registers.
    units: Vec<f32>,
    /// For each row and register: what the 12 in the codes of floating-point modes adds.
    offsets: Vec<Integers>,
}

impl Multiples {
    /// Adds a row, and for each of its groups the sum of the multiples to `sums`.
    pub(super) fn push(&mut self, format: Format, tile: &Tile, x: &[f32], sums: &mut Vec<f32>) {
        let Format { mode, bits, group_size } = format;
        let (per_byte, per_lane) = (8 / width(bits), 32 / width(bits));
        let is_float = mode != Mode::Affine;
        let (bytes, offsets) = (self.bytes.len(), self.offsets.len());
        self.bytes.resize(bytes + tile.registers * per_byte, [Bytes([0; BYTES]); 2]);
        if is_float {
            self.offsets.resize(offsets + tile.registers, Integers([0; LANES]));
        }
        let (bytes, offsets) = (&mut self.bytes[bytes..], &mut self.offsets[offsets..]);
        let units = self.units.len() + tile.padded_groups();
        // A group may fill several registers, or share one.
        let part = group_size.min(LANES * per_lane);
        for (group, x) in x.chunks(group_size).enumerate() {
            let (unit, per_unit) = unit_of(x);
            let mut multiples = [0_i32; 128];
            let multiples = &mut multiples[..x.len()];
            for (multiple, x) in multiples.iter_mut().zip(x) {
                *multiple = round(x * per_unit);
            }
            self.units.push(if is_float { unit / 2.0 } else { unit });
            sums.push(unit * multiples.iter().sum::<i32>() as f32);
            for (i, multiples) in multiples.chunks(part).enumerate() {
                let first = group * group_size + i * part;
                let (register, first) = (first / (LANES * per_lane), first % (LANES * per_lane));
                let bytes = &mut bytes[register * per_byte..][..per_byte];
                for (plane, [upper, lower]) in bytes.iter_mut().enumerate() {
                    let places = first / per_byte..(first + part) / per_byte;
                    let numbers = multiples.iter().skip(plane).step_by(per_byte);
                    let places = upper.0[places.clone()].iter_mut().zip(&mut lower.0[places]);
                    for ((upper, lower), &number) in places.zip(numbers) {
                        // The lower byte has a sign too.
                        *lower = number as i8;
                        *upper = ((number - i32::from(*lower)) >> 8) as i8;
                    }
                }
                if is_float {
                    let lanes = first / per_lane..(first + part) / per_lane;
                    let numbers = multiples.chunks_exact(per_lane);
                    for (offset, numbers) in offsets[register].0[lanes].iter_mut().zip(numbers) {
                        *offset = 12 * numbers.iter().sum::<i32>();
                    }
                }
            }
        }
        self.units.resize(units, 0.0);
    }
}

impl Operand for Multiples {
    fn check(&self, rows: usize, tile: &Tile, format: Format) {
        let registers = rows * tile.registers;
        assert!(self.bytes.len() == registers * (8 / width(format.bits)));
        assert!(self.units.len() == rows * tile.padded_groups());
        assert!(format.mode == Mode::Affine || self.offsets.len() == registers);
    }

    #[inline(always)]
    unsafe fn units(&self, row: usize, group: usize, tile: &Tile) -> Option<__m512> {
        // SAFETY: the caller says that there are so many.
        Some(unsafe {
            _mm512_loadu_ps(self.units.as_ptr().add(row * tile.padded_groups() + group))
        })
    }

    #[inline(always)]
    unsafe fn sums<C: Codes, const M: usize, const N: usize>(
        &self,
        words: [__m512i; N],
        At { first, register, tile, is_float, .. }: At<'_>,
    ) -> [[__m512; M]; N] {
        let per_byte = 8 / C::WIDTH;
        // SAFETY: the caller says that there are so many, and each is aligned and fills a register.
        unsafe {
            let low_bits = _mm512_set1_epi8(((1_u32 << C::WIDTH) - 1) as u8 as i8);
            let mut codes = [[_mm512_setzero_si512(); 4]; N];
            for n in 0..N {
                for plane in 0..per_byte {
                    let code = _mm512_and_si512(shifted(words[n], C::WIDTH * plane), low_bits);
                    codes[n][plane] = if is_float {
                        let numbers = _mm_loadu_si128(E2M1.as_ptr().cast());
                        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(numbers), code)
                    } else {
                        code
                    };
                }
            }
            let mut products = [[_mm512_setzero_ps(); M]; N];
            for n in 0..N {
                for m in 0..M {
                    let at = (first + m) * tile.registers + register;
                    let bytes = self.bytes.as_ptr().add(at * per_byte).cast::<Bytes>();
                    let mut sums = _mm512_setzero_si512();
                    for half in 0..2 {
                        for plane in 0..per_byte {
                            let bytes = _mm512_load_si512(bytes.add(2 * plane + half).cast());
                            sums = _mm512_dpbusd_epi32(sums, codes[n][plane], bytes);
                        }
                        // The upper bytes come first.
                        if half == 0 {
                            sums = _mm512_slli_epi32::<8>(sums);
                        }
                    }
                    if is_float {
                        let offsets = self.offsets.as_ptr().add(at);
                        sums = _mm512_sub_epi32(sums, _mm512_load_si512(offsets.cast()));
                    }
                    products[n][m] = _mm512_cvtepi32_ps(sums);
                }
            }
            products
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn rows<C: Codes, const M: usize, const N: usize>(
        &self,
        task: &Task<'_>,
        first: usize,
        buffers: &mut Buffers,
    ) {
        // SAFETY: the caller says so.
        unsafe { task.rows::<C, Self, M, N>(self, first, buffers) }
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
