//! Kernels that compute their outputs row by row, on all threads.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // what is not inlined is not compiled for the wide registers

use std::array::from_fn;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::{bf16, f16};
use mlx_graft::primitive::{InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Dtype, Element, Result, ops};
use pulp::{Simd, WithSimd};

use crate::floats::{Float, Floats, to_bfloat16, to_float16};
use crate::isa;
use crate::tasks;

/// Elements below which a second thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 15;

/// Buffers that a kernel converts its inputs into, kept from row to row.
pub(crate) type Scratch = [Vec<f32>; 4];

/// The computation of one row of each of `N` outputs.
pub(crate) trait RowKernel<const N: usize>: Sync {
    /// Which outputs are updates of inputs, as [`Primitive::updates`] says.
    const UPDATED: [bool; N] = [false; N];

    /// Computes row `index`, all of it. The rows of the outputs come with any numbers, those of an
    /// update with what they were.
    ///
    /// It runs inside of what is dispatched, so it has to be `#[inline(always)]`.
    fn row<S: Simd>(&self, simd: S, index: usize, scratch: &mut Scratch, outputs: [&mut [f32]; N]);
}

/// Elements of an output that nobody has written yet, unless they are those of an input.
enum Unwritten<'a> {
    Float32(&'a mut [MaybeUninit<f32>]),
    Bfloat16(&'a mut [MaybeUninit<bf16>]),
    Float16(&'a mut [MaybeUninit<f16>]),
}

impl Unwritten<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Float32(x) => x.len(),
            Self::Bfloat16(x) => x.len(),
            Self::Float16(x) => x.len(),
        }
    }

    /// Takes the first `count` elements.
    fn take(&mut self, count: usize) -> Self {
        let part = match self {
            Self::Float32(x) => x.split_off_mut(..count).map(Self::Float32),
            Self::Bfloat16(x) => x.split_off_mut(..count).map(Self::Bfloat16),
            Self::Float16(x) => x.split_off_mut(..count).map(Self::Float16),
        };
        part.expect("so many elements are left")
    }

    /// Writes the elements to `wide`, which has their number.
    ///
    /// # Safety
    /// They are written.
    #[inline(always)]
    unsafe fn widen(&self, wide: &mut [f32]) {
        // SAFETY: the caller says so.
        unsafe {
            match self {
                Self::Float32(x) => wide.copy_from_slice(x.assume_init_ref()),
                Self::Bfloat16(x) => bf16::widen(x.assume_init_ref(), wide),
                Self::Float16(x) => f16::widen(x.assume_init_ref(), wide),
            }
        }
    }

    /// Writes what was computed in `scratch`.
    #[inline(always)]
    fn finish(self, scratch: &[f32]) {
        match self {
            Self::Float32(_) => {}
            Self::Bfloat16(x) => {
                for (x, &y) in x.iter_mut().zip(scratch) {
                    x.write(to_bfloat16(y));
                }
            }
            Self::Float16(x) => to_float16(scratch, x),
        }
    }
}

/// Consecutive rows of an output; the last may be shorter.
struct Rows<'a> {
    data: Unwritten<'a>,
    width: usize,
    /// Whether the elements are those of an input.
    is_update: bool,
}

impl Rows<'_> {
    /// Takes the first `count` rows.
    fn take(&mut self, count: usize) -> Self {
        let length = (count * self.width).min(self.data.len());
        Self { data: self.data.take(length), ..*self }
    }

    /// Numbers in which the elements are computed: their own memory if it is of `float32`.
    #[inline(always)]
    fn numbers<'b>(&'b mut self, scratch: &'b mut Vec<f32>) -> &'b mut [f32] {
        match &mut self.data {
            Unwritten::Float32(x) => {
                if !self.is_update {
                    x.fill(MaybeUninit::new(0.0));
                }
                // SAFETY: all elements have been written, or are those of an input.
                unsafe { x.assume_init_mut() }
            }
            narrow => {
                scratch.resize(narrow.len(), 0.0);
                if self.is_update {
                    // SAFETY: the elements are those of an input.
                    unsafe { narrow.widen(scratch) };
                }
                scratch
            }
        }
    }
}

/// The elements of an output, which are those of an input if it `is_update`.
///
/// # Safety
/// A kernel that returns `Ok` has written every element.
unsafe fn elements<'o, T: Element>(
    output: &'o mut OutputBuffer<'_>,
    is_update: bool,
) -> Result<&'o mut [MaybeUninit<T>], KernelError> {
    if is_update {
        output.as_updated_slice::<T>()?;
    }
    // SAFETY: the caller says so.
    unsafe { output.as_uninit_slice() }
}

