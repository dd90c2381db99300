//! One product of two strided stacks of matrices: how it is cut into calls of `gemm`.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::slice;

use gemm::Parallelism;
use mlx_graft::primitive::{KernelError, OutputBuffer, Strided};
use rayon::prelude::*;

use super::gemv;

/// Multiplications below which a second thread costs more than it saves: some 15 µs of one core.
const PARALLEL_FROM: usize = 1 << 20;

/// The same for the product with a single row or column, where the memory sets the pace.
const PARALLEL_FROM_VECTOR: usize = 1 << 17;

/// Distances in elements between neighbours of one operand.
#[derive(Debug, Clone, PartialEq)]
struct Distances {
    batch: Vec<isize>,
    row: isize,
    column: isize,
}

/// The product `(batch, m, k) × (batch, k, n)`, where `batch` is the broadcast shape.
pub(super) struct Problem<'a> {
    batch: Vec<usize>,
    m: usize,
    k: usize,
    n: usize,
    a: Distances,
    b: Distances,
    a_data: Strided<'a, f32>,
    b_data: Strided<'a, f32>,
}

/// A matrix inside of an operand.
///
/// Only [`Problem`] makes it, from the shape and strides of the operand, so that every index below
/// `rows` and `columns` is an element that lives and stays unwritten during `'a`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: *const f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    row: isize,
    column: isize,
    _life: std::marker::PhantomData<&'a [f32]>,
}

// SAFETY: it is a shared reference to plain numbers.
unsafe impl Send for Matrix<'_> {}
// SAFETY: as above.
unsafe impl Sync for Matrix<'_> {}

impl<'a> Matrix<'a> {
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
    pub(super) fn dense_row(&self, i: usize) -> &'a [f32] {
        assert!(i < self.rows && self.has_dense_rows());
        // SAFETY: element (i, 0) exists, and the `columns` elements of its row follow each other.
        unsafe { slice::from_raw_parts(self.data.offset(i as isize * self.row), self.columns) }
    }

    /// A copy of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub(super) fn row_to_vec(&self, i: usize) -> Vec<f32> {
        assert!(i < self.rows);
        (0..self.columns as isize)
            // SAFETY: the row and the column exist.
            .map(|j| unsafe { *self.data.offset(i as isize * self.row + j * self.column) })
            .collect()
    }
}

