//! Root mean square normalisation.
#![allow(clippy::inline_always)] // see `lanes`

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Dtype, Error, Result, fast, ops};
use pulp::Simd;

use crate::derivatives::{Composed, of_composed};
use crate::floats::{self, Floats};
use crate::rows::{self, RowKernel, Scratch};
use crate::{is_active, lanes};

/// `x / sqrt(mean(x²) + eps) * weight` over the last axis, as `mlx.core.fast.rms_norm` (Zhang and
/// Sennrich, 2019).
///
/// `x` is `(…, D)` and `weight`, which is 1 if there is none, `(D,)`.
///
/// `float32`, `bfloat16` and `float16` on the CPU are computed in `float32`, rounded once, and shared
/// among the kernels' threads. All others run through MLX's own operation.
///
/// # Errors
/// Those of `mlx.core.fast.rms_norm`: an array without dimensions, or a weight that does not fit.
///
/// ```
/// use mlx_graft::Array;
///
/// let x = Array::from_slice(&[3.0_f32, 3.0, 3.0], &[3])?;
/// assert_eq!(graft_kernels::rms_norm(&x, None, 0.0)?.to_vec::<f32>()?, [1.0, 1.0, 1.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
    let fits = |weight: &Array| weight.dtype() == x.dtype() && weight.ndim() == 1;
    let width = x.shape().last();
    let suits = floats::is_known(x)
        && width.is_some()
        && weight.is_none_or(|weight| fits(weight) && weight.shape().last() == width);
    if !suits || !is_active()? {
        return fast::rms_norm(x, weight, eps);
    }
    normalize(RmsNorm { eps }, x, weight)
}

/// Adds an [`RmsNorm`] to the graph.
pub(crate) fn normalize(norm: RmsNorm, x: &Array, weight: Option<&Array>) -> Result<Array> {
    let inputs: Vec<&Array> = [x].into_iter().chain(weight).collect();
    Ok(apply(norm, &inputs)?.remove(0))
}

/// The normalisation of an array, times a weight if there is one.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct RmsNorm {
    pub(crate) eps: f32,
}

/// The derivative with respect to the array, of the array, the cotangent, and the weight if there
/// is one.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct RmsNormGrad(pub(crate) RmsNorm);

impl RmsNorm {
    /// The factor of a row.
    #[inline(always)]
    pub(crate) fn scale<S: Simd>(self, simd: S, x: &[f32]) -> f32 {
        1.0 / (lanes::dot(simd, x, x) / x.len() as f32 + self.eps).sqrt()
    }

    /// Writes the derivative with respect to a row, of the row and its cotangent.
    #[inline(always)]
    pub(crate) fn derivative<S: Simd>(
        self,
        simd: S,
        x: &[f32],
        g: &[f32],
        weight: Option<&[f32]>,
        dx: &mut [f32],
    ) {
        match weight {
            Some(weight) => {
                for ((dx, &g), &weight) in dx.iter_mut().zip(g).zip(weight) {
                    *dx = g * weight;
                }
            }
            None => dx.copy_from_slice(g),
        }
        let scale = self.scale(simd, x);
        // y = s x, and the slope of s along x is -s³ x / D.
        let along = lanes::dot(simd, dx, x) * scale * scale / x.len() as f32;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = scale * (*dx - x * along);
        }
    }

    /// The derivative with respect to the weight, of the array and the cotangent.
    pub(crate) fn derivative_to_weight(self, x: &Array, g: &Array) -> Result<Array> {
        // A sum over all rows, so it is taken of wider numbers.
        let wide = |x: &Array| ops::astype(x, Dtype::Float32);
        let slopes = ops::multiply(&normalize(self, &wide(x)?, None)?, &wide(g)?)?;
        ops::astype(&rows::sum_rows(&slopes)?, x.dtype())
    }
}

struct Forward<'a> {
    x: Floats<'a>,
    weight: Option<&'a [f32]>,
    width: usize,
    norm: RmsNorm,
}

impl RowKernel<1> for Forward<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, [x, ..]: &mut Scratch, [y]: [&mut [f32]; 1]) {
        let x = self.x.part(rows::range(index, self.width), x);
        let scale = self.norm.scale(simd, x);
        match self.weight {
            Some(weight) => {
                for ((y, &x), &weight) in y.iter_mut().zip(x).zip(weight) {
                    *y = x * scale * weight;
                }
            }
            None => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * scale),
        }
    }
}

