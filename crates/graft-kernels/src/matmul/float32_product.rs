//! Products in `float32` of matrices of which one has 16-bit numbers, as those of low-rank adapters with
//! what they are trained on.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, ops, transforms};

use super::converted::wide_rows;
use super::matrix::Matrix;
use super::problem::{Product, is_parallel};
#[cfg(target_arch = "x86_64")]
use super::skinny;
use super::{matmul, multiply};
use crate::derivatives::{self, Composed, of_composed};
use crate::floats::Float;

/// The product of two matrices, of which at least one is of `float32` and the other of a
/// floating-point dtype of 16 or 32 bits. The result is of `float32`.
pub(crate) fn float32_product(a: &Array, b: &Array) -> Result<Array> {
    let is_empty = a.size() == 0 || b.size() == 0;
    match (a.dtype(), b.dtype()) {
        (Dtype::Float32, Dtype::Float32) => multiply(a, b),
        _ if is_empty => matmul(a, b),
        _ => Ok(apply(Float32Product, &[a, b])?.remove(0)),
    }
}

/// The product of two matrices, neither of them empty, in `float32`.
#[derive(Clone, Copy, PartialEq)]
struct Float32Product;

impl Composed for Float32Product {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let wide = |x: &Array| ops::astype(x, Dtype::Float32);
        Ok(vec![multiply(&wide(&inputs[0])?, &wide(&inputs[1])?)?])
    }
}

/// A product whose first factor has 16-bit numbers.
fn narrow_first<T: Float + Send + Sync>(
    a: Matrix<'_, T>,
    b: Matrix<'_, f32>,
    out: &mut [MaybeUninit<f32>],
    parallel: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if skinny::multiply_along(a, b, out, parallel) || skinny::multiply_across(a, b, out, parallel) {
        return;
    }
    f32::multiply(wide(a, parallel, &mut Vec::new()), b, out, parallel);
}

/// A product whose second factor has 16-bit numbers.
fn narrow_second<T: Float + Send + Sync>(
    a: Matrix<'_, f32>,
    b: Matrix<'_, T>,
    out: &mut [MaybeUninit<f32>],
    parallel: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if skinny::multiply_across(a, b, out, parallel) {
        return;
    }
    f32::multiply(a, wide(b, parallel, &mut Vec::new()), out, parallel);
}

/// A matrix in `float32`, which lies as it does.
fn wide<'a, T: Float>(
    matrix: Matrix<'_, T>,
    parallel: bool,
    memory: &'a mut Vec<f32>,
) -> Matrix<'a, f32> {
    let is_across = !matrix.has_dense_rows() && matrix.transposed().has_dense_rows();
    let lying = if is_across { matrix.transposed() } else { matrix };
    *memory = wide_rows(lying, parallel);
    let wide = Matrix::from_rows(memory, lying.rows, lying.columns);
    if is_across { wide.transposed() } else { wide }
}

impl Primitive for Float32Product {
    const NAME: &'static str = "matmul";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        match (&*inputs[0].shape, &*inputs[1].shape) {
            (&[m, k], &[l, n]) if k == l => Ok(vec![ArraySpec::new([m, n], Dtype::Float32)]),
            (a, b) => Err(Error::invalid_argument(
                Self::NAME,
                format!("arrays of shape {a:?} and {b:?} cannot be multiplied"),
            )),
        }
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let parallel =
            is_parallel(a.shape()[0] as usize, a.shape()[1] as usize, b.shape()[1] as usize);
        // SAFETY: each of the kernels writes all of it.
        let out = unsafe { outputs[0].as_uninit_slice::<f32>()? };
        let first = || Ok::<_, KernelError>(Matrix::of(&a.strided::<f32>()?, &[]));
        let second = || Ok::<_, KernelError>(Matrix::of(&b.strided::<f32>()?, &[]));
        match (a.dtype(), b.dtype()) {
            (Dtype::Bfloat16, _) => {
                narrow_first(Matrix::of(&a.strided::<bf16>()?, &[]), second()?, out, parallel);
            }
            (Dtype::Float16, _) => {
                narrow_first(Matrix::of(&a.strided::<f16>()?, &[]), second()?, out, parallel);
            }
            (_, Dtype::Bfloat16) => {
                narrow_second(first()?, Matrix::of(&b.strided::<bf16>()?, &[]), out, parallel);
            }
            _ => narrow_second(first()?, Matrix::of(&b.strided::<f16>()?, &[]), out, parallel),
        }
        Ok(())
    }

    of_composed!();

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let outputs = transforms::vmap(derivatives::of(*self), inputs, axes, &[Some(0)])?;
        Ok((outputs, vec![Some(0)]))
    }

    fn layout(&self, _input: usize) -> Layout {
        Layout::Strided
    }
}
