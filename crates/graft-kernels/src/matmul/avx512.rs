//! Products in `float32` by AVX-512's multiply-adds, of numbers of any floating-point dtype: those
//! of 16 bits are converted while the operands are packed, and sums are rounded once.
//!
//! Both operands are packed into panels that hold, step after step along the sum, the numbers of
//! 14 rows of `a`, and of 32 columns of `b`. The 14 × 32 sums of a tile stay in registers for a block
//! of the sum. Source of the order of loops: Goto and van de Geijn, "Anatomy of High-Performance
//! Matrix Multiplication", 2008.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_castps_si512, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps, _mm512_storeu_si512,
};
use std::cell::RefCell;
use std::mem::MaybeUninit;

use super::avx512_lanes::{LANES, Lanes, mask, transposed};
use super::matrix::Matrix;
use super::pack::{A_LINES, B_LINES};
use crate::isa::Isa;
use crate::tasks;

/// Panels of `a` in a task: with the longest block of the sum, they fill half a megabyte of the
/// second-level cache while the panels of `b` pass by.
const PANELS: usize = 8;

/// Steps along the sum in a block at most.
const STEPS: usize = 1024;

/// Steps by which reading runs ahead.
const AHEAD: usize = 8;

/// Numbers of `b` that are packed at a time.
const PACKED: usize = 1 << 20;

/// Rows or columns for which packing does not pay.
const FEW: usize = 4;

/// A packed step of sixteen lines, a line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Row([f32; LANES]);

/// Registers that hold a step of a panel of `b`.
const B_ROWS: usize = B_LINES / LANES;

thread_local! {
    /// Packed panels of `b`, and of `a`: kept, as fresh memory costs more than it holds.
    static B: RefCell<Vec<Row>> = const { RefCell::new(Vec::new()) };
    static A: RefCell<Vec<Row>> = const { RefCell::new(Vec::new()) };
}

/// Whether packing pays: with a few rows or columns, the operand that has more is read once only.
pub(super) fn suits<T: Lanes>(a: &Matrix<'_, T>, b: &Matrix<'_, T>) -> bool {
    Isa::Avx512.is_usable() && a.rows > FEW && b.columns > FEW
}

/// The largest of evenly sized parts of `whole`, none above `limit`, as a multiple of `unit`.
fn part(whole: usize, limit: usize, unit: usize) -> usize {
    whole.div_ceil(whole.div_ceil(limit.max(unit))).next_multiple_of(unit)
}

/// Writes `a × b` to `out`, all of it.
///
/// # Panics
/// If the processor lacks the instructions, or the sizes do not fit.
pub(super) fn multiply<T: Lanes>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    let (m, k, n) = (a.rows, b.rows, b.columns);
    assert!(Isa::Avx512.is_supported() && a.columns == k && out.len() == m * n);
    let steps = part(k, STEPS, 1);
    let columns = part(n, PACKED / steps, B_LINES);
    // Sums of 16-bit numbers over several blocks wait in `float32`.
    let waits = k > steps && !T::IS_FLOAT32;
    let mut waiting = vec![0.0_f32; if waits { m * columns } else { 0 }];
    for start in (0..n).step_by(columns) {
        let columns = columns.min(n - start);
        for step in (0..k).step_by(steps) {
            let steps = steps.min(k - step);
            let out = out[start..].as_mut_ptr();
            let sums = if waits {
                Sums { data: waiting.as_mut_ptr(), stride: columns }
            } else {
                Sums { data: out.cast(), stride: n }
            };
            let block = Block {
                a: a.transposed().rows(step, steps).transposed(),
                b: b.rows(step, steps).transposed().rows(start, columns),
                out: Sums { data: out, stride: n },
                sums,
                first: step == 0,
                last: step + steps == k,
            };
            let mut packed = B.take();
            block.multiply(&mut packed, parallel);
            B.set(packed);
        }
    }
}

/// Where a matrix of sums is written, row by row.
#[derive(Clone, Copy)]
struct Sums<T> {
    data: *mut T,
    stride: usize,
}

impl<T> Sums<T> {
    /// The address of element (i, j), which need not exist.
    fn at(self, i: usize, j: usize) -> *mut T {
        self.data.wrapping_add(i * self.stride + j)
    }
}

/// A block of a product: some columns, and some steps of the sum.
struct Block<'a, T> {
    /// `(M, K)`.
    a: Matrix<'a, T>,
    /// Transposed: `(N, K)`.
    b: Matrix<'a, T>,
    out: Sums<MaybeUninit<T>>,
    /// Where the sums are between two blocks: those of `float32` in `out` itself.
    sums: Sums<f32>,
    first: bool,
    last: bool,
}

// SAFETY: the matrices may be shared, and tasks write tiles that do not overlap.
unsafe impl<T: Lanes> Sync for Block<'_, T> {}

