//! Products of few rows and a packed matrix in AVX-512's registers.
//!
//! A register holds 16 words of codes. Shifted to the right, it has one code of each word at its
//! lower end, which a look-up turns into numbers; these meet the same positions of `x`, which lie
//! in that order. As a word never holds codes of two groups, a lane of the sums belongs to one
//! group, and is scaled once per register of words. The biases meet the sums of groups of `x`.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __mmask16, _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_load_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps,
    _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_srli_epi32,
};
use std::array::from_fn;
use std::ops::Range;

use super::format::{E2M1, Format, Mode};
use super::operands::{Row, Scratch};
use super::product::Product;

/// Words, and numbers, in a register.
const LANES: usize = 16;

/// Sum of magnitudes above which sums of products with codes could overflow where those with the
/// numbers themselves do not.
const TAME: f32 = 1e30;

/// Numbers in a register.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lanes([f32; LANES]);

/// Whether the processor has the instructions.
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// Whether [`compute`] multiplies matrices of this format.
pub(super) fn suits(Format { mode, bits, .. }: Format, transpose: bool) -> bool {
    transpose && (bits == 4 || mode == Mode::Affine && matches!(bits, 2 | 8))
}

/// Rows of `x` in the order in which codes come.
pub(super) struct Rows {
    /// For each row, register of words, and position in a word: the numbers that meet its codes.
    lanes: Vec<Lanes>,
    /// For each row and group: the sum of the numbers.
    sums: Vec<f32>,
    /// Registers of words, and groups, of a row.
    registers: usize,
    groups: usize,
    tame: bool,
}

impl Rows {
    pub(super) fn new(product: &Product<'_>) -> Self {
        let Format { bits, group_size, .. } = product.weight.format;
        let per_word = 32 / bits;
        let mut lanes = Vec::with_capacity(product.x.len().div_ceil(LANES) + per_word);
        let mut sums = Vec::with_capacity(product.x.len() / group_size);
        let mut tame = true;
        for x in product.x.chunks_exact(product.length) {
            for x in x.chunks(LANES * per_word) {
                let start = lanes.len();
                lanes.resize(start + per_word, Lanes([0.0; LANES]));
                let lanes = &mut lanes[start..];
                for (word, x) in x.chunks_exact(per_word).enumerate() {
                    for (lanes, &x) in lanes.iter_mut().zip(x) {
                        lanes.0[word] = x;
                    }
                }
            }
            sums.extend(x.chunks_exact(group_size).map(|x| x.iter().sum::<f32>()));
            // Comparisons with NaN are false.
            tame &= x.iter().map(|x| x.abs()).sum::<f32>() < TAME;
        }
        let registers = product.length.div_ceil(LANES * per_word);
        Self { lanes, sums, registers, groups: product.length / group_size, tame }
    }

    /// Whether [`compute`] may be used: codes and biases apart overflow, or meet infinities, where
    /// the numbers that they stand for together do not.
    pub(super) fn are_tame(&self) -> bool {
        self.tame
    }
}

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: [Scratch; 4],
    out: Vec<f32>,
}

/// Computes some columns of a product, row by row.
///
/// # Panics
/// If the processor lacks the instructions.
pub(super) fn compute<'b>(
    product: &Product<'_>,
    x: &Rows,
    columns: Range<usize>,
    buffers: &'b mut Buffers,
) -> &'b [f32] {
    assert!(is_supported());
    // SAFETY: the instructions were found.
    unsafe {
        match product.weight.format.bits {
            2 => of_bits::<2>(product, x, &columns, buffers),
            4 => of_bits::<4>(product, x, &columns, buffers),
            _ => of_bits::<8>(product, x, &columns, buffers),
        }
    }
    &buffers.out
}

#[target_feature(enable = "avx512f")]
fn of_bits<const BITS: usize>(
    product: &Product<'_>,
    x: &Rows,
    columns: &Range<usize>,
    buffers: &mut Buffers,
) {
    buffers.out.clear();
    buffers.out.resize(product.rows() * columns.len(), 0.0);
    for first in (0..product.rows()).step_by(4) {
        // As many sums as fit into the registers.
        match product.rows() - first {
            1 => block::<BITS, 1, 4>(product, x, first, columns, buffers),
            2 => block::<BITS, 2, 4>(product, x, first, columns, buffers),
            3 => block::<BITS, 3, 2>(product, x, first, columns, buffers),
            _ => block::<BITS, 4, 2>(product, x, first, columns, buffers),
        }
    }
}

/// The products of rows `first..first + M` and some columns, `N` at a time.
#[target_feature(enable = "avx512f")]
fn block<const BITS: usize, const M: usize, const N: usize>(
    product: &Product<'_>,
    x: &Rows,
    first: usize,
    columns: &Range<usize>,
    Buffers { scratch, out }: &mut Buffers,
) {
    let Product { weight, index, length, .. } = *product;
    let width = columns.len();
    let whole = width - width % N;
    for j in (0..whole).step_by(N) {
        let mut rows = [Row::empty(weight.format); N];
        for (n, (row, scratch)) in rows.iter_mut().zip(&mut *scratch).enumerate() {
            *row = weight.row(index, columns.start + j + n, 0..length, scratch);
        }
        let sums = dots::<BITS, M, N>(&rows, x, first);
        for (n, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                out[(first + i) * width + j + n] = sum;
            }
        }
    }
    for j in whole..width {
        let row = weight.row(index, columns.start + j, 0..length, &mut scratch[0]);
        let [sums] = dots::<BITS, M, 1>(&[row], x, first);
        for (i, &sum) in sums.iter().enumerate() {
            out[(first + i) * width + j] = sum;
        }
    }
}

