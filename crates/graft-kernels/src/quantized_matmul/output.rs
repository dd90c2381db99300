//! The product in memory.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // see `lanes`

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::slice;

use half::{bf16, f16};
use mlx_graft::Dtype;
use mlx_graft::primitive::{KernelError, OutputBuffer};

use crate::floats::{to_bfloat16, to_float16};

/// Writes the sums of nothing.
pub(super) fn fill_with_zeros(output: &mut OutputBuffer<'_>) -> Result<(), KernelError> {
    match output.dtype() {
        Dtype::Bfloat16 => output.as_mut_slice::<bf16>().map(drop),
        Dtype::Float16 => output.as_mut_slice::<f16>().map(drop),
        _ => output.as_mut_slice::<f32>().map(drop),
    }
}

/// A matrix that tasks write, each its own elements.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    data: Data,
    rows: usize,
    columns: usize,
    _life: PhantomData<&'a mut [u8]>,
}

#[derive(Clone, Copy)]
enum Data {
    Float32(*mut MaybeUninit<f32>),
    Bfloat16(*mut MaybeUninit<bf16>),
    Float16(*mut MaybeUninit<f16>),
}

// SAFETY: tasks write elements that nobody else writes or reads, as `write` demands.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// All of an output, as rows of `columns` elements.
    ///
    /// # Safety
    /// A kernel that returns `Ok` has written every element.
    pub(super) unsafe fn new(
        output: &'a mut OutputBuffer<'_>,
        columns: usize,
    ) -> Result<Self, KernelError> {
        let rows = output.size().checked_div(columns).unwrap_or(0);
        // SAFETY: the caller writes every element.
        let data = unsafe {
            match output.dtype() {
                Dtype::Bfloat16 => Data::Bfloat16(output.as_uninit_slice()?.as_mut_ptr()),
                Dtype::Float16 => Data::Float16(output.as_uninit_slice()?.as_mut_ptr()),
                _ => Data::Float32(output.as_uninit_slice()?.as_mut_ptr()),
            }
        };
        Ok(Self { data, rows, columns, _life: PhantomData })
    }

    /// A matrix of `float32` in `data`.
    #[cfg(test)]
    pub(super) fn from_rows(data: &'a mut [f32], columns: usize) -> Self {
        let rows = data.len() / columns;
        let data = Data::Float32(data.as_mut_ptr().cast());
        Self { data, rows, columns, _life: PhantomData }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Writes numbers, rounded, to row `i` from column `j` on.
    ///
    /// # Safety
    /// Nobody else writes these elements at the same time.
    ///
    /// # Panics
    /// If there are no such elements.
    #[inline(always)]
    pub(super) unsafe fn write(&self, i: usize, j: usize, from: &[f32]) {
        assert!(i < self.rows && j + from.len() <= self.columns);
        let start = i * self.columns + j;
        // SAFETY: the elements exist, and the caller says that they are this task's alone.
        unsafe {
            match self.data {
                Data::Float32(data) => {
                    let to = slice::from_raw_parts_mut(data.add(start), from.len());
                    for (to, &x) in to.iter_mut().zip(from) {
                        to.write(x);
                    }
                }
                Data::Bfloat16(data) => {
                    let to = slice::from_raw_parts_mut(data.add(start), from.len());
                    for (to, &x) in to.iter_mut().zip(from) {
                        to.write(to_bfloat16(x));
                    }
                }
                Data::Float16(data) => {
                    to_float16(from, slice::from_raw_parts_mut(data.add(start), from.len()));
                }
            }
        }
    }
}
