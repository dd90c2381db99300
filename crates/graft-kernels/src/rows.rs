//! Kernels that compute their outputs row by row, on all threads.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // what is not inlined is not compiled for the wide registers

use std::mem::{self, MaybeUninit};

use mlx_graft::primitive::{KernelError, OutputBuffer};
use mlx_graft::{Array, Error, Result, ops};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

/// Elements below which a second thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 15;

/// Tasks for each thread, so that one that is held up does not hold up the others.
const TASKS_PER_THREAD: usize = 4;

/// The computation of one row of each of `N` outputs.
pub(crate) trait RowKernel<const N: usize>: Sync {
    /// Computes row `index`. The rows of the outputs come as zeros.
    ///
    /// It runs inside of a dispatched closure, so it has to be `#[inline(always)]`.
    fn row(&self, index: usize, outputs: [&mut [f32]; N]);
}

/// Consecutive rows of an output that nobody has written yet; the last may be shorter.
#[derive(Default)]
struct Rows<'a> {
    data: &'a mut [MaybeUninit<f32>],
    width: usize,
}

impl<'a> Rows<'a> {
    /// Takes the first `count` rows, or as many as there are.
    fn take(&mut self, count: usize) -> Self {
        let data = mem::take(&mut self.data);
        let (taken, rest) = data.split_at_mut(data.len().min(count * self.width));
        self.data = rest;
        Self { data: taken, width: self.width }
    }

    /// All elements, set to zero.
    fn zeroed(self) -> &'a mut [f32] {
        for element in &mut *self.data {
            element.write(0.0);
        }
        // SAFETY: each element was written above.
        unsafe { self.data.assume_init_mut() }
    }
}

/// Computes rows `0..count` of the outputs, whose rows have the lengths `widths`.
///
/// `cost` is the number of elements that a row reads or writes.
pub(crate) fn compute<const N: usize>(
    kernel: &impl RowKernel<N>,
    outputs: &mut [OutputBuffer<'_>],
    widths: [usize; N],
    count: usize,
    cost: usize,
) -> Result<(), KernelError> {
    let mut rows = [const { None }; N];
    assert_eq!(outputs.len(), N);
    for ((rows, output), width) in rows.iter_mut().zip(outputs).zip(widths) {
        // SAFETY: `zeroed` writes every element of the `count` rows, which are all that the
        // buffer has by the assertion.
        let data = unsafe { output.as_uninit_slice::<f32>()? };
        assert!(data.len() <= count * width, "the rows cover the output");
        *rows = Some(Rows { data, width });
    }
    let mut rows = rows.map(Option::unwrap_or_default);

    let arch = Arch::new();
    let run = |(first, count, rows)| arch.dispatch(Task { kernel, first, count, rows });
    let threads = rayon::current_num_threads();
    if threads == 1 || count < 2 || count * cost < PARALLEL_FROM {
        run((0, count, rows));
        return Ok(());
    }
    let per_task = count.div_ceil(threads * TASKS_PER_THREAD).max(PARALLEL_FROM / 4 / cost);
    let tasks: Vec<_> = (0..count)
        .step_by(per_task)
        .map(|first| {
            let taken = rows.each_mut().map(|rows| rows.take(per_task));
            (first, per_task.min(count - first), taken)
        })
        .collect();
    tasks.into_par_iter().for_each(run);
    Ok(())
}

/// Consecutive rows that one thread computes.
struct Task<'k, 'r, K, const N: usize> {
    kernel: &'k K,
    first: usize,
    count: usize,
    rows: [Rows<'r>; N],
}

impl<K: RowKernel<N>, const N: usize> NullaryFnOnce for Task<'_, '_, K, N> {
    type Output = ();

    // A closure would be inlined, and so compiled for the wide registers, only if it is short.
    #[inline(always)]
    fn call(mut self) {
        for index in self.first..self.first + self.count {
            self.kernel.row(index, self.rows.each_mut().map(|rows| rows.take(1).zeroed()));
        }
    }
}

/// Vectorizes an operation on rows, to which one more leading dimension means more rows.
pub(crate) fn vmap(
    inputs: &[Array],
    axes: &[Option<i32>],
    op: impl Fn(&[&Array]) -> Result<Vec<Array>>,
) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
    let mapped = inputs.iter().zip(axes).find_map(|(x, axis)| axis.map(|axis| x.dim(axis)));
    let length = mapped.transpose()?;
    let to_front = |(x, axis): (&Array, &Option<i32>)| match (axis, length) {
        (Some(axis), _) => ops::moveaxis(x, *axis, 0),
        (None, Some(length)) => {
            let shape: Vec<i32> = [length].iter().chain(x.shape()).copied().collect();
            ops::broadcast_to(x, &shape)
        }
        (None, None) => Ok(x.clone()),
    };
    let inputs = inputs.iter().zip(axes).map(to_front).collect::<Result<Vec<_>>>()?;
    let outputs = op(&inputs.iter().collect::<Vec<_>>())?;
    let axes = vec![length.map(|_| 0); outputs.len()];
    Ok((outputs, axes))
}

/// The derivative of the derivative `name`, which there is not.
pub(crate) fn no_derivative<T>(name: &'static str, transform: &str) -> Result<T> {
    Err(Error::unsupported_transform(name, transform))
}
