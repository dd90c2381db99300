//! Products of few rows and a quantized matrix in AVX-512's registers.
//!
//! A register holds 16 words of codes, as `codes` puts them there. Shifted to the right, it has one
//! code of each word at its lower end, which becomes a number; these meet the same positions of `x`,
//! which lie in that order. As a word never holds codes of two groups, a lane of the sums belongs to
//! one group, and is scaled once per register of words. The biases meet the sums of groups of `x`.
//! The lanes of 16 columns are added up together.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // into functions with the instructions of an operand
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm512_add_epi32, _mm512_fmadd_ps, _mm512_load_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps,
    _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512,
};
use std::array::from_fn;
use std::ops::Range;

use super::codes::{Codes, width, with_codes};
use super::format::{E2M1, Format, Mode};
use super::operands::{self, Row, Scratch};
use super::product::Product;
use super::vnni::{self, Multiples};
use crate::avx512::{LANES, mask, sums_of};
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
    /// Words of a group as they lie in registers: a power of two. A register's groups are those of as
    /// many registers of words.
    words_per_group: usize,
    /// Groups that a register holds, wholly or in part.
    per_register: usize,
    /// Numbers in a register, and in a group.
    sizes: [usize; 2],
}

impl Tile {
    pub(super) fn new(format: Format, length: usize) -> Self {
        let Format { bits, group_size, .. } = format;
        let per_word = 32 / width(bits);
        let size = LANES * per_word;
        Self {
            registers: length.div_ceil(size),
            bytes: [format.bytes(length), format.bytes(size)],
            groups: length / group_size,
            words_per_group: group_size / per_word,
            per_register: (size / group_size).max(1),
            sizes: [size, group_size],
        }
    }

    /// Registers of a row that are full, and the words of the one behind them.
    fn whole_registers(&self) -> (usize, __mmask16) {
        let [row, register] = self.bytes;
        (row / register, mask(row % register / 4))
    }

    /// The groups of a row that fill registers.
    pub(super) fn padded_groups(&self) -> usize {
        self.groups.next_multiple_of(LANES)
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
        unsafe { codes_at::<C>(row, self.first_byte, self.words) }
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

/// The codes of a row from a byte on, and asks for what lies further on.
///
/// # Safety
/// The mask covers the words of the row from there on, and the processor has the instructions.
#[inline(always)]
unsafe fn codes_at<C: Codes>(row: &Row<'_>, first_byte: usize, words: __mmask16) -> __m512i {
    // SAFETY: the caller says so.
    unsafe {
        let from = row.codes.as_ptr().add(first_byte);
        prefetch(from);
        C::spread(_mm512_maskz_loadu_epi32(words, from.cast()))
    }
}

/// Rows of `x` in the order in which codes come.
pub(super) struct Rows {
    numbers: Numbers,
    /// For each row and group: the sum of the numbers, or of the multiples in their place, as codes
    /// and biases may cancel. Those of a row fill registers.
    sums: Vec<f32>,
    tile: Tile,
}

enum Numbers {
    Floats(Floats),
    Multiples(Multiples),
}

impl Rows {
    /// Rows as numbers of `float32`, or as multiples of powers of two. They are tame: see
    /// [`Product::is_tame`].
    pub(super) fn new(product: &Product<'_>, as_multiples: bool) -> Self {
        let format = product.weight.format;
        let tile = Tile::new(format, product.length);
        let mut sums = Vec::with_capacity(product.rows() * tile.padded_groups());
        let mut numbers = if as_multiples {
            Numbers::Multiples(Multiples::default())
        } else {
            Numbers::Floats(Floats::default())
        };
        for (row, x) in product.x.chunks_exact(product.length).enumerate() {
            match &mut numbers {
                Numbers::Multiples(multiples) => multiples.push(format, &tile, x, &mut sums),
                Numbers::Floats(floats) => {
                    floats.push(format, x);
                    sums.extend(x.chunks_exact(format.group_size).map(|x| x.iter().sum::<f32>()));
                }
            }
            sums.resize((row + 1) * tile.padded_groups(), 0.0);
        }
        Self { numbers, sums, tile }
    }
}

/// A register of codes of packed rows, and what it meets.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    /// The first row that meets it.
    pub(super) first: usize,
    /// Its number in the packed rows.
    pub(super) register: usize,
    pub(super) tile: &'a Tile,
    pub(super) is_float: bool,
    /// What codes of four bits or fewer stand for.
    numbers: __m512,
}

/// Rows that meet codes in registers.
pub(super) trait Operand {
    /// Asserts that there are so many rows, of this tile's length, to meet codes of this format.
    fn check(&self, rows: usize, tile: &Tile, format: Format);

