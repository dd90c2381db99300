//! Products of few rows and a quantized matrix that is not multiplied transposed: sums of its rows,
//! in AVX-512's registers.
//!
//! A register holds 16 words of codes, as in `avx512`. Each position in a word has sums of its own,
//! to which what the codes stand for is added, times the scale and a number of `x`. Four packed
//! rows are added at once, so that sums are loaded and stored once for four. The biases are summed
//! for each group.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __m512, __m512i, _mm512_fmadd_ps, _mm512_load_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_store_ps,
};
use std::array::from_fn;
use std::ops::Range;

use super::avx512::{self, Lanes, Tile};
use super::codes::{Codes, width, with_codes};
use super::format::Format;
use super::operands::{Row, Scratch};
use super::product::Product;
use crate::avx512::LANES;

/// Packed rows that are added at once.
const ROWS: usize = 4;

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: [Scratch; ROWS],
    sums: Vec<Lanes>,
    biases: Vec<f32>,
    out: Vec<f32>,
}

/// The columns of a register.
pub(super) fn unit(format: Format) -> usize {
    LANES * 32 / width(format.bits)
}

/// Computes some columns of a product, row by row.
///
/// # Panics
/// If the processor lacks the instructions.
pub(super) fn compute<'b>(
    product: &Product<'_>,
    columns: &Range<usize>,
    buffers: &'b mut Buffers,
) -> &'b [f32] {
    assert!(avx512::is_supported());
    buffers.out.clear();
    buffers.out.resize(product.rows() * columns.len(), 0.0);
    // SAFETY: the instructions were found.
    unsafe {
        with_codes!(product.weight.format, Known => all::<Known>(product, columns, buffers));
    }
    &buffers.out
}

#[target_feature(enable = "avx512f,avx512bw")]
fn all<C: Codes>(product: &Product<'_>, columns: &Range<usize>, buffers: &mut Buffers) {
    for first in (0..product.rows()).step_by(4) {
        // As many as fit into the registers.
        match product.rows() - first {
            1 => block::<C, 1>(product, first, columns, buffers),
            2 => block::<C, 2>(product, first, columns, buffers),
            3 => block::<C, 3>(product, first, columns, buffers),
            _ => block::<C, 4>(product, first, columns, buffers),
        }
    }
}

/// The products of rows `first..first + M` of `x`.
#[target_feature(enable = "avx512f,avx512bw")]
fn block<C: Codes, const M: usize>(
    product: &Product<'_>,
    first: usize,
    columns: &Range<usize>,
    Buffers { scratch, sums, biases, out }: &mut Buffers,
) {
    let Product { x, length, weight, index, .. } = *product;
    let (width, per_word) = (columns.len(), 32 / C::WIDTH);
    let tile = Tile::new(weight.format, width);
    let groups = width / weight.format.group_size;
    sums.clear();
    sums.resize(M * tile.registers * per_word, Lanes([0.0; LANES]));
    biases.clear();
    biases.resize(M * groups, 0.0);
    let look_ups = (tile.group_of_lane(), avx512::numbers_of(weight.format));
    let x: [&[f32]; M] = from_fn(|m| &x[(first + m) * length..][..length]);
    let whole = length - length % ROWS;
    for k in (0..whole).step_by(ROWS) {
        let mut scratch = scratch.iter_mut();
        let rows: [Row<'_>; ROWS] = from_fn(|r| {
            let scratch = scratch.next().expect("there are as many");
            weight.row(index, k + r, columns.clone(), scratch)
        });
        let x = from_fn(|m| from_fn(|r| x[m][k + r]));
        add::<C, M, ROWS>(&rows, &x, &tile, look_ups, sums, biases);
    }
    for k in whole..length {
        let row = weight.row(index, k, columns.clone(), &mut scratch[0]);
        add::<C, M, 1>(&[row], &from_fn(|m| [x[m][k]]), &tile, look_ups, sums, biases);
    }
    for m in 0..M {
        let (sums, biases) = (&sums[m * tile.registers * per_word..], &biases[m * groups..]);
        let out = &mut out[(first + m) * width..][..width];
        for (column, out) in out.iter_mut().enumerate() {
            let (word, position) = (column / per_word, column % per_word);
            let sum = sums[word / LANES * per_word + position].0[word % LANES];
            *out = sum * C::FACTOR + biases[column / weight.format.group_size];
        }
    }
}

/// Adds packed rows times numbers of `x` to the sums of codes, and to those of biases, with the
/// groups of lanes and what codes stand for.
#[target_feature(enable = "avx512f,avx512bw")]
fn add<C: Codes, const M: usize, const R: usize>(
    rows: &[Row<'_>; R],
    x: &[[f32; R]; M],
    tile: &Tile,
    (group_of_lane, numbers): (__m512i, __m512),
    sums: &mut [Lanes],
    biases: &mut [f32],
) {
    let per_word = 32 / C::WIDTH;
    let registers = tile.registers;
    tile.check(rows);
    assert_eq!(sums.len(), M * registers * per_word);
    let groups = biases.len() / M;
    for (biases, x) in biases.chunks_exact_mut(groups).zip(x) {
        for (row, x) in rows.iter().zip(x) {
            for (sum, bias) in biases.iter_mut().zip(row.biases) {
                *sum += x * bias;
            }
        }
    }
    for register in 0..registers {
        let part = tile.part(register);
        let mut codes = [_mm512_setzero_si512(); R];
        let mut factors = [[_mm512_setzero_ps(); M]; R];
        for r in 0..R {
            // SAFETY: the rows were checked above.
            let scales = unsafe {
                codes[r] = part.codes::<C>(&rows[r]);
                part.scales(&rows[r], group_of_lane)
            };
            for m in 0..M {
                factors[r][m] = _mm512_mul_ps(scales, _mm512_set1_ps(x[m][r]));
            }
        }
        for position in 0..per_word {
            let mut q: [__m512; R] = [_mm512_setzero_ps(); R];
            for r in 0..R {
                // SAFETY: the processor has the instructions.
                (q[r], codes[r]) = unsafe { C::next(codes[r], numbers) };
            }
            for m in 0..M {
                let at = (m * registers + register) * per_word + position;
                // SAFETY: there are so many, as asserted above; each is aligned and fills a
                // register.
                unsafe {
                    let place = sums.as_mut_ptr().add(at).cast::<f32>();
                    let mut sum = _mm512_load_ps(place);
                    for r in 0..R {
                        sum = _mm512_fmadd_ps(q[r], factors[r][m], sum);
                    }
                    _mm512_store_ps(place, sum);
                }
            }
        }
    }
}