/// The dot products of rows `first..first + M` of `x` with packed rows of its length.
#[target_feature(enable = "avx512f")]
fn dots<const BITS: usize, const M: usize, const N: usize>(
    rows: &[Row<'_>; N],
    x: &Rows,
    first: usize,
) -> [[f32; M]; N] {
    let per_word = 32 / BITS;
    let Rows { registers, groups, .. } = *x;
    let Format { mode, group_size, .. } = rows[0].format;
    let words = groups * group_size / per_word;
    for row in rows {
        assert!(row.codes.len() == 4 * words && row.scales.len() == groups);
        assert!(row.biases.is_empty() || row.biases.len() == groups);
    }
    assert!(x.lanes.len() >= (first + M) * registers * per_word);
    assert!(x.sums.len() >= (first + M) * groups);
    // Groups in a register, and which of them a lane belongs to.
    let per_register = (LANES * per_word / group_size).max(1);
    let group_of_lane: [i32; LANES] = from_fn(|lane| (lane * per_register / LANES) as i32);
    let numbers: [f32; LANES] = from_fn(|code| match mode {
        Mode::Affine => (code % (1 << BITS.min(4))) as f32,
        Mode::Mx | Mode::Nv => E2M1[code],
    });
    // SAFETY: the arrays fill a register.
    let (group_of_lane, numbers) = unsafe {
        (_mm512_loadu_si512(group_of_lane.as_ptr().cast()), _mm512_loadu_ps(numbers.as_ptr()))
    };

    let mut totals = [[_mm512_setzero_ps(); M]; N];
    for register in 0..registers {
        let group = register * LANES * per_word / group_size;
        let word_mask = mask(words - register * LANES);
        let scale_mask = mask((groups - group).min(per_register));
        let mut codes = [_mm512_setzero_si512(); N];
        for (codes, row) in codes.iter_mut().zip(rows) {
            // SAFETY: the mask covers the words from there on.
            *codes = unsafe {
                let words = row.codes.as_ptr().add(register * 4 * LANES);
                _mm512_maskz_loadu_epi32(word_mask, words.cast())
            };
        }
        let mut sums = [[_mm512_setzero_ps(); M]; N];
        for i in 0..per_word {
            let mut q = [_mm512_setzero_ps(); N];
            for (q, codes) in q.iter_mut().zip(&mut codes) {
                *q = if BITS == 8 {
                    _mm512_cvtepi32_ps(_mm512_and_si512(*codes, _mm512_set1_epi32(255)))
                } else {
                    // The look-up ignores all but the lowest four bits.
                    _mm512_permutexvar_ps(*codes, numbers)
                };
                *codes = match BITS {
                    2 => _mm512_srli_epi32::<2>(*codes),
                    4 => _mm512_srli_epi32::<4>(*codes),
                    _ => _mm512_srli_epi32::<8>(*codes),
                };
            }
            for m in 0..M {
                let at = ((first + m) * registers + register) * per_word + i;
                // SAFETY: there are so many, as asserted above; each is aligned and fills a register.
                let x = unsafe { _mm512_load_ps(x.lanes.as_ptr().add(at).cast()) };
                for n in 0..N {
                    sums[n][m] = _mm512_fmadd_ps(q[n], x, sums[n][m]);
                }
            }
        }
        for n in 0..N {
            // SAFETY: the mask covers the scales from there on.
            let scales =
                unsafe { _mm512_maskz_loadu_ps(scale_mask, rows[n].scales.as_ptr().add(group)) };
            let scales = _mm512_permutexvar_ps(group_of_lane, scales);
            for m in 0..M {
                totals[n][m] = _mm512_fmadd_ps(sums[n][m], scales, totals[n][m]);
            }
        }
    }
    for group in (0..rows[0].biases.len()).step_by(LANES) {
        let mask = mask(groups - group);
        for n in 0..N {
            // SAFETY: the mask covers the biases, and the sums of a row, from there on.
            let biases = unsafe { _mm512_maskz_loadu_ps(mask, rows[n].biases.as_ptr().add(group)) };
            for m in 0..M {
                let at = (first + m) * groups + group;
                // SAFETY: as above.
                let sums = unsafe { _mm512_maskz_loadu_ps(mask, x.sums.as_ptr().add(at)) };
                totals[n][m] = _mm512_fmadd_ps(biases, sums, totals[n][m]);
            }
        }
    }
    let mut dots = [[0.0; M]; N];
    for n in 0..N {
        for m in 0..M {
            dots[n][m] = _mm512_reduce_add_ps(totals[n][m]);
        }
    }
    dots
}

/// The first `count` lanes, or all.
fn mask(count: usize) -> __mmask16 {
    ((1_u32 << count.min(LANES)) - 1) as u16
}