    /// What 1 is worth in the groups of a row from `group` on, a register of them, where it is not 1.
    ///
    /// # Safety
    /// There are such, as [`check`](Self::check) asserts, and the processor has the instructions.
    unsafe fn units(&self, row: usize, group: usize, tile: &Tile) -> Option<__m512>;

    /// The products of `M` rows and a register of codes, without units and scales.
    ///
    /// # Safety
    /// As [`units`](Self::units).
    unsafe fn sums<C: Codes, const M: usize, const N: usize>(
        &self,
        codes: [__m512i; N],
        at: At<'_>,
    ) -> [[__m512; M]; N];

    /// [`Task::rows`] with the instructions of the operand.
    ///
    /// # Safety
    /// As [`units`](Self::units).
    unsafe fn rows<C: Codes, const M: usize, const N: usize>(
        &self,
        task: &Task<'_>,
        first: usize,
        buffers: &mut Buffers,
    );
}

/// Rows of `float32`.
#[derive(Default)]
struct Floats {
    /// For each row, register of words, and position in a word: the numbers that meet its codes.
    lanes: Vec<Lanes>,
}

impl Floats {
    /// Adds a row.
    fn push(&mut self, format: Format, x: &[f32]) {
        let per_word = 32 / width(format.bits);
        for x in x.chunks(LANES * per_word) {
            let start = self.lanes.len();
            self.lanes.resize(start + per_word, Lanes([0.0; LANES]));
            let lanes = &mut self.lanes[start..];
            for (word, x) in x.chunks_exact(per_word).enumerate() {
                for (lanes, &x) in lanes.iter_mut().zip(x) {
                    lanes.0[word] = x;
                }
            }
        }
    }
}

impl Operand for Floats {
    fn check(&self, rows: usize, tile: &Tile, format: Format) {
        assert!(self.lanes.len() == rows * tile.registers * (32 / width(format.bits)));
    }

    #[inline(always)]
    unsafe fn units(&self, _row: usize, _group: usize, _tile: &Tile) -> Option<__m512> {
        None
    }

