//! A matrix in memory.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::slice;

use mlx_graft::Element;

/// A matrix inside of an operand: every index below `rows` and `columns` is an element that lives
/// and stays unwritten during `'a`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: *const T,
    pub(super) rows: usize,
    pub(super) columns: usize,
    row: isize,
    column: isize,
    _life: PhantomData<&'a [T]>,
}

// SAFETY: it is a shared reference to plain numbers.
unsafe impl<T: Element> Send for Matrix<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for Matrix<'_, T> {}

impl<'a, T: Element> Matrix<'a, T> {
    /// A matrix of `rows` times `columns` whose neighbours lie `row` and `column` elements apart.
    ///
    /// # Safety
    /// Every index is an element that lives and stays unwritten during `'a`.
    pub(super) unsafe fn new(
        data: *const T,
        (rows, columns): (usize, usize),
        (row, column): (isize, isize),
    ) -> Self {
        Self { data, rows, columns, row, column, _life: PhantomData }
    }

    /// A matrix whose rows follow each other in `data`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub(super) fn from_rows(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert!(data.len() >= rows * columns);
        // SAFETY: checked above.
        unsafe { Self::new(data.as_ptr(), (rows, columns), (columns as isize, 1)) }
    }

    /// Rows `start..start + rows`.
    ///
    /// # Panics
    /// If there are not so many.
    pub(super) fn rows(self, start: usize, rows: usize) -> Self {
        assert!(start + rows <= self.rows);
        // Without rows there may be no element to point to.
        Self { data: self.data.wrapping_offset(start as isize * self.row), rows, ..self }
    }

    /// The address of element (0, 0) and the distances of rows and columns.
    pub(super) fn as_parts(&self) -> (*const T, isize, isize) {
        (self.data, self.row, self.column)
    }

    /// Element (i, j).
    ///
    /// # Panics
    /// If there is no such element.
    pub(super) fn get(&self, i: usize, j: usize) -> T {
        assert!(i < self.rows && j < self.columns);
        // SAFETY: the element exists.
        unsafe { *self.data.offset(i as isize * self.row + j as isize * self.column) }
    }

    /// The matrix with rows and columns exchanged; nothing moves in memory.
    pub(super) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// Whether the elements of a row are neighbours in memory.
    pub(super) fn has_dense_rows(&self) -> bool {
        self.column == 1 || self.columns == 1
    }

    /// Row `i`, if its elements are neighbours.
    ///
    /// # Panics
    /// If there is no such row, or the rows are not dense.
    pub(super) fn dense_row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows && self.has_dense_rows());
        // SAFETY: element (i, 0) exists, and the `columns` elements of its row follow each other.
        unsafe { slice::from_raw_parts(self.data.offset(i as isize * self.row), self.columns) }
    }

    /// A copy of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub(super) fn row_to_vec(&self, i: usize) -> Vec<T> {
        assert!(i < self.rows);
        (0..self.columns as isize)
            // SAFETY: the row and the column exist.
            .map(|j| unsafe { *self.data.offset(i as isize * self.row + j * self.column) })
            .collect()
    }
}
