//! Products of many rows of 16-bit numbers and a quantized matrix in AVX2's registers, in whole
//! numbers.
//!
//! The numbers of a group of a row become multiples of a power of two, and codes become words, as in
//! `avx2`. Multiply-adds of pairs do twice the work of those of `float32`, and their sums, which are
//! exact, are scaled once for each group. Both operands are packed into panels that hold, pair after
//! pair of neighbours along the sum, those of 6 rows or of 16 columns.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi32, _mm256_castsi256_ps, _mm256_cvtepi32_ps,
    _mm256_fmadd_ps, _mm256_load_ps, _mm256_load_si256, _mm256_madd_epi16, _mm256_mul_ps,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_store_ps,
    _mm256_storeu_ps,
};
use std::array::from_fn;
use std::ops::Range;
use std::sync::OnceLock;

use super::avx2::{is_supported, with_codes};
use super::avx2_codes::{Codes, Float4, MOST_READ, Spread, Whole, step_of};
use super::format::{Format, Mode};
use super::multiples::{round, unit_of};
use super::operands::Scratch;
use super::product::Product;
use crate::avx2::{LANES, transposed};

/// Rows of a panel.
const ROWS: usize = 6;

/// Columns of a panel.
const COLUMNS: usize = 2 * LANES;

/// Bytes of packed codes that a task holds: a second-level cache keeps them.
const PACKED_BYTES: usize = 256 << 10;

/// Rows whose products wait to be written.
const WAITING: usize = 96;

/// Pairs by which reading panels runs ahead of a product.
const AHEAD: usize = 12;

/// A pair of words of each row; the last two are not looked at.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct RowPairs([[i16; 2]; LANES]);

/// A number of each column, or a pair of words as the bits of one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Columns([f32; COLUMNS]);

/// What rows are multiplied with in a group: what 1 is worth, and the sum of the multiples,
/// which the biases meet, as codes and biases may cancel.
#[derive(Clone, Copy, Default)]
struct RowGroup {
    units: [f32; ROWS],
    sums: [f32; ROWS],
}

/// Rows in a panel.
struct RowPanel {
    pairs: Vec<RowPairs>,
    groups: Vec<RowGroup>,
}

/// Rows of `x` in panels, each of which is packed by whoever needs it first.
pub(super) struct Rows {
    panels: Vec<OnceLock<RowPanel>>,
    /// Which numbers of a step are pairs, in the order of the pairs.
    order: Vec<[usize; 2]>,
    /// The numbers of a step.
    step: usize,
}

/// Where pairs of words of a part of a step come in the order of pairs, so that those of a group lie
/// together.
fn place_of_pair<C: Codes>(group_size: usize, part: usize, lane: usize) -> usize {
    // Lanes of a part that belong to one group.
    let lanes = LANES / (C::STEP / group_size).max(1);
    (lane / lanes * C::PARTS + part) * lanes + lane % lanes
}

/// The numbers of a step that are pairs.
fn order_of_pairs<C: Codes>(group_size: usize) -> Vec<[usize; 2]> {
    let mut order = vec![[0; 2]; C::STEP / 2];
    for i in 0..C::STEP {
        let (part, word) = C::place(i);
        order[place_of_pair::<C>(group_size, part, word / 2)][word % 2] = i;
    }
    order
}

impl Rows {
    /// Rows that are yet to be packed.
    pub(super) fn new(product: &Product<'_>) -> Self {
        let format = product.weight.format;
        let panels = (0..product.rows().div_ceil(ROWS)).map(|_| OnceLock::new()).collect();
        let (order, step) = with_codes!(format, Known => {
            (order_of_pairs::<Known>(format.group_size), Known::STEP)
        });
        Self { panels, order, step }
    }

    /// Panel `i` of the rows of `product`.
    fn panel(&self, product: &Product<'_>, i: usize) -> &RowPanel {
        self.panels[i].get_or_init(|| {
            let numbers = ROWS * product.length;
            let x = &product.x[i * numbers..];
            // SAFETY: `compute` has found the instructions.
            unsafe { self.packed(product, &x[..x.len().min(numbers)]) }
        })
    }