    #[inline(always)]
    unsafe fn sums<C: Codes, const M: usize, const N: usize>(
        &self,
        mut codes: [__m512i; N],
        At { first, register, tile, numbers, .. }: At<'_>,
    ) -> [[__m512; M]; N] {
        let per_word = 32 / C::WIDTH;
        // SAFETY: the caller says so; registers of numbers are aligned.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); M]; N];
            for i in 0..per_word {
                let mut q = [_mm512_setzero_ps(); N];
                for (q, codes) in q.iter_mut().zip(&mut codes) {
                    (*q, *codes) = C::next(*codes, numbers);
                }
                for m in 0..M {
                    let at = ((first + m) * tile.registers + register) * per_word + i;
                    let x = _mm512_load_ps(self.lanes.as_ptr().add(at).cast());
                    for n in 0..N {
                        sums[n][m] = _mm512_fmadd_ps(q[n], x, sums[n][m]);
                    }
                }
            }
            sums
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
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
    let (rows, format) = (product.rows(), product.weight.format);
    assert!(is_supported() && x.sums.len() == rows * x.tile.padded_groups());
    buffers.out.clear();
    buffers.out.resize(rows * columns.len(), 0.0);
    let task = Task { product, sums: &x.sums, tile: &x.tile, columns };
    // SAFETY: the instructions were found, and the operands are asserted to be those of the product.
    unsafe {
        match &x.numbers {
            Numbers::Floats(x) => {
                x.check(rows, task.tile, format);
                with_codes!(format, Known => task.compute::<Known, _>(x, buffers));
            }
            Numbers::Multiples(x) => {
                assert!(vnni::is_supported());
                x.check(rows, task.tile, format);
                with_codes!(format, Known => task.compute::<Known, _>(x, buffers));
            }
        }
    }
    &buffers.out
}

/// Some columns of a product.
pub(super) struct Task<'a> {
    product: &'a Product<'a>,
    sums: &'a [f32],
    tile: &'a Tile,
    columns: Range<usize>,
}

impl Task<'_> {
    /// Computes all rows.
    ///
    /// # Safety
    /// The processor has the instructions of AVX-512 F and BW, and those of the operand; this and the
    /// sums have the rows of the product.
    unsafe fn compute<C: Codes, X: Operand>(&self, x: &X, buffers: &mut Buffers) {
        for first in (0..self.product.rows()).step_by(4) {
            // SAFETY: the caller says so. As many sums as fit into the registers.
            unsafe {
                match self.product.rows() - first {
                    1 if reads_in_order() => x.rows::<C, 1, 1>(self, first, buffers),
                    1 => x.rows::<C, 1, 4>(self, first, buffers),
                    2 => x.rows::<C, 2, 4>(self, first, buffers),
                    3 => x.rows::<C, 3, 2>(self, first, buffers),
                    _ => x.rows::<C, 4, 2>(self, first, buffers),
                }
            }
        }
    }

    /// The products of rows `first..first + M` and 16 columns at a time, `N` of which are computed at
    /// once.
    ///
    /// # Safety
    /// As [`compute`](Self::compute).
    #[inline(always)]
    pub(super) unsafe fn rows<C: Codes, X: Operand, const M: usize, const N: usize>(
        &self,
        x: &X,
        first: usize,
        Buffers { scratch, out }: &mut Buffers,
    ) {
        let Product { weight, index, .. } = *self.product;
        let width = self.columns.len();
        let is_float = weight.format.mode != Mode::Affine;
        // SAFETY: the processor has the instructions.
        let (numbers, places) = unsafe { (numbers_of(weight.format), Places::new(self.tile)) };
        let at = At { first, register: 0, tile: self.tile, is_float, numbers };
        for start in (0..width).step_by(LANES) {
            let count = LANES.min(width - start);
            let column = self.columns.start + start;
            let rows = weight.rows(index, column..column + count, scratch);
            self.tile.check_all(&rows);
            // SAFETY: the rows are those of the tile, and the caller says the rest; the mask covers
            // what is written of a row.
            unsafe {
                let mut parts = [[_mm512_setzero_ps(); LANES]; M];
                let whole = count - count % N;
                for j in (0..whole).step_by(N) {
                    let some = from_fn(|n| rows.row(j + n));
                    let products = self.products::<C, X, M, N>(x, &some, at, places);
                    for n in 0..N {
                        for m in 0..M {
                            parts[m][j + n] = products[n][m];
                        }
                    }
                }
                for j in whole..count {
                    let [products] = self.products::<C, X, M, 1>(x, &[rows.row(j)], at, places);
                    for m in 0..M {
                        parts[m][j] = products[m];
                    }
                }
                for m in 0..M {
                    let out = &mut out[(first + m) * width + start..][..count];
                    _mm512_mask_storeu_ps(out.as_mut_ptr(), mask(count), sums_of(&parts[m]));
                }
            }
        }
    }

