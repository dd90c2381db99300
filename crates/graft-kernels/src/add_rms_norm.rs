//! A sum, and its root mean square normalisation.
#![allow(clippy::inline_always)] // see `lanes`

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Error, Result, ops};
use pulp::Simd;

use crate::derivatives::{self, Composed, of_composed};
use crate::floats::{self, Floats};
use crate::is_active;
use crate::rms_norm::{RmsNorm, RmsNormGrad, normalize, rms_norm};
use crate::rows::{self, RowKernel, Scratch};

/// `x + y`, and [`rms_norm`] of it: what a block of a transformer does with the result of a layer.
///
/// `x` and `y` are `(…, D)` and `weight` is `(D,)`, of one dtype. Where [`rms_norm`] runs here, both
/// results are of one operation, which reads the sum once; so is the derivative. Both round as two
/// operations do: the sum to its dtype before it is normalised.
///
/// # Errors
/// Those of `mlx.core.add` and `mlx.core.fast.rms_norm`.
///
/// ```
/// use mlx_graft::{Array, Dtype, ops};
///
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[1, 2])?;
/// let weight = ops::ones(&[2], Dtype::Float32)?;
/// let (sum, normal) = graft_kernels::add_rms_norm(&x, &x, &weight, 0.0)?;
/// assert_eq!(sum.to_vec::<f32>()?, [2.0, 4.0]);
/// let wanted = graft_kernels::rms_norm(&sum, Some(&weight), 0.0)?;
/// assert_eq!(normal.to_vec::<f32>()?, wanted.to_vec::<f32>()?);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn add_rms_norm(x: &Array, y: &Array, weight: &Array, eps: f32) -> Result<(Array, Array)> {
    let suits = floats::is_known(x)
        && [y, weight].iter().all(|other| other.dtype() == x.dtype())
        && x.shape() == y.shape()
        && x.ndim() > 0
        && weight.shape() == &x.shape()[x.ndim() - 1..];
    if !suits || !is_active()? {
        let sum = ops::add(x, y)?;
        let normal = rms_norm(&sum, Some(weight), eps)?;
        return Ok((sum, normal));
    }
    let mut outputs = apply(AddRmsNorm(RmsNorm { eps }), &[x, y, weight])?;
    let normal = outputs.remove(1);
    Ok((outputs.remove(0), normal))
}

/// The sum of the first two inputs, and its normalisation times the third.
#[derive(Clone, Copy, PartialEq)]
struct AddRmsNorm(RmsNorm);

/// The derivative with respect to either array, of the sum, both cotangents and the weight.
#[derive(Clone, Copy, PartialEq)]
struct AddRmsNormGrad(RmsNorm);

struct Forward<'a> {
    x: Floats<'a>,
    y: Floats<'a>,
    weight: &'a [f32],
    norm: RmsNorm,
}

impl RowKernel<2> for Forward<'_> {
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        simd: S,
        index: usize,
        [x, y, ..]: &mut Scratch,
        [sum, normal]: [&mut [f32]; 2],
    ) {
        let range = rows::range(index, self.weight.len());
        let (x, y) = (self.x.part(range.clone(), x), self.y.part(range, y));
        for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
            *sum = x + y;
        }
        self.x.round(sum);
        let scale = self.norm.scale(simd, sum);
        for ((normal, &sum), &weight) in normal.iter_mut().zip(&*sum).zip(self.weight) {
            *normal = sum * scale * weight;
        }
    }
}

struct Backward<'a> {
    sum: Floats<'a>,
    of_sum: Floats<'a>,
    of_normal: Floats<'a>,
    weight: &'a [f32],
    norm: RmsNorm,
}

impl RowKernel<1> for Backward<'_> {
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        simd: S,
        index: usize,
        [sum, of_sum, of_normal, _]: &mut Scratch,
        [dx]: [&mut [f32]; 1],
    ) {
        let range = rows::range(index, self.weight.len());
        let x = self.sum.part(range.clone(), sum);
        let of_sum = self.of_sum.part(range.clone(), of_sum);
        let of_normal = self.of_normal.part(range, of_normal);
        self.norm.derivative(simd, x, of_normal, Some(self.weight), dx);
        // As if the norm were differentiated by itself, which is how a checkpoint does it.
        self.sum.round(dx);
        for (dx, &of_sum) in dx.iter_mut().zip(of_sum) {
            *dx += of_sum;
        }
    }
}

