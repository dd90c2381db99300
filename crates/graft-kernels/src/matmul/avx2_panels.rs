//! Products with a matrix that is packed once, by AVX2's multiply-adds. The other one is read where it
//! lies: a number of each of six rows at a time.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // see `lanes`

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_set1_ps, _mm256_setzero_ps,
};
use std::array;
use std::ops::Range;

use super::avx2::{A_LINES, Avx2, B, B_LINES};
use super::avx2_lanes::{load, store};
use super::blocked::{FEW_STEPS, Kernel, padded};
use super::matrix::Matrix;
use crate::avx2::LANES;
use crate::isa::Isa;

/// The columns of a matrix in panels, each of which holds, row by row, as many as fill two registers.
pub(super) struct Panels {
    data: Vec<B>,
    /// Rows of a panel, the last of which may be zeros.
    steps: usize,
    rows: usize,
    columns: usize,
}

impl Panels {
    /// Numbers of a page, which is also what a way of the first-level cache holds.
    const FAR: usize = 1024;

    /// Whether this is the fastest kernel for this processor.
    pub(super) fn are_usable() -> bool {
        Isa::Avx2.is_usable() && <Avx2 as Kernel<f32>>::is_supported() && !Isa::Avx512.is_usable()
    }

    /// Packs a matrix.
    ///
    /// # Panics
    /// If the processor lacks the instructions.
    pub(super) fn new(matrix: Matrix<'_, f32>) -> Self {
        assert!(<Avx2 as Kernel<f32>>::is_supported());
        let (steps, columns) = (padded(matrix.rows), matrix.transposed());
        let mut data = vec![<Avx2 as Kernel<f32>>::ZEROS.1; columns.rows.div_ceil(B_LINES) * steps];
        for (i, panel) in data.chunks_exact_mut(steps).enumerate() {
            let first = i * B_LINES;
            let count = B_LINES.min(columns.rows - first);
            <Avx2 as Kernel<f32>>::pack_b(columns.rows(first, count), panel);
        }
        Self { data, steps, rows: matrix.rows, columns: matrix.columns }
    }

    /// The distance of rows of so many numbers: not a multiple of [`Self::FAR`], where the numbers of
    /// a column would take each other's place in the first-level cache.
    pub(super) fn stride(columns: usize) -> usize {
        if columns.is_multiple_of(Self::FAR) { columns + B_LINES } else { columns }
    }

    /// Puts `a` times some rows and columns into `out`, in rows of `stride` numbers, of which those
    /// after the columns may be any. The first column begins a panel.
    ///
    /// # Panics
    /// If there are no such rows and columns, or `a` has not as many columns as there are rows.
    pub(super) fn product_into(
        &self,
        out: &mut Vec<f32>,
        a: Matrix<'_, f32>,
        part: (Range<usize>, Range<usize>),
        stride: usize,
    ) {
        assert!(part.1.len() <= stride);
        out.resize(a.rows * stride, 0.0);
        // SAFETY: there is room for so many rows.
        unsafe { self.multiply(a, part, (out.as_mut_ptr(), stride), false) };
    }

    /// Adds `a` times all rows and columns to `out`, row by row.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub(super) fn add_product(&self, out: &mut [f32], a: Matrix<'_, f32>) {
        assert!(out.len() == a.rows * self.columns);
        let (part, out) = ((0..self.rows, 0..self.columns), (out.as_mut_ptr(), self.columns));
        // SAFETY: just checked.
        unsafe { self.multiply(a, part, out, true) };
    }

    /// Writes `a` times some rows and columns, or adds it.
    ///
    /// # Panics
    /// If there are no such rows and columns, or `a` has not as many columns as there are rows.
    ///
    /// # Safety
    /// `out` has as many rows as `a`, so many elements apart, which nobody else uses. If it is added,
    /// they are initialised.
    unsafe fn multiply(
        &self,
        a: Matrix<'_, f32>,
        (rows, columns): (Range<usize>, Range<usize>),
        (out, stride): (*mut f32, usize),
        add: bool,
    ) {
        assert!(a.columns == rows.len() && rows.end <= self.rows);
        assert!(columns.start % B_LINES == 0 && columns.end <= self.columns);
        let mut copy = Vec::new();
        let is_across = !a.has_dense_rows() && a.transposed().has_dense_rows();
        let a = if is_across || a.has_dense_rows() {
            a
        } else {
            a.append_to(&mut copy);
            Matrix::from_rows(&copy, a.rows, a.columns)
        };
        let last = if is_across { Across::filled_up(a) } else { Vec::new() };
        let (data, row, step) = a.as_parts();
        for first in (0..columns.len()).step_by(B_LINES) {
            let panel = (columns.start + first) / B_LINES * self.steps;
            let panel = &self.data[panel..][rows.clone()];
            for i in (0..a.rows).step_by(A_LINES) {
                let tile = Tile {
                    out: out.wrapping_add(i * stride + first),
                    stride,
                    rows: A_LINES.min(a.rows - i),
                    columns: B_LINES.min(columns.len() - first),
                    add,
                };
                let from = data.wrapping_offset(i as isize * row);
                // SAFETY: `new` has found the instructions, and the tile is a part of the output. The
                // numbers are those of the rows of a tile, filled up if they are too few.
                unsafe {
                    if !is_across {
                        tile.multiply(Along::new(from, row, tile.rows), panel);
                    } else if tile.rows == A_LINES {
                        tile.multiply(Across { from, step }, panel);
                    } else {
                        let (from, step) = (last.as_ptr(), A_LINES as isize);
                        tile.multiply(Across { from, step }, panel);
                    }
                }
            }
        }
    }
}