    /// The dot products of `M` rows with packed rows, from the first register on, in 16 parts each.
    ///
    /// # Safety
    /// As [`compute`](Self::compute), and the packed rows are those of the tile.
    #[inline(always)]
    unsafe fn products<C: Codes, X: Operand, const M: usize, const N: usize>(
        &self,
        x: &X,
        rows: &[Row<'_>; N],
        mut at: At<'_>,
        mut places: Places,
    ) -> [[__m512; M]; N] {
        let Self { tile, sums, .. } = *self;
        let first = at.first;
        let (whole, tail) = tile.whole_registers();
        let words = mask(LANES * C::BITS / C::WIDTH);
        // SAFETY: the masks cover what there is of words, scales and biases from a register or a group
        // on, and of each row there are sums for whole registers of groups; the caller says the rest.
        unsafe {
            let mut totals = [[_mm512_setzero_ps(); M]; N];
            for group in (0..tile.groups).step_by(LANES) {
                let some = mask(tile.groups - group);
                let mut scales = [[_mm512_setzero_ps(); M]; N];
                for n in 0..N {
                    let numbers = rows[n].scales.as_ptr().add(group);
                    let of_row = _mm512_maskz_loadu_ps(some, numbers);
                    let of_row = _mm512_mul_ps(of_row, _mm512_set1_ps(C::FACTOR));
                    for m in 0..M {
                        scales[n][m] = match x.units(first + m, group, tile) {
                            Some(units) => _mm512_mul_ps(of_row, units),
                            None => of_row,
                        };
                    }
                    if !rows[n].biases.is_empty() {
                        let biases = rows[n].biases.as_ptr().add(group);
                        let biases = _mm512_maskz_loadu_ps(some, biases);
                        for m in 0..M {
                            let at = (first + m) * tile.padded_groups() + group;
                            let sums = _mm512_loadu_ps(sums.as_ptr().add(at));
                            totals[n][m] = _mm512_fmadd_ps(biases, sums, totals[n][m]);
                        }
                    }
                }
                let end = at.register + tile.words_per_group;
                while at.register < end.min(whole) {
                    add::<C, X, M, N>(x, rows, at, words, places.next(), &scales, &mut totals);
                    at.register += 1;
                }
                if at.register == whole && at.register < end && tail != 0 {
                    add::<C, X, M, N>(x, rows, at, tail, places.next(), &scales, &mut totals);
                }
            }
            totals
        }
    }
}

/// Adds the products with a register of codes, as far as the mask covers its words.
///
/// # Safety
/// As [`Task::products`]; the mask covers what there is of the register.
#[inline(always)]
unsafe fn add<C: Codes, X: Operand, const M: usize, const N: usize>(
    x: &X,
    rows: &[Row<'_>; N],
    at: At<'_>,
    words: __mmask16,
    groups: __m512i,
    scales: &[[__m512; M]; N],
    totals: &mut [[__m512; M]; N],
) {
    // SAFETY: the caller says so.
    unsafe {
        let first_byte = at.register * at.tile.bytes[1];
        let mut codes = [_mm512_setzero_si512(); N];
        for n in 0..N {
            codes[n] = codes_at::<C>(&rows[n], first_byte, words);
        }
        let products = x.sums::<C, M, N>(codes, at);
        for n in 0..N {
            for m in 0..M {
                let scales = _mm512_permutexvar_ps(groups, scales[n][m]);
                totals[n][m] = _mm512_fmadd_ps(products[n][m], scales, totals[n][m]);
            }
        }
    }
}

/// The group of each lane, from register to register, of which look-ups look at the last four bits.
#[derive(Clone, Copy)]
struct Places {
    groups: __m512i,
    /// What is added behind registers of even, and of odd numbers.
    steps: [__m512i; 2],
}

impl Places {
    /// Those of the first register.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(tile: &Tile) -> Self {
        let groups: [i32; LANES] = from_fn(|lane| (lane / tile.words_per_group) as i32);
        // A group fills two registers at most.
        let steps = [LANES, 2 * LANES].map(|words| (words / tile.words_per_group) as i32);
        // SAFETY: the array fills a register.
        let groups = unsafe { _mm512_loadu_si512(groups.as_ptr().cast()) };
        let steps = [steps[0], steps[1] - steps[0]].map(|step| _mm512_set1_epi32(step));
        Self { groups, steps }
    }

    /// Those of the next register.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn next(&mut self) -> __m512i {
        let groups = self.groups;
        self.groups = _mm512_add_epi32(groups, self.steps[0]);
        self.steps.swap(0, 1);
        groups
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
