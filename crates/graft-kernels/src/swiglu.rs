//! The gated activation.
#![allow(clippy::inline_always)] // see `lanes`

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Error, Result, ops};
use pulp::Simd;

use crate::derivatives::{Composed, of_composed};
use crate::floats::{self, Floats};
use crate::rows::{self, FLAT, RowKernel, Scratch, flat_range, vmap_of_rows};
use crate::{is_active, lanes};

/// `silu(gate) * up`, the activation of `SwiGLU` (Shazeer, 2020).
///
/// Two arrays of one shape and dtype, `float32`, `bfloat16` or `float16`, on the CPU are computed in
/// `float32` and shared among the kernels' threads. All others run through MLX's own
/// operations.
///
/// # Errors
/// Those of MLX's operations, if the shapes do not broadcast.
///
/// ```
/// use mlx_graft::Array;
///
/// let gate = Array::from_slice(&[0.0_f32, 100.0], &[2])?;
/// let up = Array::from_slice(&[3.0_f32, 2.0], &[2])?;
/// assert_eq!(graft_kernels::swiglu(&gate, &up)?.to_vec::<f32>()?, [0.0, 200.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array> {
    let known = floats::is_known(gate) && gate.dtype() == up.dtype();
    if known && gate.shape() == up.shape() && is_active()? {
        return Ok(apply(Swiglu, &[gate, up])?.remove(0));
    }
    let silu = ops::multiply(gate, &ops::sigmoid(gate)?)?;
    ops::multiply(&silu, up)
}

/// The product of `silu(gate)` and `up`.
#[derive(Clone, Copy, PartialEq)]
struct Swiglu;

/// The gradients with respect to `gate` and `up`, of these two and `g`.
#[derive(Clone, Copy, PartialEq)]
struct SwigluGrad;

#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: f32) -> f32 {
    1.0 / (1.0 + lanes::exp(simd, -x))
}

struct Forward<'a> {
    gate: Floats<'a>,
    up: Floats<'a>,
}

impl RowKernel<1> for Forward<'_> {
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        simd: S,
        index: usize,
        [gate, up, ..]: &mut Scratch,
        [y]: [&mut [f32]; 1],
    ) {
        let range = flat_range(index, self.gate.len());
        let (gate, up) = (self.gate.part(range.clone(), gate), self.up.part(range, up));
        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(simd, gate) * up;
        }
    }
}

struct Backward<'a> {
    gate: Floats<'a>,
    up: Floats<'a>,
    g: Floats<'a>,
}

impl RowKernel<2> for Backward<'_> {
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        simd: S,
        index: usize,
        [gate, up, g, _]: &mut Scratch,
        [d_gate, d_up]: [&mut [f32]; 2],
    ) {
        let range = flat_range(index, self.gate.len());
        let gate = self.gate.part(range.clone(), gate);
        let up = self.up.part(range.clone(), up);
        let g = self.g.part(range, g);
        let inputs = gate.iter().zip(up).zip(g);
        for ((d_gate, d_up), ((&gate, &up), &g)) in d_gate.iter_mut().zip(d_up).zip(inputs) {
            let sigmoid = sigmoid(simd, gate);
            let silu = gate * sigmoid;
            *d_gate = g * up * (sigmoid + silu * (1.0 - sigmoid));
            *d_up = g * silu;
        }
    }
}

impl Primitive for Swiglu {
    const NAME: &'static str = "swiglu";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let (gate, up) = (&inputs[0].shape, &inputs[1].shape);
        if gate != up {
            return Err(Error::invalid_argument(
                Self::NAME,
                format!("gate of shape {gate:?} and up of shape {up:?} differ"),
            ));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let kernel = Forward { gate: Floats::new(&inputs[0])?, up: Floats::new(&inputs[1])? };
        let count = inputs[0].size().div_ceil(FLAT);
        rows::compute(&kernel, outputs, [FLAT], count, FLAT)
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let gradients = apply(SwigluGrad, &[&primals[0], &primals[1], &cotangents[0]])?;
        Ok(argnums.iter().map(|&arg| gradients[arg].clone()).collect())
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let ones = ops::ones_like(&primals[0])?;
        let slopes = apply(SwigluGrad, &[&primals[0], &primals[1], &ones])?;
        let mut sum = ops::zeros_like(&primals[0])?;
        for (&arg, tangent) in argnums.iter().zip(tangents) {
            sum = ops::add(&sum, &ops::multiply(&slopes[arg], tangent)?)?;
        }
        Ok(vec![sum])
    }

    vmap_of_rows!();
}

impl Composed for SwigluGrad {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let (gate, up, g) = (&inputs[0], &inputs[1], &inputs[2]);
        let sigmoid = ops::sigmoid(gate)?;
        let silu = ops::multiply(gate, &sigmoid)?;
        // sigmoid + silu (1 - sigmoid)
        let slope = ops::subtract(&ops::add(&sigmoid, &silu)?, &ops::multiply(&silu, &sigmoid)?)?;
        let d_gate = ops::multiply(&ops::multiply(g, up)?, &slope)?;
        Ok(vec![d_gate, ops::multiply(g, &silu)?])
    }
}

impl Primitive for SwigluGrad {
    const NAME: &'static str = "swiglu_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(inputs[..2].to_vec())
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let [gate, up, g] = [0, 1, 2].map(|i| Floats::new(&inputs[i]));
        let kernel = Backward { gate: gate?, up: up?, g: g? };
        let count = inputs[0].size().div_ceil(FLAT);
        rows::compute(&kernel, outputs, [FLAT, FLAT], count, FLAT)
    }

    of_composed!();

    vmap_of_rows!();
}
