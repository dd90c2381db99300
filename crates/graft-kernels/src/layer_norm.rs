//! Layer normalisation.
#![allow(clippy::inline_always)] // see `lanes`

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Dtype, Error, Result, fast, ops};
use pulp::Simd;

use crate::derivatives::{Composed, of_composed};
use crate::floats::{self, Floats};
use crate::rows::{self, RowKernel, Scratch};
use crate::{is_active, lanes};

/// `(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` over the last axis, as
/// `mlx.core.fast.layer_norm` (Ba, Kiros and Hinton, 2016).
///
/// `x` is `(…, D)`; `weight`, which is 1 if there is none, and `bias`, which is 0, are `(D,)`.
///
/// `float32`, `bfloat16` and `float16`, all of one dtype, on the CPU are computed in `float32`,
/// rounded once, and shared among the kernels' threads. All others run through MLX's
/// own operation.
///
/// # Errors
/// Those of `mlx.core.fast.layer_norm`: an array without dimensions, or a weight or bias that does
/// not fit.
///
/// ```
/// use mlx_graft::Array;
///
/// let x = Array::from_slice(&[1.0_f32, 1.0, 3.0, 3.0], &[4])?;
/// let bias = Array::from_slice(&[0.0_f32, 1.0, 0.0, 1.0], &[4])?;
/// let y = graft_kernels::layer_norm(&x, None, Some(&bias), 0.0)?;
/// assert_eq!(y.to_vec::<f32>()?, [-1.0, 0.0, 1.0, 2.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn layer_norm(
    x: &Array,
    weight: Option<&Array>,
    bias: Option<&Array>,
    eps: f32,
) -> Result<Array> {
    let width = x.shape().last();
    let fits = |vector: Option<&Array>| {
        vector.is_none_or(|vector| {
            vector.dtype() == x.dtype() && vector.ndim() == 1 && vector.shape().last() == width
        })
    };
    let suits = floats::is_known(x) && width.is_some() && fits(weight) && fits(bias);
    if !suits || !is_active()? {
        return fast::layer_norm(x, weight, bias, eps);
    }
    let norm = LayerNorm { eps, has_weight: weight.is_some(), has_bias: bias.is_some() };
    norm.apply([x].into_iter().chain(weight).chain(bias))
}

/// The normalisation of an array, times a weight and plus a bias where there is one: the inputs in
/// this order.
#[derive(Clone, Copy, PartialEq)]
struct LayerNorm {
    eps: f32,
    has_weight: bool,
    has_bias: bool,
}

/// The derivative with respect to the array, of the array, the cotangent, and the weight if there
/// is one.
#[derive(Clone, Copy, PartialEq)]
struct LayerNormGrad {
    eps: f32,
}

/// What an input is.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    X,
    Weight,
    Bias,
}

/// Writes the deviations from the mean of a row, and returns the factor of the normalisation.
#[inline(always)]
fn center<S: Simd>(simd: S, x: &[f32], deviations: &mut [f32], eps: f32) -> f32 {
    let count = x.len() as f32;
    let mean = lanes::sum(simd, x) / count;
    for (deviation, &x) in deviations.iter_mut().zip(x) {
        *deviation = x - mean;
    }
    // What rounding has left of the mean: of equal numbers it would be most of the result.
    let rest = lanes::sum(simd, deviations) / count;
    for deviation in deviations.iter_mut() {
        *deviation -= rest;
    }
    1.0 / (lanes::dot(simd, deviations, deviations) / count + eps).sqrt()
}

struct Forward<'a> {
    x: Floats<'a>,
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    width: usize,
    eps: f32,
}

impl RowKernel<1> for Forward<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, [x, ..]: &mut Scratch, [y]: [&mut [f32]; 1]) {
        let x = self.x.part(rows::range(index, self.width), x);
        let scale = center(simd, x, y, self.eps);
        match &self.weight {
            Some(weight) => {
                for (y, &weight) in y.iter_mut().zip(weight) {
                    *y *= scale * weight;
                }
            }
            None => y.iter_mut().for_each(|y| *y *= scale),
        }
        if let Some(bias) = &self.bias {
            for (y, &bias) in y.iter_mut().zip(bias) {
                *y += bias;
            }
        }
    }
}

struct Backward<'a> {
    x: Floats<'a>,
    g: Floats<'a>,
    weight: Option<Vec<f32>>,
    width: usize,
    eps: f32,
}

impl RowKernel<1> for Backward<'_> {
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        simd: S,
        index: usize,
        [x, g, deviations, _]: &mut Scratch,
        [dx]: [&mut [f32]; 1],
    ) {
        let range = rows::range(index, self.width);
        let (x, g) = (self.x.part(range.clone(), x), self.g.part(range, g));
        match &self.weight {
            Some(weight) => {
                for ((dx, &g), &weight) in dx.iter_mut().zip(g).zip(weight) {
                    *dx = g * weight;
                }
            }
            None => dx.copy_from_slice(g),
        }
        deviations.resize(self.width, 0.0);
        let scale = center(simd, x, deviations, self.eps);
        // y = s (x - mean), and the slope of s along x is -s³ (x - mean) / D.
        let count = self.width as f32;
        let along = lanes::dot(simd, dx, deviations) * scale * scale / count;
        let mean = lanes::sum(simd, dx) / count;
        for (dx, &deviation) in dx.iter_mut().zip(&*deviations) {
            *dx = scale * (*dx - mean - deviation * along);
        }
    }
}

