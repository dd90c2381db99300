//! One product of two strided stacks of matrices: how it is cut into calls of `gemm`.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_graft::Element;
use mlx_graft::primitive::{KernelError, OutputBuffer, Strided};

use super::matrix::Matrix;
use crate::tasks;

/// Multiplications below which a second thread costs more than it saves: some 15 µs of one core.
const PARALLEL_FROM: usize = 1 << 20;

/// The same for the product with a single row or column, where the memory sets the pace.
const PARALLEL_FROM_VECTOR: usize = 1 << 17;

/// A matrix, and where the product with it is written.
pub(super) type Each<'a, 'out, T> = (Matrix<'a, T>, &'out mut [MaybeUninit<T>]);

/// A matrix that tasks write, none of them what another does.
pub(super) struct Output<T>(pub(super) *mut MaybeUninit<T>);

// SAFETY: it is an address; whoever writes there says why it may.
unsafe impl<T: Send> Send for Output<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T> Output<T> {
    /// The address of an element, which need not exist.
    pub(super) fn at(&self, offset: usize) -> *mut MaybeUninit<T> {
        self.0.wrapping_add(offset)
    }
}

/// Elements of an output that nobody has written yet.
pub(super) struct Unwritten<'a, T> {
    elements: &'a mut [MaybeUninit<T>],
    /// How many elements of the whole output are written.
    written: &'a AtomicUsize,
}

impl<T: Element> Unwritten<'_, T> {
    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    /// Takes the first `count` elements.
    ///
    /// # Panics
    /// If there are not so many.
    pub(super) fn take(&mut self, count: usize) -> Self {
        let elements = self.elements.split_off_mut(..count).expect("so many elements are left");
        Self { elements, written: self.written }
    }

    /// Writes the first elements, and leaves those behind them.
    ///
    /// # Panics
    /// If there are not so many.
    pub(super) fn write(&mut self, from: &[T]) {
        self.take(from.len()).elements.write_copy_of_slice(from);
        self.written.fetch_add(from.len(), Ordering::Relaxed);
    }

    /// Writes zeros.
    pub(super) fn write_zeros(self) {
        self.elements.fill(MaybeUninit::zeroed());
        self.written.fetch_add(self.elements.len(), Ordering::Relaxed);
    }
}

