//! The logarithm of sums of exponentials.
#![allow(clippy::inline_always)] // see `lanes`

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Error, Result, ops};
use pulp::Simd;

use crate::derivatives::{Composed, of_composed};
use crate::floats::{self, Floats};
use crate::rows::{self, RowKernel, Scratch, vmap_of_rows};
use crate::{is_active, lanes, softmax};

/// `log(sum(exp(x)))` over the last axis, as `mlx.core.logsumexp`.
///
/// `float32`, `bfloat16` and `float16` rows on the CPU are computed in `float32`, relative to the
/// highest number of each, and shared among the kernels' threads. All others run
/// through MLX's own operation.
///
/// # Errors
/// Those of `mlx.core.logsumexp`: an array without dimensions or elements.
///
/// ```
/// use mlx_graft::Array;
///
/// let x = Array::from_slice(&[1000.0_f32, f32::NEG_INFINITY], &[2])?;
/// assert_eq!(graft_kernels::logsumexp(&x, false)?.item::<f32>()?, 1000.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn logsumexp(x: &Array, keepdims: bool) -> Result<Array> {
    if !floats::is_known(x) || x.ndim() == 0 || x.size() == 0 || !is_active()? {
        return ops::logsumexp_axis(x, -1, keepdims);
    }
    let sums = apply(LogSumExp, &[x])?.remove(0);
    if keepdims { ops::expand_dims(&sums, -1) } else { Ok(sums) }
}

/// The sums over the last axis, which they lack.
#[derive(Clone, Copy, PartialEq)]
struct LogSumExp;

/// `softmax(x) g`, of the array and `g`. The sums themselves are rounded, and large ones so much that
/// the exponentials relative to them would be off.
#[derive(Clone, Copy, PartialEq)]
struct LogSumExpGrad;

struct Forward<'a> {
    x: Floats<'a>,
    width: usize,
}

impl RowKernel<1> for Forward<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, [x, ..]: &mut Scratch, [sum]: [&mut [f32]; 1]) {
        let x = self.x.part(rows::range(index, self.width), x);
        let highest = lanes::maximum(simd, x);
        // The difference of two infinities is no number.
        let shift = if highest.is_finite() { highest } else { 0.0 };
        sum[0] = shift + lanes::sum_exp(simd, x, shift).ln();
    }
}

struct Backward<'a> {
    x: Floats<'a>,
    g: Floats<'a>,
    width: usize,
}

impl RowKernel<1> for Backward<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, [x, g, ..]: &mut Scratch, [dx]: [&mut [f32]; 1]) {
        let x = self.x.part(rows::range(index, self.width), x);
        let g = self.g.part(index..index + 1, g)[0];
        let highest = lanes::maximum(simd, x);
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = lanes::exp(simd, x - highest);
        }
        let scale = g / lanes::sum(simd, dx);
        for dx in dx {
            *dx *= scale;
        }
    }
}

impl Primitive for LogSumExp {
    const NAME: &'static str = "logsumexp";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        match inputs[0].shape.split_last() {
            Some((&width, rows)) if width > 0 => Ok(vec![ArraySpec::new(rows, inputs[0].dtype)]),
            _ => Err(Error::invalid_argument(Self::NAME, "there is nothing on the last axis")),
        }
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (width, count) = (rows::width_of(&inputs[0]), outputs[0].size());
        rows::compute(&Forward { x: Floats::new(&inputs[0])?, width }, outputs, [1], count, width)
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        _argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        apply(LogSumExpGrad, &[&primals[0], &cotangents[0]])
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], _argnums: &[usize]) -> Result<Vec<Array>> {
        let moved = ops::multiply(&softmax(&primals[0])?, &tangents[0])?;
        Ok(vec![ops::sum_axis(&moved, -1, false)?])
    }

    vmap_of_rows!();
}

impl Composed for LogSumExpGrad {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let g = ops::expand_dims(&inputs[1], -1)?;
        Ok(vec![ops::multiply(&softmax(&inputs[0])?, &g)?])
    }
}

impl Primitive for LogSumExpGrad {
    const NAME: &'static str = "logsumexp_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let width = rows::width_of(&inputs[0]);
        let (x, g) = (Floats::new(&inputs[0])?, Floats::new(&inputs[1])?);
        rows::compute_last_axis(&Backward { x, g, width }, outputs, width)
    }

    of_composed!();

    vmap_of_rows!();
}
