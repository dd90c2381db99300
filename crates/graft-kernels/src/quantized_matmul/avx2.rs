//! Products of few rows and a quantized matrix in AVX2's registers, in whole numbers.
//!
//! The numbers of a group become multiples of a power of two, up to 2¹⁴, as in `vnni`. Of `float32`
//! what that leaves becomes multiples of a power of two 2¹⁵ times smaller. Both are words of 16 bits,
//! as the codes are, and meet them in multiply-adds of pairs, whose sums are exact. A step is some
//! registers of words, each lane of whose sums belongs to one group, and is scaled once per step.
//! The biases meet the sums of the same multiples, as codes and biases may cancel.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadu_ps, _mm256_add_epi32, _mm256_broadcast_ps, _mm256_broadcast_sd,
    _mm256_broadcast_ss, _mm256_castpd_ps, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_load_ps,
    _mm256_load_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_mul_ps,
    _mm256_permutevar8x32_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256,
};
use std::array::from_fn;
use std::ops::Range;

use super::avx2_codes::{Codes, Float4, MOST_READ, Spread, WORDS, Whole, step_of};
use super::format::{Format, Mode};
use super::multiples::{round, unit_of};
use super::operands::{Row, Scratch};
use super::product::Product;
use crate::avx2::{LANES, sum};
use crate::isa::Isa;
use crate::prefetch::prefetch;

/// What a multiple of the second kind counts in, of the first.
const FINER: f32 = 1.0 / 32768.0;

/// A register of whole numbers.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Words([i16; WORDS]);

/// A register of numbers.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Lanes([f32; LANES]);

/// Whether the processor has the instructions, and they may be used.
pub(super) fn is_supported() -> bool {
    Isa::Avx2.is_usable()
}

/// Whether codes of this format stand for multiples of a number that are words.
pub(super) fn suits(Format { mode, bits, .. }: Format) -> bool {
    mode == Mode::Affine || bits == 4
}

/// Runs `$run` with the type `$codes` of the codes of a format.
macro_rules! with_codes {
    ($format:expr, $codes:ident => $run:expr) => {{
        macro_rules! with {
            ($known:ty) => {{
                type $codes = $known;
                $run
            }};
        }
        match ($format.mode, $format.bits) {
            (Mode::Affine, 2) => with!(Whole<2>),
            (Mode::Affine, 3) => with!(Spread<3>),
            (Mode::Affine, 4) => with!(Whole<4>),
            (Mode::Affine, 5) => with!(Spread<5>),
            (Mode::Affine, 6) => with!(Spread<6>),
            (Mode::Affine, _) => with!(Whole<8>),
            _ => with!(Float4),
        }
    }};
}

pub(super) use with_codes;

/// Rows of `x` as whole numbers, in the order in which codes come.
pub(super) struct Rows {
    /// Registers for each number: one, or two of `float32`.
    planes: usize,
    /// For each row, step, part and plane.
    words: Vec<Words>,
    /// For each row and step: what 1 is worth in each lane.
    units: Vec<Lanes>,
    /// For each row and group: the sum of the multiples.
    sums: Vec<f32>,
}

impl Rows {
    /// Rows of numbers of 16 bits, or of `float32`, which are tame: see [`Product::is_tame`].
    ///
    /// # Panics
    /// If the processor lacks the instructions.
    pub(super) fn new(product: &Product<'_>, is_float32: bool) -> Self {
        assert!(is_supported());
        let planes = if is_float32 { 2 } else { 1 };
        let (words, units, sums) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows = Self { planes, words, units, sums };
        for x in product.x.chunks_exact(product.length) {
            // SAFETY: the instructions were found.
            unsafe {
                with_codes!(product.weight.format, Known => {
                    rows.push::<Known>(product.weight.format.group_size, x);
                });
            }
        }
        rows
    }