    #[target_feature(enable = "avx2,fma")]
    fn packed(&self, product: &Product<'_>, x: &[f32]) -> RowPanel {
        let (length, group_size) = (product.length, product.weight.format.group_size);
        let mut pairs = vec![RowPairs([[0; 2]; LANES]); length / 2];
        let mut groups = vec![RowGroup::default(); length / group_size];
        let mut multiples = vec![0_i16; length.next_multiple_of(self.step)];
        for (row, x) in x.chunks_exact(length).enumerate() {
            let parts = x.chunks_exact(group_size).zip(multiples.chunks_mut(group_size));
            for ((x, multiples), group) in parts.zip(&mut groups) {
                let (unit, per_unit) = unit_of(x);
                group.units[row] = unit;
                for (multiple, x) in multiples.iter_mut().zip(x) {
                    *multiple = round(x * per_unit) as i16;
                }
                let sum = multiples.iter().map(|&x| i32::from(x)).sum::<i32>();
                group.sums[row] = unit * sum as f32;
            }
            let steps = multiples.chunks_exact(self.step);
            for (multiples, pairs) in steps.zip(pairs.chunks_mut(self.step / 2)) {
                for (pair, &[first, second]) in pairs.iter_mut().zip(&self.order) {
                    pair.0[row] = [multiples[first], multiples[second]];
                }
            }
        }
        RowPanel { pairs, groups }
    }
}

/// Columns in a panel, with the scales and biases of their groups.
#[derive(Default)]
struct ColumnPanel {
    pairs: Vec<Columns>,
    scales: Vec<Columns>,
    biases: Vec<Columns>,
}

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: Scratch,
    panels: Vec<ColumnPanel>,
    out: Vec<f32>,
}

/// Columns that are packed at a time at most, of so many numbers.
pub(super) fn columns_of_piece(length: usize) -> usize {
    (PACKED_BYTES / (2 * length)).max(COLUMNS) / COLUMNS * COLUMNS
}

/// Computes some columns of a product. `write` gets the number of a row, and the columns of it and
/// of rows that follow it. All rows are tame: see [`Product::is_tame`].
///
/// # Panics
/// If the processor lacks the instructions.
pub(super) fn compute(
    product: &Product<'_>,
    x: &Rows,
    columns: &Range<usize>,
    buffers: &mut Buffers,
    mut write: impl FnMut(usize, &[f32]),
) {
    assert!(is_supported());
    let (width, group_size) = (columns.len(), product.weight.format.group_size);
    let Buffers { scratch, panels, out } = buffers;
    let panels = {
        let count = width.div_ceil(COLUMNS);
        panels.resize_with(panels.len().max(count), ColumnPanel::default);
        &mut panels[..count]
    };
    for (panel, start) in panels.iter_mut().zip(columns.clone().step_by(COLUMNS)) {
        let columns = start..columns.end.min(start + COLUMNS);
        // SAFETY: the instructions were found.
        unsafe {
            with_codes!(product.weight.format, Known => {
                pack::<Known>(product, columns, scratch, panel);
            });
        }
    }
    let factor = with_codes!(product.weight.format, Known => Known::FACTOR);
    for first in (0..product.rows()).step_by(WAITING) {
        let rows = first..product.rows().min(first + WAITING);
        out.clear();
        out.resize(rows.len() * width, 0.0);
        for (out, first) in out.chunks_mut(ROWS * width).zip(rows.clone().step_by(ROWS)) {
            let row_panel = x.panel(product, first / ROWS);
            for (panel, start) in panels.iter().zip((0..width).step_by(COLUMNS)) {
                // SAFETY: the instructions were found.
                let sums = unsafe { tile(row_panel, panel, group_size / 2, factor) };
                let columns = COLUMNS.min(width - start);
                for (out, sums) in out.chunks_mut(width).zip(&sums) {
                    out[start..start + columns].copy_from_slice(&sums.0[..columns]);
                }
            }
        }
        write(first, out);
    }
}