struct Backward<'a> {
    x: Floats<'a>,
    g: Floats<'a>,
    weight: Option<&'a [f32]>,
    width: usize,
    norm: RmsNorm,
}

impl RowKernel<1> for Backward<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, [x, g, ..]: &mut Scratch, [dx]: [&mut [f32]; 1]) {
        let range = rows::range(index, self.width);
        let (x, g) = (self.x.part(range.clone(), x), self.g.part(range, g));
        self.norm.derivative(simd, x, g, self.weight, dx);
    }
}

impl Primitive for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let (x, weight) = (&inputs[0].shape, inputs.get(1).map(|weight| &weight.shape));
        if x.is_empty() || weight.is_some_and(|weight| weight.last() != x.last()) {
            return Err(Error::invalid_argument(
                Self::NAME,
                format!("an array of shape {x:?} does not fit a weight of shape {weight:?}"),
            ));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (weight, width) = (rows::vector(inputs.get(1))?, rows::width_of(&inputs[0]));
        let x = Floats::new(&inputs[0])?;
        rows::compute_last_axis(
            &Forward { x, weight: weight.as_deref(), width, norm: *self },
            outputs,
            width,
        )
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (x, g) = (&primals[0], &cotangents[0]);
        let with_respect_to = |&arg: &usize| {
            if arg == 0 {
                let inputs: Vec<&Array> = [x, g].into_iter().chain(primals.get(1)).collect();
                return Ok(apply(RmsNormGrad(*self), &inputs)?.remove(0));
            }
            self.derivative_to_weight(x, g)
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let (x, weight) = (&primals[0], primals.get(1));
        let normal = normalize(*self, x, None)?;
        let mut sum: Option<Array> = None;
        for (&arg, tangent) in argnums.iter().zip(tangents) {
            let part = if arg == 0 {
                // The Jacobian of a row without its weight is symmetric.
                let moved = apply(RmsNormGrad(*self), &[x, tangent])?.remove(0);
                weight.map_or(Ok(moved.clone()), |weight| ops::multiply(&moved, weight))?
            } else {
                ops::multiply(&normal, tangent)?
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
        // One more dimension is more rows, unless the weight has it too.
        if let [_, Some(_)] = axes {
            return rows::vmap(inputs, axes, |inputs| {
                let lengths: Vec<i32> = (1..inputs[0].ndim() as i32 - 1).collect();
                let weight = ops::expand_dims_axes(inputs[1], &lengths)?;
                Ok(vec![ops::multiply(&normalize(*self, inputs[0], None)?, &weight)?])
            });
        }
        let (x, axes) = rows::vmap(&inputs[..1], &axes[..1], |x| {
            let inputs: Vec<&Array> = x.iter().copied().chain(inputs.get(1)).collect();
            apply(*self, &inputs)
        })?;
        Ok((x, axes))
    }
}

impl Composed for RmsNormGrad {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let wide = |x: &Array| ops::astype(x, Dtype::Float32);
        let (x, g) = (&wide(&inputs[0])?, &wide(&inputs[1])?);
        let g = &match inputs.get(2) {
            Some(weight) => ops::multiply(g, &wide(weight)?)?,
            None => g.clone(),
        };
        let mean = ops::mean_axis(&ops::square(x)?, -1, true)?;
        let scale = ops::rsqrt(&ops::add(&mean, &Array::scalar(self.0.eps)?)?)?;
        let along = ops::mean_axis(&ops::multiply(g, x)?, -1, true)?;
        let along = ops::multiply(&along, &ops::square(&scale)?)?;
        let dx = ops::multiply(&scale, &ops::subtract(g, &ops::multiply(x, &along)?)?)?;
        Ok(vec![ops::astype(&dx, inputs[0].dtype())?])
    }
}

impl Primitive for RmsNormGrad {
    const NAME: &'static str = "rms_norm_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (weight, width) = (rows::vector(inputs.get(2))?, rows::width_of(&inputs[0]));
        let (x, g) = (Floats::new(&inputs[0])?, Floats::new(&inputs[1])?);
        rows::compute_last_axis(
            &Backward { x, g, weight: weight.as_deref(), width, norm: self.0 },
            outputs,
            width,
        )
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