impl Composed for AddRmsNorm {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let sum = ops::add(&inputs[0], &inputs[1])?;
        let normal = normalize(self.0, &sum, Some(&inputs[2]))?;
        Ok(vec![sum, normal])
    }
}

impl Primitive for AddRmsNorm {
    const NAME: &'static str = "add_rms_norm";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let [x, y, weight] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs three arrays"));
        };
        if x.shape != y.shape || x.shape.is_empty() || weight.shape.last() != x.shape.last() {
            let (x, y, weight) = (&x.shape, &y.shape, &weight.shape);
            let text = format!("arrays of shape {x:?} and {y:?} do not fit a weight of {weight:?}");
            return Err(Error::invalid_argument(Self::NAME, text));
        }
        Ok(vec![x.clone(), x.clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let weight = rows::vector(inputs.get(2))?.unwrap_or_default();
        let (x, y) = (Floats::new(&inputs[0])?, Floats::new(&inputs[1])?);
        let (width, count) = (weight.len(), x.len().checked_div(weight.len()).unwrap_or(0));
        let kernel = Forward { x, y, weight: &weight, norm: self.0 };
        rows::compute(&kernel, outputs, [width; 2], count, 2 * width)
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (sum, weight) = (&outputs[0], &primals[2]);
        let [of_sum, of_normal] = [&cotangents[0], &cotangents[1]];
        // That of either array, if one is asked for.
        let of_both = if argnums.iter().any(|&arg| arg < 2) {
            apply(AddRmsNormGrad(self.0), &[sum, of_sum, of_normal, weight])?
        } else {
            Vec::new()
        };
        let with_respect_to = |&arg: &usize| match arg {
            2 => self.0.derivative_to_weight(sum, of_normal),
            _ => Ok(of_both[0].clone()),
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        derivatives::jvp(derivatives::of(*self), primals, tangents, argnums)
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let (mut outputs, mut mapped) =
            rows::vmap(&inputs[..2], &axes[..2], |x| Ok(vec![ops::add(x[0], x[1])?]))?;
        let norm = self.0.vmap(&[outputs[0].clone(), inputs[2].clone()], &[mapped[0], axes[2]])?;
        outputs.extend(norm.0);
        mapped.extend(norm.1);
        Ok((outputs, mapped))
    }
}

impl Composed for AddRmsNormGrad {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let [sum, of_sum, of_normal, weight] = [0, 1, 2, 3].map(|i| inputs[i].clone());
        let dx = RmsNormGrad(self.0).composed(&[sum, of_normal, weight])?;
        Ok(vec![ops::add(&dx[0], &of_sum)?])
    }
}

impl Primitive for AddRmsNormGrad {
    const NAME: &'static str = "add_rms_norm_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let weight = rows::vector(inputs.get(3))?.unwrap_or_default();
        let [sum, of_sum, of_normal] = [0, 1, 2].map(|i| Floats::new(&inputs[i]));
        let (sum, of_sum, of_normal) = (sum?, of_sum?, of_normal?);
        let kernel = Backward { sum, of_sum, of_normal, weight: &weight, norm: self.0 };
        rows::compute_last_axis(&kernel, outputs, weight.len())
    }

    of_composed!();

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let some = |i: [usize; 3]| (i.map(|i| inputs[i].clone()), i.map(|i| axes[i]));
        let (inputs_of_norm, axes_of_norm) = some([0, 2, 3]);
        let (dx, mapped) = RmsNormGrad(self.0).vmap(&inputs_of_norm, &axes_of_norm)?;
        let pair = [dx[0].clone(), inputs[1].clone()];
        rows::vmap(&pair, &[mapped[0], axes[1]], |x| Ok(vec![ops::add(x[0], x[1])?]))
    }
}
