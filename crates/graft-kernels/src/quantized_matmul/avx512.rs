//! Products of few rows and a quantized matrix in AVX-512's registers.
//!
//! A register holds 16 words of codes, as `codes` puts them there. Shifted to the right, it has one
//! code of each word at its lower end, which becomes a number; these meet the same positions of `x`,
//! which lie in that order. As a word never holds codes of two groups, a lane of the sums belongs to
//! one group, and is scaled once per register of words. The biases meet the sums of groups of `x`.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm512_fmadd_ps, _mm512_load_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512,
};
use std::array::from_fn;
use std::ops::Range;

use super::codes::{Codes, width, with_codes};
use super::format::{E2M1, Format, Mode};
use super::operands::{self, Row, Scratch};
use super::product::Product;
use super::vnni::{self, Multiples};
use crate::avx512::{LANES, mask};
use crate::isa::Isa;
use crate::prefetch::{prefetch, reads_in_order};

/// Numbers in a register.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

/// Whether the processor has the instructions, and they may be used.
pub(super) fn is_supported() -> bool {
    Isa::Avx512.is_usable()
}

/// How packed rows of one length lie in registers.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Registers of words of a row.
    pub(super) registers: usize,
    /// Bytes of a row, and of a register's codes.
    bytes: [usize; 2],
    groups: usize,
    /// Groups that a register holds, wholly or in part.
    per_register: usize,
    /// Numbers in a register, and in a group.
    sizes: [usize; 2],
}

impl Tile {
    pub(super) fn new(format: Format, length: usize) -> Self {
        let Format { bits, group_size, .. } = format;
        let size = LANES * 32 / width(bits);
        Self {
            registers: length.div_ceil(size),
            bytes: [format.bytes(length), format.bytes(size)],
            groups: length / group_size,
            per_register: (size / group_size).max(1),
            sizes: [size, group_size],
        }
    }

    /// Asserts that the rows are of this length.
    pub(super) fn check(&self, rows: &[Row<'_>]) {
        for row in rows {
            assert!(row.codes.len() == self.bytes[0] && row.scales.len() == self.groups);
            assert!(row.biases.is_empty() || row.biases.len() == self.groups);
        }
    }

    /// Asserts that all rows are of this length.
    fn check_all(&self, rows: &operands::Rows<'_>) {
        assert!(rows.sizes() == [self.bytes[0], self.groups]);
    }

    /// Where what a register holds lies in a row.
    pub(super) fn part(&self, register: usize) -> Part {
        let first_byte = register * self.bytes[1];
        let bytes = (self.bytes[0] - first_byte).min(self.bytes[1]);
        let first_group = register * self.sizes[0] / self.sizes[1];
        let groups = (self.groups - first_group).min(self.per_register);
        // Whole groups fill whole words.
        Part { first_byte, words: mask(bytes / 4), first_group, groups: mask(groups) }
    }

    /// Which of the groups of a register a lane belongs to.
    #[target_feature(enable = "avx512f")]
    pub(super) fn group_of_lane(&self) -> __m512i {
        let groups: [i32; LANES] = from_fn(|lane| (lane * self.per_register / LANES) as i32);
        // SAFETY: the array fills a register.
        unsafe { _mm512_loadu_si512(groups.as_ptr().cast()) }
    }
}

/// A part of packed rows: that of a register.
#[derive(Clone, Copy)]
pub(super) struct Part {
    first_byte: usize,
    words: __mmask16,
    first_group: usize,
    groups: __mmask16,
}

impl Part {
    /// The codes of a row.
    ///
    /// # Safety
    /// The row is one of the tile, and the processor has the instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn codes<C: Codes>(self, row: &Row<'_>) -> __m512i {
        // SAFETY: the mask covers the words of the row from there on.
        unsafe {
            let words = row.codes.as_ptr().add(self.first_byte);
            prefetch(words);
            C::spread(_mm512_maskz_loadu_epi32(self.words, words.cast()))
        }
    }

