//! Products with a matrix that is packed once. The other one is read where it lies: a number of each
//! row of a tile at a time.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // see `lanes`

use std::array;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::blocked::{Kernel, padded};
use super::matrix::Matrix;

/// Rows of a tile at most.
const MOST_ROWS: usize = 14;

/// A kernel that multiplies rows where they lie.
pub(super) trait RowKernel: Kernel<f32> {
    /// Rows of `a` that a tile with so many rows of the output reads.
    fn rows_read(rows: usize) -> usize;

    /// Writes or adds the product of some rows and a panel.
    ///
    /// # Safety
    /// The processor has the instructions, `a` has as many rows as [`Self::rows_read`] says and in
    /// each as many numbers as the panel has steps, and nobody else uses the tile. If it is added to,
    /// it is initialised.
    unsafe fn multiply<A: Numbers>(tile: &Tile, a: A, b: &[Self::B]);
}

/// The columns of a matrix in panels, each of which holds, row by row, as many as a tile has.
pub(super) struct Panels<'a, K: RowKernel> {
    data: &'a [K::B],
    /// Rows of a panel, the last of which may be zeros.
    steps: usize,
    rows: usize,
    columns: usize,
}

/// The distance of rows of so many numbers: whole lines of the cache, and not a multiple of a page,
/// which is also what a way of the first-level cache holds, as the numbers of a column would take each
/// other's place there.
pub(super) fn stride(columns: usize) -> usize {
    /// Numbers of a page.
    const FAR: usize = 1024;
    /// Numbers of a line of the cache.
    const LINE: usize = 16;
    let columns = columns.next_multiple_of(LINE);
    if columns.is_multiple_of(FAR) { columns + LINE } else { columns }
}

impl<'a, K: RowKernel> Panels<'a, K> {
    /// Rows and columns of a tile.
    const LINES: [usize; 2] = <K as Kernel<f32>>::LINES;

    /// Packs a matrix into `data`, in the place of what that held.
    ///
    /// # Panics
    /// If the processor lacks the instructions.
    pub(super) fn new(matrix: Matrix<'_, f32>, data: &'a mut Vec<K::B>) -> Self {
        assert!(K::is_supported());
        let [_, lines] = Self::LINES;
        let (steps, columns) = (padded(matrix.rows), matrix.transposed());
        data.resize(columns.rows.div_ceil(lines) * steps, K::ZEROS.1);
        for (i, panel) in data.chunks_exact_mut(steps).enumerate() {
            let first = i * lines;
            K::pack_b(columns.rows(first, lines.min(columns.rows - first)), panel);
        }
        Self { data, steps, rows: matrix.rows, columns: matrix.columns }
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

    /// Writes `a` times all rows and columns to `out`, row by row, all of it.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub(super) fn write_product(&self, out: &mut [MaybeUninit<f32>], a: Matrix<'_, f32>) {
        assert_eq!(out.len(), a.rows * self.columns);
        let part = (0..self.rows, 0..self.columns);
        // SAFETY: just checked.
        unsafe { self.multiply(a, part, (out.as_mut_ptr().cast(), self.columns), false) };
    }

    /// Adds `a` times all rows and columns to `out`, row by row.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub(super) fn add_product(&self, out: &mut [f32], a: Matrix<'_, f32>) {
        assert_eq!(out.len(), a.rows * self.columns);
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
        let [a_lines, b_lines] = Self::LINES;
        assert!(a.columns == rows.len() && rows.end <= self.rows);
        assert!(columns.start % b_lines == 0 && columns.end <= self.columns);
        let mut copy = Vec::new();
        let is_across = !a.has_dense_rows() && a.transposed().has_dense_rows();
        let a = if is_across || a.has_dense_rows() {
            a
        } else {
            a.append_to(&mut copy);
            Matrix::from_rows(&copy, a.rows, a.columns)
        };
        let last = if is_across { Across::filled_up::<K>(a) } else { Vec::new() };
        let (data, row, step) = a.as_parts();
        for first in (0..columns.len()).step_by(b_lines) {
            let panel = (columns.start + first) / b_lines * self.steps;
            let panel = &self.data[panel..][rows.clone()];
            for i in (0..a.rows).step_by(a_lines) {
                let tile = Tile {
                    out: out.wrapping_add(i * stride + first),
                    stride,
                    rows: a_lines.min(a.rows - i),
                    columns: b_lines.min(columns.len() - first),
                    add,
                };
                let from = data.wrapping_offset(i as isize * row);
                let rows_read = K::rows_read(tile.rows);
                // SAFETY: `new` has found the instructions, and the tile is a part of the output. The
                // numbers are those of the rows of a tile, filled up if they are too few.
                unsafe {
                    if !is_across {
                        K::multiply(&tile, Along::new(from, row, tile.rows), panel);
                    } else if tile.rows == rows_read {
                        K::multiply(&tile, Across { from, step }, panel);
                    } else {
                        let (from, step) = (last.as_ptr(), rows_read as isize);
                        K::multiply(&tile, Across { from, step }, panel);
                    }
                }
            }
        }
    }
}

/// The numbers of the rows of a tile.
pub(super) trait Numbers: Copy {
    /// Number `t` of row `i`.
    ///
    /// # Safety
    /// The row has so many.
    unsafe fn get(self, i: usize, t: usize) -> f32;
}

/// Rows whose numbers are neighbours.
#[derive(Clone, Copy)]
struct Along([*const f32; MOST_ROWS]);

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
    /// The last rows of a matrix, if they fill no tile: number by number of as many as one reads.
    fn filled_up<K: RowKernel>(matrix: Matrix<'_, f32>) -> Vec<f32> {
        let count = matrix.rows % <K as Kernel<f32>>::LINES[0];
        let filled_rows = K::rows_read(count);
        if count == 0 || count == filled_rows {
            return Vec::new();
        }
        let last = matrix.rows(matrix.rows - count, count).transposed();
        let mut filled = vec![0.0; last.rows * filled_rows];
        for (t, numbers) in filled.chunks_exact_mut(filled_rows).enumerate() {
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

/// A part of an output, of as many rows and columns at most as a tile has.
pub(super) struct Tile {
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) add: bool,
}

impl Tile {
    /// The address of an element.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, column: usize) -> *mut f32 {
        self.out.wrapping_add(row * self.stride + column)
    }
}