/// Packs at most 16 rows of the quantized matrix, which are columns of the product.
#[target_feature(enable = "avx2,fma")]
fn pack<C: Codes>(
    product: &Product<'_>,
    columns: Range<usize>,
    scratch: &mut Scratch,
    panel: &mut ColumnPanel,
) {
    let Format { group_size, .. } = product.weight.format;
    let (pairs, groups) = (product.length / 2, product.length / group_size);
    let count = columns.len();
    let rows = product.weight.rows(product.index, columns, scratch);
    // Columns that are not there are the last one once more.
    let row = |i: usize| rows.row(i.min(count - 1));
    let zeros = Columns([0.0; COLUMNS]);
    panel.scales.clear();
    panel.scales.resize(groups, zeros);
    panel.biases.clear();
    panel.biases.resize(if rows.row(0).biases.is_empty() { 0 } else { groups }, zeros);
    for column in 0..COLUMNS {
        let row = row(column);
        for (to, &scale) in panel.scales.iter_mut().zip(row.scales) {
            to.0[column] = scale;
        }
        for (to, &bias) in panel.biases.iter_mut().zip(row.biases) {
            to.0[column] = bias;
        }
    }
    panel.pairs.resize(pairs, Columns([0.0; COLUMNS]));
    for half in 0..2 {
        let codes: [&[u8]; LANES] = from_fn(|i| row(half * LANES + i).codes);
        // What a step reads behind the end of a row is 0.
        let mut ends = [[0; MOST_READ]; LANES];
        for (step, pairs) in panel.pairs.chunks_mut(C::STEP / 2).enumerate() {
            let at = step * C::BYTES;
            let mut from = [codes[0].as_ptr(); LANES];
            for i in 0..LANES {
                from[i] = step_of::<C>(codes[i], at, &mut ends[i]).as_ptr();
            }
            for part in 0..C::PARTS {
                let mut words = [_mm256_setzero_ps(); LANES];
                for i in 0..LANES {
                    // SAFETY: there are as many bytes as a step reads.
                    words[i] = _mm256_castsi256_ps(unsafe { C::part(from[i], part) });
                }
                for (lane, pair) in transposed(words).into_iter().enumerate() {
                    let place = place_of_pair::<C>(group_size, part, lane);
                    // The last step may have fewer groups.
                    if let Some(to) = pairs.get_mut(place) {
                        let to = &mut to.0[half * LANES..][..LANES];
                        // SAFETY: the slice fills a register.
                        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), pair) };
                    }
                }
            }
        }
    }
}

/// The products of the rows and columns of two panels, with groups of so many pairs.
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
fn tile(
    rows: &RowPanel,
    columns: &ColumnPanel,
    pairs_of_group: usize,
    factor: f32,
) -> [Columns; ROWS] {
    assert_eq!(rows.pairs.len(), columns.pairs.len());
    assert_eq!(rows.groups.len(), columns.scales.len());
    let mut totals = [Columns([0.0; COLUMNS]); ROWS];
    let pairs = rows.pairs.chunks_exact(pairs_of_group);
    let pairs = pairs.zip(columns.pairs.chunks_exact(pairs_of_group));
    let groups = rows.groups.iter().zip(&columns.scales);
    for (group, ((row_pairs, column_pairs), (row_group, scales))) in pairs.zip(groups).enumerate() {
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for (a, b) in row_pairs.iter().zip(column_pairs) {
            let ahead = std::ptr::from_ref(b).wrapping_add(AHEAD);
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            let from = b.0.as_ptr();
            // SAFETY: the pairs of all columns are two registers, and aligned as they are.
            let b = unsafe {
                [_mm256_load_si256(from.cast()), _mm256_load_si256(from.add(LANES).cast())]
            };
            for r in 0..ROWS {
                let [low, high] = a.0[r];
                let pair = i32::from(low) & 0xffff | i32::from(high) << 16;
                let a = _mm256_set1_epi32(pair);
                for part in 0..2 {
                    let products = _mm256_madd_epi16(a, b[part]);
                    sums[r][part] = _mm256_add_epi32(sums[r][part], products);
                }
            }
        }
        let scales = in_registers(scales);
        let biases = columns.biases.get(group).map(|biases| in_registers(biases));
        for r in 0..ROWS {
            let unit = _mm256_set1_ps(row_group.units[r] * factor);
            let mut total = in_registers(&totals[r]);
            for part in 0..2 {
                let sum = _mm256_cvtepi32_ps(sums[r][part]);
                total[part] = _mm256_fmadd_ps(sum, _mm256_mul_ps(scales[part], unit), total[part]);
                if let Some(biases) = biases {
                    let sum = _mm256_set1_ps(row_group.sums[r]);
                    total[part] = _mm256_fmadd_ps(biases[part], sum, total[part]);
                }
                let to = &mut totals[r].0[part * LANES..][..LANES];
                // SAFETY: the slice fills a register, and is aligned as one.
                unsafe { _mm256_store_ps(to.as_mut_ptr(), total[part]) };
            }
        }
    }
    totals
}

/// A number of each column.
#[inline]
#[target_feature(enable = "avx2")]
fn in_registers(numbers: &Columns) -> [__m256; 2] {
    let from = numbers.0.as_ptr();
    // SAFETY: the numbers are two registers, and aligned as they are.
    unsafe { [_mm256_load_ps(from), _mm256_load_ps(from.add(LANES))] }
}