/// Gives an output to `write`, which writes all of it, in parts and on any threads.
///
/// # Panics
/// If it leaves an element.
pub(super) fn write_parts<T: Element>(
    output: &mut OutputBuffer<'_>,
    write: impl FnOnce(Unwritten<'_, T>),
) -> Result<(), KernelError> {
    let written = AtomicUsize::new(0);
    // SAFETY: all of it is written, as no element is counted twice, and as is asserted below; zero
    // bytes are a value of every element type.
    let elements = unsafe { output.as_uninit_slice::<T>()? };
    let count = elements.len();
    write(Unwritten { elements, written: &written });
    assert_eq!(written.into_inner(), count, "all of the output is written");
    Ok(())
}

/// Multiplications from which on a second thread saves time, for `m` rows and `n` columns.
fn parallel_from(m: usize, n: usize) -> usize {
    if m == 1 || n == 1 { PARALLEL_FROM_VECTOR } else { PARALLEL_FROM }
}

/// Whether several threads take less time than one for the product of `m` rows of `k` numbers and
/// `n` columns.
pub(super) fn is_parallel(m: usize, k: usize, n: usize) -> bool {
    tasks::threads() > 1 && m * k * n >= parallel_from(m, n)
}

/// An element type whose matrices this crate multiplies.
pub(super) trait Product: Element + Send + Sync {
    /// Writes `a × b` to `out`, all of it, on several threads if `parallel`.
    ///
    /// `a.columns` is `b.rows`, at least 1, and `out` has `a.rows * b.columns` elements, at least 1.
    fn multiply(
        a: Matrix<'_, Self>,
        b: Matrix<'_, Self>,
        out: &mut [MaybeUninit<Self>],
        parallel: bool,
    );

    /// Writes the product of `a` and each of several matrices, all of it, if there is a kernel whose
    /// threads share the work of all: for few rows, as the memory sets the pace.
    fn multiply_few_rows(
        _a: Matrix<'_, Self>,
        _products: &mut [Each<'_, '_, Self>],
        _parallel: bool,
    ) -> bool {
        false
    }

    /// Writes the sum of the products of pairs, and of a `short` one, all of it, rounded once, if there
    /// is a kernel for it, as [`has_sums`] says.
    ///
    /// There is a pair at least, whose sums are not empty, as the output is not.
    fn multiply_sum(
        _products: &[[Matrix<'_, Self>; 2]],
        _short: Option<[Matrix<'_, Self>; 2]>,
        _out: &mut [MaybeUninit<Self>],
        _parallel: bool,
    ) -> bool {
        false
    }
}

/// Whether this processor has [`Product::multiply_sum`].
pub(super) fn has_sums() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        super::avx2::is_usable()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// [`Product::multiply_sum`] to an output, on several threads.
pub(super) fn write_sum<T: Product>(
    products: &[[Matrix<'_, T>; 2]],
    short: Option<[Matrix<'_, T>; 2]>,
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    if products.is_empty() || output.size() == 0 {
        // Where a trace without shapes, or a vectorized call, meets nothing.
        return output.as_mut_slice::<T>().map(drop);
    }
    // SAFETY: `multiply_sum` writes all of it, or the operation fails.
    let out = unsafe { output.as_uninit_slice::<T>()? };
    if T::multiply_sum(products, short, out, true) {
        return Ok(());
    }
    Err(KernelError::new("there is no kernel for sums of products on this processor"))
}

/// Puts `a × b` into `out`, row by row, in the place of what it held, on this thread.
///
/// # Panics
/// If the sizes do not fit, or one of them is 0.
pub(super) fn multiply_into<T: Product>(out: &mut Vec<T>, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    assert!(a.columns == b.rows && a.columns > 0);
    let size = a.rows * b.columns;
    assert!(size > 0);
    out.clear();
    out.reserve(size);
    T::multiply(a, b, &mut out.spare_capacity_mut()[..size], false);
    // SAFETY: `multiply` writes all of what it gets.
    unsafe { out.set_len(size) };
}

/// Distances in elements between neighbours of one operand.
#[derive(Debug, Clone, PartialEq)]
struct Distances {
    batch: Vec<isize>,
    row: isize,
    column: isize,
}

/// The product `(batch, m, k) × (batch, k, n)`, where `batch` is the broadcast shape.
pub(super) struct Problem<'a, T> {
    batch: Vec<usize>,
    m: usize,
    k: usize,
    n: usize,
    a: Distances,
    b: Distances,
    a_data: Strided<'a, T>,
    b_data: Strided<'a, T>,
}

impl<'a, T: Product> Problem<'a, T> {
    /// Reads shapes and strides; the shapes fit, as the primitive's output shape was made of them.
    pub(super) fn new(a: Strided<'a, T>, b: Strided<'a, T>) -> Self {
        let ndim = a.shape().len().max(b.shape().len());
        // Dimension `i` of the broadcast shape; an operand that lacks it, or has 1 there, stays.
        let dim = |x: &Strided<'_, T>, i: usize| match (i + x.shape().len()).checked_sub(ndim) {
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
            output.as_mut_slice::<T>()?;
            return Ok(());
        }
        // SAFETY: `multiply` writes all `m * n` elements of each of the matrices below, which are
        // all of the output; without any, there is nothing to write.
        let output = unsafe { output.as_uninit_slice::<T>()? };
        if output.is_empty() {
            return Ok(());
        }
        let count: usize = self.batch.iter().product();
        let size = self.m * self.n;
        assert_eq!(output.len(), count * size, "the output has the broadcast shape");
        let work = size * self.k;
        let parallel_from = parallel_from(self.m, self.n);
        let threads = tasks::threads();
        let one = |i: usize, out: &mut [MaybeUninit<T>], parallel: bool| {
            let (a, b) = self.matrices(i);
            T::multiply(a, b, out, parallel);
        };
        if threads == 1 || count * work < parallel_from {
            output.chunks_mut(size).enumerate().for_each(|(i, out)| one(i, out, false));
        } else if count >= threads {
            // Enough matrices for all threads. A task takes several when they are tiny.
            let per_task = (parallel_from / work).clamp(1, count.div_ceil(threads));
            tasks::for_each_chunk(output, per_task * size, true, |task, outputs| {
                for (i, out) in outputs.chunks_mut(size).enumerate() {
                    one(task * per_task + i, out, false);
                }
            });
        } else {
            let parallel = work >= parallel_from;
            output.chunks_mut(size).enumerate().for_each(|(i, out)| one(i, out, parallel));
        }
        Ok(())
    }

    /// The two matrices of number `index` of the batch.
    fn matrices(&self, index: usize) -> (Matrix<'a, T>, Matrix<'a, T>) {
        let (mut rest, mut a_offset, mut b_offset) = (index, 0, 0);
        for (i, &length) in self.batch.iter().enumerate().rev() {
            let at = (rest % length) as isize;
            rest /= length;
            a_offset += at * self.a.batch[i];
            b_offset += at * self.b.batch[i];
        }
        assert_eq!(rest, 0, "the batch has a matrix number {index}");
        // SAFETY: the operands have these shapes and strides, and `index` is below the size of the
        // batch, so every element of both matrices lives and stays unwritten during `'a`. An
        // operand without elements has no address to move in, and is not read.
        let (a, b) = unsafe {
            (
                Matrix::new(
                    self.a_data.as_ptr().wrapping_offset(a_offset),
                    (self.m, self.k),
                    (self.a.row, self.a.column),
                ),
                Matrix::new(
                    self.b_data.as_ptr().wrapping_offset(b_offset),
                    (self.k, self.n),
                    (self.b.row, self.b.column),
                ),
            )
        };
        (a, b)
    }
}