impl<T: Lanes> Block<'_, T> {
    fn multiply(&self, packed: &mut Vec<Row>, parallel: bool) {
        let steps = self.b.columns;
        let panels = self.b.rows.div_ceil(B_LINES);
        let size = steps * B_ROWS;
        let packed = fitted(packed, panels * size);
        pack::<T, B_LINES>(self.b, packed, parallel);
        let b = &*packed;

        let count = self.a.rows.div_ceil(A_LINES);
        let threads = if parallel { tasks::threads() } else { 1 };
        // Blocks of rows in equal numbers for each thread, and if they are few, of fewer columns.
        let blocks = count.div_ceil(PANELS).next_multiple_of(threads).min(count);
        let pieces = if blocks < threads { (2 * threads).div_ceil(blocks).min(panels) } else { 1 };
        tasks::for_each(blocks * pieces, parallel, |task, (): &mut ()| {
            let share = |i: usize, of: usize, all: usize| i * all / of..(i + 1) * all / of;
            let rows = share(task / pieces, blocks, count);
            let columns = share(task % pieces, pieces, panels);
            let first = rows.start * A_LINES;
            let lines = (rows.end * A_LINES).min(self.a.rows) - first;
            let mut memory = A.take();
            let a = fitted(&mut memory, rows.len() * steps);
            pack::<T, A_LINES>(self.a.rows(first, lines), a, false);
            for j in columns {
                let b = &b[j * size..(j + 1) * size];
                for (i, a) in rows.clone().zip(a.chunks(steps)) {
                    // SAFETY: the processor has the instructions; this task alone writes the tile,
                    // whose rows and columns are those that were packed.
                    unsafe { self.tile(a, b.as_chunks().0, i * A_LINES, j * B_LINES) };
                }
            }
            A.set(memory);
        });
    }

    /// Adds the product of two panels to the sums at (i, j), or writes it to the output.
    ///
    /// # Safety
    /// The processor has the instructions, and nobody else uses these sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn tile(&self, a: &[Row], b: &[[Row; B_ROWS]], i: usize, j: usize) {
        let rows = A_LINES.min(self.a.rows - i);
        let columns = B_LINES.min(self.b.rows - j);
        let masks = [mask(columns), mask(columns.saturating_sub(LANES))];
        let mut sums = product(a, b);
        for (r, sums) in sums.iter_mut().enumerate().take(rows) {
            for (half, sum) in sums.iter_mut().enumerate() {
                let (column, mask) = (j + half * LANES, masks[half]);
                let waiting = self.sums.at(i + r, column);
                // SAFETY: the mask covers columns that the matrices have, and nothing is read
                // before the first block has written it.
                unsafe {
                    if !self.first {
                        *sum = _mm512_add_ps(*sum, _mm512_maskz_loadu_ps(mask, waiting));
                    }
                    if self.last {
                        T::store(self.out.at(i + r, column).cast(), mask, *sum);
                    } else {
                        _mm512_mask_storeu_ps(waiting, mask, *sum);
                    }
                }
            }
        }
    }
}

/// The first `size` rows of a buffer, which grows if it must.
fn fitted(buffer: &mut Vec<Row>, size: usize) -> &mut [Row] {
    if buffer.len() < size {
        buffer.resize(size, Row([0.0; LANES]));
    }
    &mut buffer[..size]
}

/// The sums of the products of two panels, step by step.
#[target_feature(enable = "avx512f")]
#[inline]
fn product(a: &[Row], b: &[[Row; B_ROWS]]) -> [[__m512; B_ROWS]; A_LINES] {
    let mut sums = [[_mm512_setzero_ps(); B_ROWS]; A_LINES];
    for (a, b) in a.iter().zip(b) {
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(b).wrapping_add(AHEAD).cast());
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(&b[1]).wrapping_add(2 * AHEAD).cast());
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(a).wrapping_add(AHEAD).cast());
        // SAFETY: a row has 64 bytes.
        let b = b.map(|row| unsafe { _mm512_loadu_ps(row.0.as_ptr()) });
        for (sums, &a) in sums.iter_mut().zip(&a.0) {
            let a = _mm512_set1_ps(a);
            for (sum, &b) in sums.iter_mut().zip(&b) {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
    }
    sums
}

/// Packs the rows of `matrix` into panels of `LINES`. What the last panel has too many is not
/// looked at.
fn pack<T: Lanes, const LINES: usize>(matrix: Matrix<'_, T>, packed: &mut [Row], parallel: bool) {
    let registers = LINES.div_ceil(LANES);
    tasks::for_each_chunk(packed, matrix.columns * registers, parallel, |i, panel| {
        let lines = LINES.min(matrix.rows - i * LINES);
        let panel_lines = matrix.rows(i * LINES, lines);
        for register in 0..registers.min(lines.div_ceil(LANES)) {
            let start = register * LANES;
            let part = panel_lines.rows(start, LANES.min(lines - start));
            // SAFETY: `multiply` has found the instructions.
            unsafe { pack_lines(part, panel[register..].iter_mut().step_by(registers)) };
        }
    });
}