    #[target_feature(enable = "avx2,fma")]
    fn push<C: Codes>(&mut self, group_size: usize, x: &[f32]) {
        let mut all = vec![[0_i16; 2]; x.len().next_multiple_of(C::STEP)];
        let mut units = vec![0.0; x.len() / group_size];
        let groups = x.chunks_exact(group_size).zip(all.chunks_mut(group_size));
        for ((x, multiples), unit) in groups.zip(&mut units) {
            let per_unit;
            (*unit, per_unit) = unit_of(x);
            for (multiple, x) in multiples.iter_mut().zip(x) {
                let x = x * per_unit;
                let whole = round(x);
                *multiple = [whole as i16, round((x - whole as f32) / FINER) as i16];
            }
            let sum =
                |plane: usize| multiples.iter().map(|x| i32::from(x[plane])).sum::<i32>() as f32;
            let finer = if self.planes == 1 { 0.0 } else { sum(1) * FINER };
            self.sums.push(*unit * (sum(0) + finer));
        }
        for (step, multiples) in all.chunks_exact(C::STEP).enumerate() {
            let start = self.words.len();
            self.words.resize(start + C::PARTS * self.planes, Words([0; WORDS]));
            let words = &mut self.words[start..];
            for (i, multiples) in multiples.iter().enumerate() {
                let (part, word) = C::place(i);
                for plane in 0..self.planes {
                    words[part * self.planes + plane].0[word] = multiples[plane];
                }
            }
            self.units.push(Lanes(from_fn(|lane| {
                let group = (step * C::STEP + lane * C::STEP / LANES) / group_size;
                units.get(group).map_or(0.0, |unit| unit * C::FACTOR)
            })));
        }
    }
}

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: Scratch,
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
        with_codes!(product.weight.format, Known => match x.planes {
            1 => all::<Known, 1>(product, x, &columns, buffers),
            _ => all::<Known, 2>(product, x, &columns, buffers),
        });
    }
    &buffers.out
}

#[target_feature(enable = "avx2,fma")]
fn all<C: Codes, const PLANES: usize>(
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
            1 => block::<C, PLANES, 1, 4>(product, x, first, columns, buffers),
            2 => block::<C, PLANES, 2, 2>(product, x, first, columns, buffers),
            3 => block::<C, PLANES, 3, 2>(product, x, first, columns, buffers),
            _ => block::<C, PLANES, 4, 2>(product, x, first, columns, buffers),
        }
    }
}

/// The products of rows `first..first + M` and some columns, `N` at a time.
#[target_feature(enable = "avx2,fma")]
fn block<C: Codes, const PLANES: usize, const M: usize, const N: usize>(
    product: &Product<'_>,
    x: &Rows,
    first: usize,
    columns: &Range<usize>,
    Buffers { scratch, out }: &mut Buffers,
) {
    let width = columns.len();
    let rows = product.weight.rows(product.index, columns.clone(), scratch);
    let mut store = |j: usize, sums: &[[f32; M]]| {
        for (n, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                out[(first + i) * width + j + n] = sum;
            }
        }
    };
    let whole = width - width % N;
    for j in (0..whole).step_by(N) {
        let mut some = [rows.row(j); N];
        for n in 1..N {
            some[n] = rows.row(j + n);
        }
        store(j, &dots::<C, PLANES, M, N>(&some, x, first));
    }
    for j in whole..width {
        store(j, &dots::<C, PLANES, M, 1>(&[rows.row(j)], x, first));
    }
}