impl LayerNorm {
    /// Adds it to the graph.
    fn apply<'a>(self, inputs: impl Iterator<Item = &'a Array>) -> Result<Array> {
        Ok(apply(self, &inputs.collect::<Vec<_>>())?.remove(0))
    }

    /// The normalisation alone.
    fn normalize(self, x: &Array) -> Result<Array> {
        Self { has_weight: false, has_bias: false, ..self }.apply([x].into_iter())
    }

    /// What input number `index` is.
    fn role(self, index: usize) -> Role {
        match index {
            0 => Role::X,
            1 if self.has_weight => Role::Weight,
            _ => Role::Bias,
        }
    }

    /// The weight and the bias among the inputs.
    fn vectors<T>(self, inputs: &[T]) -> [Option<&T>; 2] {
        let weight = inputs.get(1).filter(|_| self.has_weight);
        let bias = inputs.get(1 + usize::from(self.has_weight)).filter(|_| self.has_bias);
        [weight, bias]
    }
}

impl Primitive for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let width = inputs[0].shape.last();
        if let Some(vector) = inputs[1..].iter().find(|vector| vector.shape.last() != width) {
            let (x, vector) = (&inputs[0].shape, &vector.shape);
            return Err(Error::invalid_argument(
                Self::NAME,
                format!(
                    "an array of shape {x:?} does not fit a weight or bias of shape {vector:?}"
                ),
            ));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (x, width) = (Floats::new(&inputs[0])?, rows::width_of(&inputs[0]));
        let [weight, bias] = self.vectors(inputs).map(rows::vector);
        let kernel = Forward { x, weight: weight?, bias: bias?, width, eps: self.eps };
        rows::compute_last_axis(&kernel, outputs, width)
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (x, g) = (&primals[0], &cotangents[0]);
        let wide = |x: &Array| ops::astype(x, Dtype::Float32);
        let with_respect_to = |&arg: &usize| match self.role(arg) {
            Role::X => {
                let [weight, _] = self.vectors(primals);
                let inputs: Vec<&Array> = [x, g].into_iter().chain(weight).collect();
                Ok(apply(LayerNormGrad { eps: self.eps }, &inputs)?.remove(0))
            }
            Role::Weight => {
                let slopes = ops::multiply(&self.normalize(&wide(x)?)?, &wide(g)?)?;
                ops::astype(&rows::sum_rows(&slopes)?, x.dtype())
            }
            Role::Bias => ops::astype(&rows::sum_rows(&wide(g)?)?, x.dtype()),
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let x = &primals[0];
        let [weight, _] = self.vectors(primals);
        let mut sum: Option<Array> = None;
        for (&arg, tangent) in argnums.iter().zip(tangents) {
            let part = match self.role(arg) {
                Role::X => {
                    // The Jacobian of a row without its weight is symmetric.
                    let moved = apply(LayerNormGrad { eps: self.eps }, &[x, tangent])?.remove(0);
                    weight.map_or(Ok(moved.clone()), |weight| ops::multiply(&moved, weight))?
                }
                Role::Weight => ops::multiply(&self.normalize(x)?, tangent)?,
                Role::Bias => ops::broadcast_to(tangent, x.shape())?,
            };
            sum = Some(sum.map_or(Ok(part.clone()), |sum| ops::add(&sum, &part))?);
        }
        Ok(sum.into_iter().collect())
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        // One more dimension is more rows, unless the weight or the bias has it too.
        if axes[1..].iter().any(Option::is_some) {
            return rows::vmap(inputs, axes, |inputs| {
                let lengths: Vec<i32> = (1..inputs[0].ndim() as i32 - 1).collect();
                let [weight, bias] = self.vectors(inputs);
                let mut y = self.normalize(inputs[0])?;
                if let Some(weight) = weight {
                    y = ops::multiply(&y, &ops::expand_dims_axes(weight, &lengths)?)?;
                }
                if let Some(bias) = bias {
                    y = ops::add(&y, &ops::expand_dims_axes(bias, &lengths)?)?;
                }
                Ok(vec![y])
            });
        }
        rows::vmap(&inputs[..1], &axes[..1], |x| {
            Ok(vec![self.apply(x.iter().copied().chain(&inputs[1..]))?])
        })
    }
}

impl Composed for LayerNormGrad {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let wide = |x: &Array| ops::astype(x, Dtype::Float32);
        let (x, g) = (&wide(&inputs[0])?, &wide(&inputs[1])?);
        let g = &match inputs.get(2) {
            Some(weight) => ops::multiply(g, &wide(weight)?)?,
            None => g.clone(),
        };
        let mean = |x: &Array| ops::mean_axis(x, -1, true);
        let deviations = &ops::subtract(x, &mean(x)?)?;
        let variance = mean(&ops::square(deviations)?)?;
        let scale = ops::rsqrt(&ops::add(&variance, &Array::scalar(self.eps)?)?)?;
        let along = mean(&ops::multiply(g, deviations)?)?;
        let along = ops::multiply(&along, &ops::square(&scale)?)?;
        let across = ops::subtract(g, &mean(g)?)?;
        let dx = ops::subtract(&across, &ops::multiply(deviations, &along)?)?;
        Ok(vec![ops::astype(&ops::multiply(&scale, &dx)?, inputs[0].dtype())?])
    }
}

impl Primitive for LayerNormGrad {
    const NAME: &'static str = "layer_norm_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (x, g) = (Floats::new(&inputs[0])?, Floats::new(&inputs[1])?);
        let (weight, width) = (rows::vector(inputs.get(2))?, rows::width_of(&inputs[0]));
        rows::compute_last_axis(&Backward { x, g, weight, width, eps: self.eps }, outputs, width)
    }

    of_composed!();

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        rows::vmap_gradient_of_norm(*self, inputs, axes)
    }
}