    /// The scales of a row, one for each lane.
    ///
    /// # Safety
    /// The row is one of the tile, and the processor has the instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn scales(self, row: &Row<'_>, group_of_lane: __m512i) -> __m512 {
        // SAFETY: the mask covers the scales of the row from there on.
        let scales = unsafe {
            _mm512_maskz_loadu_ps(self.groups, row.scales.as_ptr().add(self.first_group))
        };
        _mm512_permutexvar_ps(group_of_lane, scales)
    }
}

/// Rows of `x` in the order in which codes come.
pub(super) struct Rows {
    numbers: Numbers,
    /// For each row and group: the sum of the numbers, or of the multiples in their place, as codes
    /// and biases may cancel.
    sums: Vec<f32>,
    tile: Tile,
}

enum Numbers {
    /// For each row, register of words, and position in a word: the numbers that meet its codes.
    Floats(Vec<Lanes>),
    Multiples(Multiples),
}

impl Rows {
    /// Rows as numbers of `float32`, or as multiples of powers of two, if the processor has the
    /// instructions for these. They are tame: see [`Product::is_tame`].
    ///
    /// # Panics
    /// If it lacks the instructions.
    pub(super) fn new(product: &Product<'_>, as_multiples: bool) -> Self {
        let format = product.weight.format;
        let rows = product.x.chunks_exact(product.length);
        let mut sums = Vec::with_capacity(product.x.len() / format.group_size);
        let numbers = if as_multiples {
            assert!(vnni::is_supported());
            let mut multiples = Multiples::default();
            // SAFETY: the instructions were found.
            rows.for_each(|x| unsafe { multiples.push(format, x, &mut sums) });
            Numbers::Multiples(multiples)
        } else {
            let groups = product.x.chunks_exact(format.group_size);
            sums.extend(groups.map(|x| x.iter().sum::<f32>()));
            Numbers::Floats(rows.flat_map(|x| in_order_of_codes(format, x)).collect())
        };
        Self { numbers, sums, tile: Tile::new(format, product.length) }
    }
}

/// For each register of words, and position in a word: the numbers that meet its codes.
fn in_order_of_codes(format: Format, x: &[f32]) -> Vec<Lanes> {
    let per_word = 32 / width(format.bits);
    let mut ordered = Vec::with_capacity(x.len().div_ceil(LANES) + per_word);
    for x in x.chunks(LANES * per_word) {
        let start = ordered.len();
        ordered.resize(start + per_word, Lanes([0.0; LANES]));
        let lanes = &mut ordered[start..];
        for (word, x) in x.chunks_exact(per_word).enumerate() {
            for (lanes, &x) in lanes.iter_mut().zip(x) {
                lanes.0[word] = x;
            }
        }
    }
    ordered
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
        with_codes!(product.weight.format, Known => all::<Known>(product, x, &columns, buffers));
    }
    &buffers.out
}

#[target_feature(enable = "avx512f,avx512bw")]
fn all<C: Codes>(product: &Product<'_>, x: &Rows, columns: &Range<usize>, buffers: &mut Buffers) {
    buffers.out.clear();
    buffers.out.resize(product.rows() * columns.len(), 0.0);
    for first in (0..product.rows()).step_by(4) {
        // As many sums as fit into the registers.
        match product.rows() - first {
            1 if reads_in_order() => block::<C, 1, 2>(product, x, first, columns, buffers),
            1 => block::<C, 1, 4>(product, x, first, columns, buffers),
            2 => block::<C, 2, 4>(product, x, first, columns, buffers),
            3 => block::<C, 3, 2>(product, x, first, columns, buffers),
            _ => block::<C, 4, 2>(product, x, first, columns, buffers),
        }
    }
}

/// The products of rows `first..first + M` and some columns, `N` at a time.
#[target_feature(enable = "avx512f,avx512bw")]
fn block<C: Codes, const M: usize, const N: usize>(
    product: &Product<'_>,
    x: &Rows,
    first: usize,
    columns: &Range<usize>,
    Buffers { scratch, out }: &mut Buffers,
) {
    let width = columns.len();
    let rows = product.weight.rows(product.index, columns.clone(), scratch);
    x.tile.check_all(&rows);
    assert!(x.sums.len() >= (first + M) * x.tile.groups);
    let mut store = |j: usize, sums: &[[f32; M]]| {
        for (n, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                out[(first + i) * width + j + n] = sum;
            }
        }
    };
    let whole = width - width % N;
    for j in (0..whole).step_by(N) {
        let some = from_fn(|n| rows.row(j + n));
        // SAFETY: the rows are those of the tile, and there are sums for them.
        store(j, &unsafe { dots::<C, M, N>(&some, x, first) });
    }
    for j in whole..width {
        // SAFETY: as above.
        store(j, &unsafe { dots::<C, M, 1>(&[rows.row(j)], x, first) });
    }
}

