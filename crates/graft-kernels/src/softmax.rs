//! The softmax of rows.
#![allow(clippy::inline_always)] // see `lanes`

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Error, Result, ops};
use pulp::Simd;

use crate::derivatives::{Composed, of_composed};
use crate::floats::{self, Floats};
use crate::rows::{self, RowKernel, Scratch, vmap_of_rows};
use crate::{is_active, lanes};

/// `exp(x) / sum(exp(x))` over the last axis, as `mlx.core.softmax` with `precise`.
///
/// `float32`, `bfloat16` and `float16` rows on the CPU are computed in `float32` and shared among the
/// kernels' threads. All others run through MLX's own operation.
///
/// # Errors
/// Those of `mlx.core.softmax`: an array without dimensions.
///
/// ```
/// use mlx_graft::Array;
///
/// let x = Array::from_slice(&[0.0_f32, f32::NEG_INFINITY, 0.0], &[3])?;
/// assert_eq!(graft_kernels::softmax(&x)?.to_vec::<f32>()?, [0.5, 0.0, 0.5]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn softmax(x: &Array) -> Result<Array> {
    if !floats::is_known(x) || x.ndim() == 0 || !is_active()? {
        return ops::softmax_axis(x, -1, true);
    }
    Ok(apply(Softmax, &[x])?.remove(0))
}

/// The softmax over the last axis.
#[derive(Clone, Copy, PartialEq)]
struct Softmax;

/// `y (g - sum(g y))` of the softmax `y` and a vector `g`. The Jacobian of the softmax is
/// symmetric, so it is the product from both sides.
#[derive(Clone, Copy, PartialEq)]
struct SoftmaxGrad;

struct Forward<'a> {
    x: Floats<'a>,
    width: usize,
}

impl RowKernel<1> for Forward<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, [x, ..]: &mut Scratch, [y]: [&mut [f32]; 1]) {
        let x = self.x.part(rows::range(index, self.width), x);
        let highest = lanes::maximum(simd, x);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = lanes::exp(simd, x - highest);
        }
        let scale = 1.0 / lanes::sum(simd, y);
        for y in y {
            *y *= scale;
        }
    }
}

struct Backward<'a> {
    y: Floats<'a>,
    g: Floats<'a>,
    width: usize,
}

impl RowKernel<1> for Backward<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, [y, g, ..]: &mut Scratch, [dx]: [&mut [f32]; 1]) {
        let range = rows::range(index, self.width);
        let (y, g) = (self.y.part(range.clone(), y), self.g.part(range, g));
        let dot = lanes::dot(simd, y, g);
        for ((dx, &y), &g) in dx.iter_mut().zip(y).zip(g) {
            *dx = y * (g - dot);
        }
    }
}

impl Primitive for Softmax {
    const NAME: &'static str = "softmax";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        if inputs[0].shape.is_empty() {
            return Err(Error::invalid_argument(Self::NAME, "the array has no last axis"));
        }
        Ok(inputs.to_vec())
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let width = rows::width_of(&inputs[0]);
        rows::compute_last_axis(&Forward { x: Floats::new(&inputs[0])?, width }, outputs, width)
    }

    fn vjp(
        &self,
        _primals: &[Array],
        cotangents: &[Array],
        _argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>> {
        apply(SoftmaxGrad, &[&outputs[0], &cotangents[0]])
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], _argnums: &[usize]) -> Result<Vec<Array>> {
        apply(SoftmaxGrad, &[&apply(Self, &[&primals[0]])?[0], &tangents[0]])
    }

    vmap_of_rows!();
}

impl Composed for SoftmaxGrad {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let (y, g) = (&inputs[0], &inputs[1]);
        let dot = ops::sum_axis(&ops::multiply(y, g)?, -1, true)?;
        Ok(vec![ops::multiply(y, &ops::subtract(g, &dot)?)?])
    }
}

impl Primitive for SoftmaxGrad {
    const NAME: &'static str = "softmax_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let width = rows::width_of(&inputs[0]);
        let (y, g) = (Floats::new(&inputs[0])?, Floats::new(&inputs[1])?);
        rows::compute_last_axis(&Backward { y, g, width }, outputs, width)
    }

    of_composed!();

    vmap_of_rows!();
}
