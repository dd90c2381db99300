//! Products in `float32` of matrices of which one has 16-bit numbers, as those of low-rank adapters with
//! what they are trained on.

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, ops, transforms};

use super::matrix::Matrix;
use super::{float32, matmul, multiply};
use crate::derivatives::{self, Composed, of_composed};

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
        let (a, b, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        if a.size() == 0 || b.size() == 0 {
            // Where a trace without shapes meets nothing.
            return out.as_mut_slice::<f32>().map(drop);
        }
        let first = || a.strided::<f32>().map(|a| Matrix::of(&a, &[]));
        let second = || b.strided::<f32>().map(|b| Matrix::of(&b, &[]));
        match (a.dtype(), b.dtype()) {
            (Dtype::Bfloat16, _) => {
                float32::narrow_first(Matrix::of(&a.strided::<bf16>()?, &[]), second()?, out)
            }
            (Dtype::Float16, _) => {
                float32::narrow_first(Matrix::of(&a.strided::<f16>()?, &[]), second()?, out)
            }
            (_, Dtype::Bfloat16) => {
                float32::narrow_second(first()?, Matrix::of(&b.strided::<bf16>()?, &[]), out)
            }
            _ => float32::narrow_second(first()?, Matrix::of(&b.strided::<f16>()?, &[]), out),
        }
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
