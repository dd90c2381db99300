//! A matrix in memory.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // see `lanes`

use std::marker::PhantomData;
use std::slice;

use mlx_graft::Element;
use mlx_graft::primitive::Strided;

use crate::floats::Float;

/// A matrix inside of an operand: every index below `rows` and `columns` is an element that lives
/// and stays unwritten during `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: *const T,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
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
    pub(crate) unsafe fn new(
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
    pub(crate) fn from_rows(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert!(data.len() >= rows * columns);
        // SAFETY: checked above.
        unsafe { Self::new(data.as_ptr(), (rows, columns), (columns as isize, 1)) }
    }

    /// The last two dimensions of `array` at `index` of the others.
    ///
    /// # Panics
    /// If there is no such matrix.
    pub(crate) fn of(array: &Strided<'a, T>, index: &[usize]) -> Self {
        Self::along(array, array.shape().len().saturating_sub(2), index)
    }

    /// Dimension `axis`, which becomes the rows, and the last one of `array` at `index` of the others.
    ///
    /// # Panics
    /// If there is no such matrix.
    pub(crate) fn along(array: &Strided<'a, T>, axis: usize, index: &[usize]) -> Self {
        let (shape, strides) = (array.shape(), array.strides());
        assert!(axis + 1 < shape.len() && index.len() + 2 == shape.len());
        let mut offset = 0;
        for (i, &at) in index.iter().enumerate() {
            let dimension = if i < axis { i } else { i + 1 };
            assert!(at < shape[dimension] as usize);
            offset += at as isize * strides[dimension] as isize;
        }
        // SAFETY: the index is inside of the shape.
        unsafe { Self::from_offset(array, axis, offset) }
    }

    /// Matrix number `index` of those that the last two dimensions of `array` are.
    ///
    /// # Panics
    /// If there is no such matrix.
    pub(crate) fn at(array: &Strided<'a, T>, index: usize) -> Self {
        let [batch @ .., _, _] = array.shape() else { panic!("the array is a matrix") };
        let (mut rest, mut offset) = (index, 0);
        for (&length, &stride) in batch.iter().zip(array.strides()).rev() {
            offset += (rest % length as usize) as isize * stride as isize;
            rest /= length as usize;
        }
        assert_eq!(rest, 0, "the stack has a matrix number {index}");
        // SAFETY: the index is inside of the shape.
        unsafe { Self::from_offset(array, batch.len(), offset) }
    }

    /// Dimension `axis`, which becomes the rows, and the last one of `array`, from the element on that
    /// lies `offset` elements behind its first.
    ///
    /// # Safety
    /// The offset is that of an index of the other dimensions, inside of their shape.
    unsafe fn from_offset(array: &Strided<'a, T>, axis: usize, offset: isize) -> Self {
        let (shape, strides) = (array.shape(), array.strides());
        let last = shape.len() - 1;
        let data = array.as_ptr().wrapping_offset(offset);
        let size = (shape[axis] as usize, shape[last] as usize);
        // SAFETY: every index below the shape is an element of the array, which lives and stays
        // unwritten during `'a`. A matrix without elements is not read.
        unsafe { Self::new(data, size, (strides[axis] as isize, strides[last] as isize)) }
    }

    /// Rows `start..start + rows`.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn rows(self, start: usize, rows: usize) -> Self {
        assert!(start + rows <= self.rows);
        // Without rows there may be no element to point to.
        Self { data: self.data.wrapping_offset(start as isize * self.row), rows, ..self }
    }

    /// Columns `start..start + columns`.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn columns(self, start: usize, columns: usize) -> Self {
        self.transposed().rows(start, columns).transposed()
    }

    /// Appends the elements, row by row.
    pub(crate) fn append_to(&self, elements: &mut Vec<T>) {
        for i in 0..self.rows {
            if self.has_dense_rows() {
                elements.extend_from_slice(self.dense_row(i));
            } else {
                elements.extend(self.row_to_vec(i));
            }
        }
    }

    /// The address of element (0, 0) and the distances of rows and columns.
    pub(crate) fn as_parts(&self) -> (*const T, isize, isize) {
        (self.data, self.row, self.column)
    }

    /// Element (i, j).
    ///
    /// # Panics
    /// If there is no such element.
    pub(crate) fn get(&self, i: usize, j: usize) -> T {
        assert!(i < self.rows && j < self.columns);
        // SAFETY: the element exists.
        unsafe { *self.data.offset(i as isize * self.row + j as isize * self.column) }
    }

    /// The matrix with rows and columns exchanged; nothing moves in memory.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// Whether the elements of a row are neighbours in memory.
    pub(crate) fn has_dense_rows(&self) -> bool {
        self.column == 1 || self.columns == 1
    }

    /// Row `i`, if its elements are neighbours.
    ///
    /// # Panics
    /// If there is no such row, or the rows are not dense.
    pub(crate) fn dense_row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows && self.has_dense_rows());
        // SAFETY: element (i, 0) exists, and the `columns` elements of its row follow each other.
        unsafe { slice::from_raw_parts(self.data.offset(i as isize * self.row), self.columns) }
    }

    /// A copy of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row_to_vec(&self, i: usize) -> Vec<T> {
        assert!(i < self.rows);
        (0..self.columns as isize)
            // SAFETY: the row and the column exist.
            .map(|j| unsafe { *self.data.offset(i as isize * self.row + j * self.column) })
            .collect()
    }
}

impl<'a> Matrix<'a, bool> {
    /// The bytes: those of a view of other numbers may not be 0 or 1, and so no `bool` of Rust.
    pub(crate) fn bytes(self) -> Matrix<'a, u8> {
        let Self { data, rows, columns, row, column, .. } = self;
        Matrix { data: data.cast(), rows, columns, row, column, _life: PhantomData }
    }
}

impl<'a, T: Float> Matrix<'a, T> {
    /// Row `i` in `float32`: itself if its elements are neighbours, or in `scratch`, which is as long.
    ///
    /// # Panics
    /// If there is no such row, or `scratch` has another length.
    #[inline(always)]
    pub(crate) fn wide_row<'s>(&self, i: usize, scratch: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        if self.has_dense_rows() {
            T::wide_row(self.dense_row(i), scratch)
        } else {
            T::widen(&self.row_to_vec(i), scratch);
            scratch
        }
    }

    /// Converts row `i`.
    ///
    /// # Panics
    /// If there is no such row, or `to` has another length.
    #[inline(always)]
    pub(crate) fn widen_row(&self, i: usize, to: &mut [f32]) {
        if self.has_dense_rows() {
            T::widen(self.dense_row(i), to);
        } else {
            T::widen(&self.row_to_vec(i), to);
        }
    }
}