impl<'a> Problem<'a> {
    /// Reads shapes and strides; the shapes fit, as the primitive's output shape was made of them.
    pub(super) fn new(a: Strided<'a, f32>, b: Strided<'a, f32>) -> Self {
        let ndim = a.shape().len().max(b.shape().len());
        // Dimension `i` of the broadcast shape; an operand that lacks it, or has 1 there, stays.
        let dim = |x: &Strided<'_, f32>, i: usize| match (i + x.shape().len()).checked_sub(ndim) {
            Some(i) if x.shape()[i] != 1 => (x.shape()[i] as usize, x.strides()[i] as isize),
            _ => (1, 0),
        };
        let (m, a_row) = dim(&a, ndim - 2);
        let (k, a_column) = dim(&a, ndim - 1);
        let (_, b_row) = dim(&b, ndim - 2);
        let (n, b_column) = dim(&b, ndim - 1);
        let mut problem = Self {
            batch: Vec::new(),
            m,
            k,
            n,
            a: Distances { batch: Vec::new(), row: a_row, column: a_column },
            b: Distances { batch: Vec::new(), row: b_row, column: b_column },
            a_data: a,
            b_data: b,
        };
        for i in 0..ndim - 2 {
            let ((a_length, a_stride), (b_length, b_stride)) = (dim(&a, i), dim(&b, i));
            // One of the two is 1 where they differ, and the other may be 0.
            let length = if a_length == 1 { b_length } else { a_length };
            if length != 1 {
                problem.batch.push(length);
                problem.a.batch.push(a_stride);
                problem.b.batch.push(b_stride);
            }
        }
        problem.merge_batch_into_rows();
        problem
    }

    /// Turns leading dimensions over which `b` does not change into more rows of `a`, as long as
    /// the rows of `a` keep one distance. A linear layer becomes one product that way.
    fn merge_batch_into_rows(&mut self) {
        while let (Some(&length), Some(&a), Some(&b)) =
            (self.batch.last(), self.a.batch.last(), self.b.batch.last())
        {
            let evenly_spaced = self.m == 1 || a == self.m as isize * self.a.row;
            if b != 0 || !evenly_spaced {
                break;
            }
            if self.m == 1 {
                self.a.row = a;
            }
            self.m *= length;
            self.batch.pop();
            self.a.batch.pop();
            self.b.batch.pop();
        }
    }

    /// Computes the product.
    pub(super) fn solve(&self, output: &mut OutputBuffer<'_>) -> Result<(), KernelError> {
        if self.k == 0 {
            output.as_mut_slice::<f32>()?;
            return Ok(());
        }
        // SAFETY: `multiply` writes all `m * n` elements of each of the matrices below, which are
        // all of the output; without any, there is nothing to write.
        let output = unsafe { output.as_uninit_slice::<f32>()? };
        if output.is_empty() {
            return Ok(());
        }
        let count: usize = self.batch.iter().product();
        let size = self.m * self.n;
        assert_eq!(output.len(), count * size, "the output has the broadcast shape");
        let work = size * self.k;
        let parallel_from =
            if self.m == 1 || self.n == 1 { PARALLEL_FROM_VECTOR } else { PARALLEL_FROM };
        let threads = rayon::current_num_threads();
        let one = |(i, out): (usize, &mut [MaybeUninit<f32>]), parallel: bool| {
            let (a, b) = self.matrices(i);
            multiply(a, b, out, parallel);
        };
        if threads == 1 || count * work < parallel_from {
            output.chunks_mut(size).enumerate().for_each(|item| one(item, false));
        } else if count >= threads {
            // Enough matrices for all threads. A task takes several when they are tiny.
            let per_task = (parallel_from / work).clamp(1, count.div_ceil(threads));
            output
                .par_chunks_mut(size)
                .enumerate()
                .with_min_len(per_task)
                .for_each(|item| one(item, false));
        } else {
            output.chunks_mut(size).enumerate().for_each(|item| one(item, work >= parallel_from));
        }
        Ok(())
    }

    /// The two matrices of number `index` of the batch.
    fn matrices(&self, index: usize) -> (Matrix<'a>, Matrix<'a>) {
        let (mut rest, mut a_offset, mut b_offset) = (index, 0, 0);
        for (i, &length) in self.batch.iter().enumerate().rev() {
            let at = (rest % length) as isize;
            rest /= length;
            a_offset += at * self.a.batch[i];
            b_offset += at * self.b.batch[i];
        }
        assert_eq!(rest, 0, "the batch has a matrix number {index}");
        // `wrapping_offset`: an operand without elements has no address to move in, and is not
        // read.
        let a = Matrix {
            data: self.a_data.as_ptr().wrapping_offset(a_offset),
            rows: self.m,
            columns: self.k,
            row: self.a.row,
            column: self.a.column,
            _life: std::marker::PhantomData,
        };
        let b = Matrix {
            data: self.b_data.as_ptr().wrapping_offset(b_offset),
            rows: self.k,
            columns: self.n,
            row: self.b.row,
            column: self.b.column,
            _life: std::marker::PhantomData,
        };
        (a, b)
    }
}

/// Writes `a × b` to `out`, all of it.
fn multiply(a: Matrix<'_>, b: Matrix<'_>, out: &mut [MaybeUninit<f32>], parallel: bool) {
    assert!(a.columns == b.rows && out.len() == a.rows * b.columns);
    if a.rows == 1 && gemv::suits(&b) {
        return gemv::row_times_matrix(&a.row_to_vec(0), b, out, parallel);
    }
    // A product with a column is that of the transposed matrices, and so is its output.
    if b.columns == 1 && gemv::suits(&a.transposed()) {
        return gemv::row_times_matrix(
            &b.transposed().row_to_vec(0),
            a.transposed(),
            out,
            parallel,
        );
    }
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: `Matrix` promises that every index is a live element; `out` is row-major with
    // `a.rows * b.columns` elements, checked above, and overlaps neither, being a unique
    // reference. `read_dst` is false, so that `out` is written only.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr().cast::<f32>(),
            1,
            b.columns as isize,
            false,
            a.data,
            a.column,
            a.row,
            b.data,
            b.column,
            b.row,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