/// Computes rows `0..count` of the outputs, whose rows have the lengths `widths`.
///
/// `cost` is the number of elements that a row reads or writes.
pub(crate) fn compute<K: RowKernel<N>, const N: usize>(
    kernel: &K,
    outputs: &mut [OutputBuffer<'_>],
    widths: [usize; N],
    count: usize,
    cost: usize,
) -> Result<(), KernelError> {
    let mut rows = Vec::with_capacity(N);
    for ((output, width), is_update) in outputs.iter_mut().zip(widths).zip(K::UPDATED) {
        // SAFETY: `numbers` and `finish` write every element of the `count` rows, which are all
        // that the buffer has by the assertion.
        let data = unsafe {
            match output.dtype() {
                Dtype::Bfloat16 => Unwritten::Bfloat16(elements(output, is_update)?),
                Dtype::Float16 => Unwritten::Float16(elements(output, is_update)?),
                _ => Unwritten::Float32(elements(output, is_update)?),
            }
        };
        assert!(data.len() <= count * width, "the rows cover the output");
        rows.push(Rows { data, width, is_update });
    }
    let Ok(mut rows) = <[Rows<'_>; N]>::try_from(rows) else {
        unreachable!("the primitive has {N} outputs");
    };

    let arch = isa::arch();
    let run = |(first, count, rows)| arch.dispatch(Task { kernel, first, count, rows });
    let threads = tasks::threads();
    if threads == 1 || count < 2 || count * cost < PARALLEL_FROM {
        run((0, count, rows));
        return Ok(());
    }
    let per_task = count.div_ceil(threads * tasks::PER_THREAD).max(PARALLEL_FROM / 4 / cost);
    let pieces: Vec<_> = (0..count)
        .step_by(per_task)
        .map(|first| {
            let taken = rows.each_mut().map(|rows| rows.take(per_task));
            (first, per_task.min(count - first), taken)
        })
        .collect();
    tasks::for_each_item(pieces.into_iter(), true, |_, piece, (): &mut ()| run(piece));
    Ok(())
}

/// Computes the rows along the last axis of one output, which have `width` elements.
pub(crate) fn compute_last_axis(
    kernel: &impl RowKernel<1>,
    outputs: &mut [OutputBuffer<'_>],
    width: usize,
) -> Result<(), KernelError> {
    let count = outputs[0].size().checked_div(width).unwrap_or(0);
    compute(kernel, outputs, [width], count, width)
}

/// The length of the last axis.
pub(crate) fn width_of(input: &InputBuffer<'_>) -> usize {
    input.shape().last().map_or(1, |&width| width as usize)
}

/// Numbers that all rows share, such as a weight, as `float32`.
pub(crate) fn vector(input: Option<&InputBuffer<'_>>) -> Result<Option<Vec<f32>>, KernelError> {
    let wide = |input: &InputBuffer<'_>| {
        let (numbers, mut scratch) = (Floats::new(input)?, Vec::new());
        Ok(numbers.part(0..numbers.len(), &mut scratch).to_vec())
    };
    input.map(wide).transpose()
}

/// The sum of all rows of an array.
pub(crate) fn sum_rows(x: &Array) -> Result<Array> {
    let rows = match x.ndim() {
        1 => ops::expand_dims(x, 0)?,
        _ => ops::flatten(x, 0, -2)?,
    };
    ops::sum_axis(&rows, 0, false)
}

/// Elements of a row where the shape does not matter.
pub(crate) const FLAT: usize = 1024;

/// Where row `index` of `length` elements in rows of [`FLAT`] lies; the last may be shorter.
#[inline(always)]
pub(crate) fn flat_range(index: usize, length: usize) -> Range<usize> {
    index * FLAT..((index + 1) * FLAT).min(length)
}

/// Where row `index` of rows of `width` elements lies.
#[inline(always)]
pub(crate) fn range(index: usize, width: usize) -> Range<usize> {
    index * width..(index + 1) * width
}

/// Consecutive rows that one thread computes.
struct Task<'k, 'r, K, const N: usize> {
    kernel: &'k K,
    first: usize,
    count: usize,
    rows: [Rows<'r>; N],
}

impl<K: RowKernel<N>, const N: usize> WithSimd for Task<'_, '_, K, N> {
    type Output = ();

    // A closure would be inlined, and so compiled for the wide registers, only if it is short.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut scratch = Scratch::default();
        let mut computed = [const { Vec::new() }; N];
        for index in self.first..self.first + self.count {
            let mut outputs = self.rows.each_mut().map(|rows| rows.take(1));
            let mut pairs = outputs.iter_mut().zip(&mut computed);
            let numbers = from_fn(|_| {
                let (output, computed) = pairs.next().expect("there are as many");
                output.numbers(computed)
            });
            self.kernel.row(simd, index, &mut scratch, numbers);
            for (output, computed) in outputs.into_iter().zip(&computed) {
                output.data.finish(computed);
            }
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

/// Vectorizes the derivative of a normalisation with respect to its array, which has the inputs
/// array, cotangent and, if there is one, weight.
pub(crate) fn vmap_gradient_of_norm<P: Primitive + Copy>(
    gradient: P,
    inputs: &[Array],
    axes: &[Option<i32>],
) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
    if let [_, _, Some(_)] = axes {
        // The weight is part of the cotangent.
        return vmap(inputs, axes, |inputs| {
            let lengths: Vec<i32> = (1..inputs[0].ndim() as i32 - 1).collect();
            let weight = ops::expand_dims_axes(inputs[2], &lengths)?;
            apply(gradient, &[inputs[0], &ops::multiply(inputs[1], &weight)?])
        });
    }
    vmap(&inputs[..2], &axes[..2], |x| {
        let inputs: Vec<&Array> = x.iter().copied().chain(inputs.get(2)).collect();
        apply(gradient, &inputs)
    })
}

/// The vectorization of a [`Primitive`](mlx_graft::primitive::Primitive) of which all inputs are
/// rows.
macro_rules! vmap_of_rows {
    () => {
        fn vmap(
            &self,
            inputs: &[mlx_graft::Array],
            axes: &[Option<i32>],
        ) -> mlx_graft::Result<(Vec<mlx_graft::Array>, Vec<Option<i32>>)> {
            $crate::rows::vmap(inputs, axes, |inputs| mlx_graft::primitive::apply(*self, inputs))
        }
    };
}

pub(crate) use vmap_of_rows;