/// The dot products of rows `first..first + M` of `x` with packed rows of its length.
///
/// # Safety
/// The packed rows are those of the tile, and `x` has sums for its rows.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn dots<C: Codes, const M: usize, const N: usize>(
    rows: &[Row<'_>; N],
    x: &Rows,
    first: usize,
) -> [[f32; M]; N] {
    let tile = &x.tile;
    // SAFETY: the caller says so; there are multiples only where the processor has the instructions.
    unsafe {
        let totals = match &x.numbers {
            Numbers::Floats(lanes) => products::<C, M, N>(rows, lanes, tile, first),
            Numbers::Multiples(x) => x.products::<C, M, N>(rows, tile, first),
        };
        add_biases(totals, rows, x, first)
    }
}

/// What codes of four bits or fewer stand for.
#[target_feature(enable = "avx512f")]
pub(super) fn numbers_of(format: Format) -> __m512 {
    let numbers: [f32; LANES] = from_fn(|code| match format.mode {
        Mode::Affine => (code % (1 << format.bits.min(4))) as f32,
        Mode::Mx | Mode::Nv => E2M1[code],
    });
    // SAFETY: the array fills a register.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}

/// The products in 16 parts each, without what the biases add.
///
/// # Safety
/// The packed rows are those of the tile.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn products<C: Codes, const M: usize, const N: usize>(
    rows: &[Row<'_>; N],
    lanes: &[Lanes],
    tile: &Tile,
    first: usize,
) -> [[__m512; M]; N] {
    let per_word = 32 / C::WIDTH;
    let registers = tile.registers;
    assert!(lanes.len() >= (first + M) * registers * per_word);
    let group_of_lane = tile.group_of_lane();
    let numbers = numbers_of(*rows[0].format);

    let mut totals = [[_mm512_setzero_ps(); M]; N];
    for register in 0..registers {
        let part = tile.part(register);
        let mut codes = [_mm512_setzero_si512(); N];
        for (codes, row) in codes.iter_mut().zip(rows) {
            // SAFETY: the caller says so.
            *codes = unsafe { part.codes::<C>(row) };
        }
        let mut sums = [[_mm512_setzero_ps(); M]; N];
        for i in 0..per_word {
            let mut q = [_mm512_setzero_ps(); N];
            for (q, codes) in q.iter_mut().zip(&mut codes) {
                // SAFETY: the processor has the instructions.
                (*q, *codes) = unsafe { C::next(*codes, numbers) };
            }
            for m in 0..M {
                let at = ((first + m) * registers + register) * per_word + i;
                // SAFETY: there are so many, as asserted above; each is aligned and fills a register.
                let x = unsafe { _mm512_load_ps(lanes.as_ptr().add(at).cast()) };
                for n in 0..N {
                    sums[n][m] = _mm512_fmadd_ps(q[n], x, sums[n][m]);
                }
            }
        }
        for n in 0..N {
            // SAFETY: the caller says so.
            let scales = unsafe { part.scales(&rows[n], group_of_lane) };
            for m in 0..M {
                totals[n][m] = _mm512_fmadd_ps(sums[n][m], scales, totals[n][m]);
            }
        }
    }
    totals.map(|totals| totals.map(|total| _mm512_mul_ps(total, _mm512_set1_ps(C::FACTOR))))
}

/// Adds biases times sums of `x`, and the parts.
///
/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn add_biases<const M: usize, const N: usize>(
    mut totals: [[__m512; M]; N],
    rows: &[Row<'_>; N],
    x: &Rows,
    first: usize,
) -> [[f32; M]; N] {
    let groups = x.tile.groups;
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