/// The numbers of six rows.
trait Numbers: Copy {
    /// Number `t` of row `i`.
    ///
    /// # Safety
    /// The row has so many.
    unsafe fn get(self, i: usize, t: usize) -> f32;
}

/// Rows whose numbers are neighbours.
#[derive(Clone, Copy)]
struct Along([*const f32; A_LINES]);

impl Along {
    /// `count` rows, `row` numbers apart. Those that are not there are the last one once more.
    fn new(first: *const f32, row: isize, count: usize) -> Self {
        Self(array::from_fn(|i| first.wrapping_offset(i.min(count - 1) as isize * row)))
    }
}

impl Numbers for Along {
    #[inline(always)]
    unsafe fn get(self, i: usize, t: usize) -> f32 {
        // SAFETY: the caller says so.
        unsafe { *self.0[i].add(t) }
    }
}

/// Rows that are neighbours.
#[derive(Clone, Copy)]
struct Across {
    from: *const f32,
    step: isize,
}

impl Across {
    /// The last rows of a matrix, those that fill no tile: number by number of six rows.
    fn filled_up(matrix: Matrix<'_, f32>) -> Vec<f32> {
        let count = matrix.rows % A_LINES;
        let last = matrix.rows(matrix.rows - count, count).transposed();
        let mut filled = vec![0.0; if count > 0 { last.rows * A_LINES } else { 0 }];
        for (t, numbers) in filled.chunks_exact_mut(A_LINES).enumerate() {
            last.widen_row(t, &mut numbers[..count]);
        }
        filled
    }
}

impl Numbers for Across {
    #[inline(always)]
    unsafe fn get(self, i: usize, t: usize) -> f32 {
        // SAFETY: the caller says so.
        unsafe { *self.from.offset(t as isize * self.step + i as isize) }
    }
}

/// A part of an output, of six rows and sixteen columns at most.
struct Tile {
    out: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    add: bool,
}

impl Tile {
    /// Writes or adds the product of six rows and a panel.
    ///
    /// # Safety
    /// The processor has the instructions, the rows have as many numbers as the panel has steps, and
    /// nobody else uses the tile. If it is added to, it is initialised.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn multiply<A: Numbers>(&self, a: A, b: &[B]) {
        // SAFETY: the caller says so.
        let sums = unsafe { product(a, b) };
        let write = |i: usize, part: usize, sum: __m256| {
            let count = self.columns.saturating_sub(part * LANES);
            let out = self.out.wrapping_add(i * self.stride + part * LANES);
            // SAFETY: the caller has so many rows and columns.
            unsafe {
                let sum = if self.add { _mm256_add_ps(sum, load(out, count)) } else { sum };
                store(out, count, sum);
            }
        };
        if self.rows == A_LINES {
            // A loop of known length, so that the sums stay in registers.
            for (i, sums) in sums.iter().enumerate() {
                write(i, 0, sums[0]);
                write(i, 1, sums[1]);
            }
        } else {
            for (i, sums) in sums.iter().enumerate().take(self.rows) {
                write(i, 0, sums[0]);
                write(i, 1, sums[1]);
            }
        }
    }
}

/// The sums of the products of six rows and a panel.
///
/// # Safety
/// The rows have a number for each step.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn product<A: Numbers>(a: A, b: &[B]) -> [[__m256; 2]; A_LINES] {
    let mut sums = [[_mm256_setzero_ps(); 2]; A_LINES];
    let (many, rest) = b.as_chunks::<FEW_STEPS>();
    // Few steps at a time, so that they are written out one behind the other.
    for (block, few) in many.iter().enumerate() {
        for (t, b) in few.iter().enumerate() {
            // SAFETY: the caller says so.
            unsafe { multiply(a, block * FEW_STEPS + t, b, &mut sums) };
        }
    }
    for (t, b) in rest.iter().enumerate() {
        // SAFETY: as above.
        unsafe { multiply(a, many.len() * FEW_STEPS + t, b, &mut sums) };
    }
    sums
}

/// Adds the products of number `t` of each row and a step of a panel.
///
/// # Safety
/// The rows have so many numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<A: Numbers>(a: A, t: usize, b: &B, sums: &mut [[__m256; 2]; A_LINES]) {
    let from = b.as_ptr();
    // SAFETY: a step is two registers, and aligned as they are.
    let b = unsafe { [_mm256_load_ps(from), _mm256_load_ps(from.add(LANES))] };
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller says so.
        let a = _mm256_set1_ps(unsafe { a.get(i, t) });
        for (sum, &b) in sums.iter_mut().zip(&b) {
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
}