/// Packs at most 16 lines: a step of all of them, one after the other, to `places`.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_lines<'p, T: Lanes>(
    lines: Matrix<'_, T>,
    mut places: impl Iterator<Item = &'p mut Row>,
) {
    let across = lines.transposed();
    if lines.has_dense_rows() {
        for start in (0..lines.columns).step_by(LANES) {
            let mask = mask(lines.columns - start);
            let mut block = [_mm512_setzero_si512(); LANES];
            for (i, register) in block.iter_mut().enumerate().take(lines.rows) {
                let line = &lines.dense_row(i)[start..];
                // SAFETY: the mask covers elements of the line.
                *register = _mm512_castps_si512(unsafe { T::load(line.as_ptr(), mask) });
            }
            for (place, step) in places.by_ref().take(LANES).zip(transposed(block)) {
                // SAFETY: a place has 64 bytes.
                unsafe { _mm512_storeu_si512(place.0.as_mut_ptr().cast(), step) };
            }
        }
    } else if across.has_dense_rows() {
        let mask = mask(lines.rows);
        for (step, place) in places.enumerate() {
            // SAFETY: the mask covers elements of the step; a place has 64 bytes.
            unsafe {
                let step = T::load(across.dense_row(step).as_ptr(), mask);
                _mm512_storeu_ps(place.0.as_mut_ptr(), step);
            }
        }
    } else {
        for (step, place) in places.enumerate() {
            for (i, place) in place.0.iter_mut().enumerate().take(lines.rows) {
                T::widen(&[lines.get(i, step)], std::slice::from_mut(place));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn numbers<T: Lanes>(seed: usize, count: usize) -> Vec<T> {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
        (0..count).map(|i| T::round(number(i))).collect()
    }

    /// The number in `f64`.
    fn wide<T: Lanes>(x: T) -> f64 {
        let mut wide = 0.0_f32;
        T::widen(&[x], std::slice::from_mut(&mut wide));
        f64::from(wide)
    }

    /// Compares with sums of `f64`; `unit` is the relative error of rounding to `T`.
    fn check<T: Lanes>(unit: f64) {
        if !Isa::Avx512.is_supported() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        for (m, k, n) in [(1, 1, 1), (14, 32, 32), (15, 33, 31), (130, 257, 100), (40, 2101, 70)] {
            let (a, b) = (numbers::<T>(1, m * k), numbers::<T>(2, k * n));
            let (rows, columns) = (Matrix::from_rows(&a, m, k), Matrix::from_rows(&b, n, k));
            let pairs = [
                (rows, columns.transposed()),
                (rows, Matrix::from_rows(&b, k, n)),
                (Matrix::from_rows(&a, k, m).transposed(), Matrix::from_rows(&b, k, n)),
            ];
            for (a, b) in pairs {
                for parallel in [false, true] {
                    let mut found = vec![MaybeUninit::new(T::round(f32::NAN)); m * n];
                    multiply(a, b, &mut found, parallel);
                    for (at, found) in found.iter().enumerate() {
                        let (i, j) = (at / n, at % n);
                        let terms = (0..k).map(|t| wide(a.get(i, t)) * wide(b.get(t, j)));
                        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| {
                            (sum + term, size + f64::abs(term))
                        });
                        // SAFETY: all elements were initialised when the vector was made.
                        let found = wide(unsafe { found.assume_init() });
                        let bound = unit * f64::abs(sum) + k as f64 * 6e-8 * size;
                        assert!((found - sum).abs() <= bound, "{m} {k} {n}: {found} for {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn products_are_within_the_rounding_of_float32() {
        check::<f32>(0.0);
    }

    #[test]
    fn products_of_16_bits_are_rounded_once() {
        check::<bf16>(1.0 / 256.0);
        check::<f16>(1.0 / 2048.0);
    }

    #[test]
    fn numbers_are_rounded_as_the_portable_kernels_do() {
        if !Isa::Avx512.is_supported() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, 1e-40];
        let samples = (0..1_u32 << 16).map(|i| f32::from_bits(i.wrapping_mul(65_521)));
        let samples: Vec<f32> = special.into_iter().chain(samples).collect();
        for part in samples.chunks(LANES) {
            let mask = mask(part.len());
            let (mut bf, mut half) = ([bf16::ZERO; LANES], [f16::ZERO; LANES]);
            // SAFETY: the instructions were found above; the mask covers the elements.
            unsafe {
                let x = <f32 as Lanes>::load(part.as_ptr(), mask);
                <bf16 as Lanes>::store(bf.as_mut_ptr(), mask, x);
                <f16 as Lanes>::store(half.as_mut_ptr(), mask, x);
            }
            for (i, &x) in part.iter().enumerate() {
                let (wanted_bf, wanted_half) = (bf16::from_f32(x), f16::from_f32(x));
                assert!(bf[i] == wanted_bf || x.is_nan() && bf[i].is_nan(), "{x}: {}", bf[i]);
                assert!(half[i] == wanted_half || x.is_nan() && half[i].is_nan(), "{x}");
            }
        }
    }
}
