//! Products of `bfloat16` in blocks by AVX-512's dot products of pairs, which add up in `float32`: see
//! `blocked`. A lane of a panel holds two neighbours along the sum, so that a step is two numbers.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, __m512bh, _mm256_maskz_loadu_epi16, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_dpbf16_ps, _mm512_or_si512, _mm512_slli_epi32,
};
use std::mem::{MaybeUninit, transmute};

use half::bf16;

use super::avx512::{self, ZEROS};
use super::avx512_lanes::transposed_pairs;
use super::avx512_panels::{A, A_LINES, B, B_LINES, B_ROWS, Form, pack, sums};
use super::blocked::{self, Block, FEW_STEPS, Kernel, Limits, Panels};
pub(crate) use super::blocked::{Terms, part};
use super::matrix::Matrix;
use super::problem::is_parallel;
use super::soon::Soon;
use crate::avx512::LANES;
use crate::isa::{self, Isa};

/// Whether [`Avx512Pairs`] is the way to multiply many rows: it is twice as fast as multiplications in
/// `float32` on AMD's processors, and half as fast on Intel's (measured on Emerald Rapids), which have AMX
/// for this.
pub(crate) fn is_preferred() -> bool {
    Isa::Avx512Bf16.is_asked_for() || Isa::Avx512Bf16.is_usable() && isa::is_amd()
}

/// The kernel.
pub(super) struct Avx512Pairs;

impl Kernel<bf16> for Avx512Pairs {
    const LINES: [usize; 2] = [A_LINES, B_LINES];
    /// With the longest block of the sum, they fill 768 KiB.
    const PANELS: usize = 6;
    const LIMITS: Limits = Limits { steps: 2048, packed: 1 << 22, waiting: 1 << 22 };
    const ASKS_AHEAD: bool = true;
    const NUMBERS: usize = Pairs::NUMBERS;
    type A = A;
    type B = B;
    const ZEROS: (A, B) = ZEROS;

    fn memory() -> (&'static Panels<A>, &'static Panels<B>) {
        avx512::memory()
    }

    fn is_supported() -> bool {
        Isa::Avx512Bf16.is_supported()
    }

    fn pack_a(lines: Matrix<'_, bf16>, panel: &mut [A]) {
        pack::<bf16, Pairs, _>(lines, panel);
    }

    fn pack_b(lines: Matrix<'_, bf16>, panel: &mut [B]) {
        pack::<bf16, Pairs, _>(lines, panel);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn tile(block: &Block<'_, bf16>, a: &[A], b: &[B], at: (usize, usize), soon: &mut Soon) {
        // SAFETY: the caller says so.
        unsafe { avx512::tile::<bf16, Pairs>(block, a, b, at, soon) };
    }
}

/// The steps of a piece of the sum at most.
pub(crate) const MOST_STEPS: usize = <Avx512Pairs as Kernel<bf16>>::LIMITS.steps;

/// Writes the sum of all terms to `out`, all of it, on several threads if that pays.
///
/// # Panics
/// If the processor lacks the instructions, or the sizes do not fit.
pub(crate) fn multiply_terms(terms: &mut impl Terms<bf16>, out: &mut [MaybeUninit<bf16>]) {
    let (rows, columns) = terms.size();
    let parallel = is_parallel(rows, terms.pieces() * terms.most_steps(), columns);
    let limits = <Avx512Pairs as Kernel<bf16>>::LIMITS;
    blocked::multiply_terms::<Avx512Pairs, _>(&limits, terms, None, out, parallel);
}

/// Two numbers of `bfloat16`, the first in the lower half of a lane.
struct Pairs;

impl Form<bf16> for Pairs {
    const NUMBERS: usize = 2;
    const TOGETHER: usize = 2 * LANES;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn transpose(
        lines: [*const bf16; LANES],
        count: usize,
        mut put: impl FnMut(usize, __m512),
    ) {
        // SAFETY: the caller says so, and this function is compiled for the instructions.
        let pairs = unsafe { transposed_pairs(lines, count) };
        for (i, pairs) in pairs.into_iter().enumerate() {
            put(i, _mm512_castsi512_ps(pairs));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(across: Matrix<'_, bf16>, step: usize, first: usize, mask: u16) -> __m512 {
        let number = |i: usize| {
            // The sum may end with the first of a pair.
            let mask = if i < across.rows { mask } else { 0 };
            let from = across.dense_row(i.min(across.rows - 1)).as_ptr().wrapping_add(first);
            // SAFETY: the caller has these lines.
            _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
        };
        let (low, high) = (number(2 * step), number(2 * step + 1));
        _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
    }

    fn get(lines: Matrix<'_, bf16>, line: usize, step: usize) -> f32 {
        let number = |i| if i < lines.columns { lines.get(line, i).to_bits() } else { 0 };
        f32::from_bits(u32::from(number(2 * step)) | u32::from(number(2 * step + 1)) << 16)
    }

    /// As that of `float32`, it is not inlined.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn product<const ROWS: usize>(
        a: &[[A; FEW_STEPS]],
        b: &[[B; FEW_STEPS]],
        every_few: impl FnMut(),
    ) -> [[__m512; B_ROWS]; ROWS] {
        let multiply_add = |a, b, sum| _mm512_dpbf16_ps(sum, as_bf16(a), as_bf16(b));
        // SAFETY: this function is compiled for the instructions.
        unsafe { sums(a, b, every_few, multiply_add) }
    }
}

fn as_bf16(x: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { transmute(x) }
}
