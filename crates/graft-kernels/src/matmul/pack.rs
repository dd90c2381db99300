//! Operands packed into panels for the products of pairs.
#![allow(unsafe_code)]

use std::arch::x86_64::{_mm512_maskz_loadu_epi16, _mm512_setzero_si512, _mm512_storeu_si512};

use half::bf16;

use super::avx512_lanes;
use super::matrix::Matrix;
use crate::avx512::LANES;
use crate::tasks;

/// Lines of a panel of `a`: so many sums of 32 columns, and two loads, fill the registers.
pub(super) const A_LINES: usize = 14;

/// Lines of a panel of `b`.
pub(super) const B_LINES: usize = 32;

/// The lines of an operand (rows of `a`, columns of `b`) in panels of `LINES`, the last of which is
/// filled up with zeros. A panel holds, pair after pair of neighbours along the sum, that pair of
/// every line.
pub(super) struct Panels<const LINES: usize> {
    data: Vec<[u32; LANES]>,
    lines: usize,
    pairs: usize,
}

impl<const LINES: usize> Panels<LINES> {
    /// Registers that hold one pair of every line.
    const REGISTERS: usize = LINES.div_ceil(LANES);

    /// Packs the rows of `matrix`.
    ///
    /// The processor must have AVX-512 BW.
    pub(super) fn pack(matrix: Matrix<'_, bf16>, parallel: bool) -> Self {
        let (lines, pairs) = (matrix.rows, matrix.columns.div_ceil(2));
        let size = pairs * Self::REGISTERS;
        let panel = |i: usize, panel: &mut [[u32; LANES]]| {
            let lines = LINES.min(lines - i * LINES);
            let matrix = matrix.rows(i * LINES, lines);
            for register in 0..Self::REGISTERS.min(lines.div_ceil(LANES)) {
                let start = register * LANES;
                let part = matrix.rows(start, LANES.min(lines - start));
                let places = panel[register..].iter_mut().step_by(Self::REGISTERS);
                pack_lines(part, places);
            }
        };
        let count = lines.div_ceil(LINES) * size;
        let data = tasks::filled(count, size, [0_u32; LANES], parallel, panel);
        Self { data, lines, pairs }
    }

    /// The number of panels.
    pub(super) fn count(&self) -> usize {
        self.lines.div_ceil(LINES)
    }

    /// The number of lines of panel `i`, without those that fill it up.
    pub(super) fn lines(&self, i: usize) -> usize {
        LINES.min(self.lines - i * LINES)
    }

    fn panel(&self, i: usize) -> &[[u32; LANES]] {
        let size = self.pairs * Self::REGISTERS;
        &self.data[i * size..(i + 1) * size]
    }
}

impl Panels<A_LINES> {
    /// Panel `i`.
    pub(super) fn get(&self, i: usize) -> &[[u32; LANES]] {
        self.panel(i)
    }
}

impl Panels<B_LINES> {
    /// Panel `i`.
    pub(super) fn get(&self, i: usize) -> &[[u32; B_LINES]] {
        self.panel(i).as_flattened().as_chunks().0
    }
}

/// Packs at most 16 lines: the pairs of all of them, one after the other, to `places`.
fn pack_lines<'p>(lines: Matrix<'_, bf16>, mut places: impl Iterator<Item = &'p mut [u32; LANES]>) {
    let pair = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    let length = lines.columns;
    if lines.has_dense_rows() {
        let rows: Vec<&[bf16]> = (0..lines.rows).map(|i| lines.dense_row(i)).collect();
        for start in (0..length).step_by(2 * LANES) {
            // SAFETY: the caller of `Panels::pack` has found the instructions.
            let block = unsafe { transposed(&rows, start) };
            block.iter().zip(&mut places).for_each(|(from, to)| *to = *from);
        }
        return;
    }
    let across = lines.transposed();
    for (t, place) in places.enumerate() {
        let high_row = (2 * t + 1 < length).then_some(2 * t + 1);
        if across.has_dense_rows() {
            let low = across.dense_row(2 * t);
            match high_row.map(|row| across.dense_row(row)) {
                Some(high) => {
                    for ((place, &low), &high) in place.iter_mut().zip(low).zip(high) {
                        *place = pair(low, high);
                    }
                }
                None => {
                    for (place, &low) in place.iter_mut().zip(low) {
                        *place = pair(low, bf16::ZERO);
                    }
                }
            }
        } else {
            for (i, place) in place.iter_mut().enumerate().take(lines.rows) {
                let high = high_row.map_or(bf16::ZERO, |column| lines.get(i, column));
                *place = pair(lines.get(i, 2 * t), high);
            }
        }
    }
}

/// Pairs `start / 2..` of at most 16 lines, the first of all of them, then the second, …; zeros
/// where a line has ended.
///
/// # Safety
/// The processor has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transposed(lines: &[&[bf16]], start: usize) -> [[u32; LANES]; LANES] {
    let mut r = [_mm512_setzero_si512(); LANES];
    for (r, line) in r.iter_mut().zip(lines) {
        let line = &line[start..line.len().min(start + 2 * LANES)];
        let mask = u32::MAX >> (2 * LANES - line.len());
        // SAFETY: the mask covers the elements of the slice.
        *r = unsafe { _mm512_maskz_loadu_epi16(mask, line.as_ptr().cast()) };
    }
    let mut out = [[0; LANES]; LANES];
    // SAFETY: this function is compiled for the instructions.
    let r = unsafe { avx512_lanes::transposed(r) };
    for (out, x) in out.iter_mut().zip(r) {
        // SAFETY: an element of `out` has 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    /// The pairs of all lines, and zeros where there is none.
    fn check<const LINES: usize>(matrix: Matrix<'_, bf16>) {
        for parallel in [false, true] {
            let panels = Panels::<LINES>::pack(matrix, parallel);
            assert_eq!(panels.count(), matrix.rows.div_ceil(LINES));
            let number = |i: usize, t: usize| {
                let is_there = i < matrix.rows && t < matrix.columns;
                u32::from(if is_there { matrix.get(i, t).to_bits() } else { 0 })
            };
            let registers = LINES.div_ceil(LANES);
            for i in 0..panels.count() {
                let count = panels.lines(i);
                for (at, pairs) in panels.panel(i).iter().enumerate() {
                    let (t, first) = (2 * (at / registers), at % registers * LANES);
                    for (lane, &pair) in pairs.iter().enumerate() {
                        let line = i * LINES + first + lane;
                        let is_there = first + lane < count;
                        let wanted = number(line, t) | number(line, t + 1) << 16;
                        assert_eq!(pair, if is_there { wanted } else { 0 }, "{line} {t}");
                    }
                }
            }
        }
    }

    #[test]
    fn panels_hold_every_number_once() {
        if !Isa::Avx512.is_supported() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        for (rows, columns) in [(1, 1), (14, 32), (15, 33), (17, 2), (40, 101), (70, 64)] {
            let numbers: Vec<bf16> =
                (1..=rows * columns).map(|i| bf16::from_bits(i as u16)).collect();
            for matrix in [
                Matrix::from_rows(&numbers, rows, columns),
                Matrix::from_rows(&numbers, columns, rows).transposed(),
            ] {
                check::<A_LINES>(matrix);
                check::<B_LINES>(matrix);
            }
        }
    }
}