/// The dot products of rows `first..first + M` of `x` with packed rows of its length.
#[target_feature(enable = "avx2,fma")]
fn dots<C: Codes, const PLANES: usize, const M: usize, const N: usize>(
    rows: &[Row<'_>; N],
    x: &Rows,
    first: usize,
) -> [[f32; M]; N] {
    let Row { format, codes, scales, .. } = rows[0];
    let (length, groups) = (scales.len() * format.group_size, scales.len());
    let steps = length.div_ceil(C::STEP);
    for row in rows {
        assert!(row.format == format && row.codes.len() == codes.len());
        assert_eq!(row.scales.len(), groups);
        assert!(row.biases.is_empty() || row.biases.len() == groups);
    }
    assert!(x.planes == PLANES && x.words.len() >= (first + M) * steps * C::PARTS * PLANES);
    assert!(x.units.len() >= (first + M) * steps && x.sums.len() >= (first + M) * groups);

    let mut totals = [[_mm256_setzero_ps(); M]; N];
    // What a step reads behind the end of a row is 0.
    let mut ends = [[0; MOST_READ]; N];
    for step in 0..steps {
        let at = step * C::BYTES;
        let mut from = [codes.as_ptr(); N];
        for n in 0..N {
            from[n] = step_of::<C>(rows[n].codes, at, &mut ends[n]).as_ptr();
            prefetch(from[n]);
        }
        let mut sums = [[[_mm256_setzero_si256(); PLANES]; M]; N];
        for part in 0..C::PARTS {
            let mut words = [_mm256_setzero_si256(); N];
            for n in 0..N {
                // SAFETY: there are as many bytes as a step reads.
                words[n] = unsafe { C::part(from[n], part) };
            }
            for m in 0..M {
                let at = (((first + m) * steps + step) * C::PARTS + part) * PLANES;
                for plane in 0..PLANES {
                    // SAFETY: there are so many, as asserted above; each is aligned and fills a
                    // register.
                    let x = unsafe { _mm256_load_si256(x.words.as_ptr().add(at + plane).cast()) };
                    for n in 0..N {
                        let products = _mm256_madd_epi16(words[n], x);
                        sums[n][m][plane] = _mm256_add_epi32(sums[n][m][plane], products);
                    }
                }
            }
        }
        for n in 0..N {
            let scales = scales_of::<C>(&rows[n], step);
            for m in 0..M {
                // SAFETY: as above.
                let units = unsafe {
                    let units = x.units.as_ptr().add((first + m) * steps + step);
                    _mm256_load_ps((*units).0.as_ptr())
                };
                let scales = _mm256_mul_ps(scales, units);
                totals[n][m] = _mm256_fmadd_ps(together(sums[n][m]), scales, totals[n][m]);
            }
        }
    }
    let mut dots = [[0.0; M]; N];
    for n in 0..N {
        for m in 0..M {
            let sums = &x.sums[(first + m) * groups..][..groups];
            dots[n][m] = sum(add_biases(totals[n][m], rows[n].biases, sums));
        }
    }
    dots
}

/// Sums of the planes as numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn together<const PLANES: usize>(sums: [__m256i; PLANES]) -> __m256 {
    let mut total = _mm256_cvtepi32_ps(sums[0]);
    for plane in 1..PLANES {
        let finer = _mm256_cvtepi32_ps(sums[plane]);
        total = _mm256_fmadd_ps(finer, _mm256_set1_ps(FINER), total);
    }
    total
}

/// The scales of a step of a row, one for each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn scales_of<C: Codes>(row: &Row<'_>, step: usize) -> __m256 {
    let group_size = row.format.group_size;
    let scales = &row.scales[step * C::STEP / group_size..];
    let groups = (C::STEP / group_size).max(1);
    if groups == 1 {
        return _mm256_broadcast_ss(&scales[0]);
    }
    let mut few = [0.0; 4];
    let scales = if scales.len() < groups {
        few[..scales.len()].copy_from_slice(scales);
        &few
    } else {
        scales
    };
    assert!(scales.len() >= groups);
    let lanes: [i32; LANES] = from_fn(|lane| (lane * groups / LANES) as i32);
    // SAFETY: there are two or four scales, as asserted above; `lanes` fills a register.
    unsafe {
        let lanes = _mm256_loadu_si256(lanes.as_ptr().cast());
        let scales = if groups == 2 {
            _mm256_castpd_ps(_mm256_broadcast_sd(&scales.as_ptr().cast::<f64>().read_unaligned()))
        } else {
            let four = _mm_loadu_ps(scales.as_ptr());
            _mm256_broadcast_ps(&four)
        };
        _mm256_permutevar8x32_ps(scales, lanes)
    }
}

/// Adds biases times sums of `x`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_biases(mut total: __m256, biases: &[f32], sums: &[f32]) -> __m256 {
    for (biases, sums) in biases.chunks(LANES).zip(sums.chunks(LANES)) {
        let (mut x, mut y) = ([0.0; LANES], [0.0; LANES]);
        x[..biases.len()].copy_from_slice(biases);
        y[..sums.len()].copy_from_slice(sums);
        // SAFETY: the arrays fill a register.
        total = unsafe {
            _mm256_fmadd_ps(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(y.as_ptr()), total)
        };
    }
    total
}
