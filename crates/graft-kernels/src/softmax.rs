//! The softmax of rows.
#![allow(clippy::inline_always)] // see `lanes`

use std::ops::Range;

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Dtype, Error, Result, ops};

use crate::floats::{self, Floats};
use crate::rows::{self, RowKernel, Scratch, no_derivative};
use crate::{is_active, lanes};

/// `exp(x) / sum(exp(x))` over the last axis, as `mlx.core.softmax` with `precise`.
///
/// `float32`, `bfloat16` and `float16` rows on the CPU are computed in `float32` and shared among the
/// threads of rayon's global pool. All others run through MLX's own operation.
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
    one(Softmax { causal: false }, &[x])
}

/// The softmax of attention in which no query sees a later key.
///
/// `scores` is `(…, T, S)` with `S ≥ T`: the queries are the last `T` of `S` positions, so that
/// query `i` sees key `j` if `j ≤ i + S - T`. The weight of every other key is 0.
///
/// Scores of the dtypes of [`softmax`] on the CPU are read where they are visible only. All others
/// run through MLX's `where` and `softmax`.
///
/// # Errors
/// Scores of less than two dimensions, or with fewer keys than queries.
///
/// ```
/// use mlx_graft::{Dtype, ops};
///
/// let weights = graft_kernels::causal_softmax(&ops::zeros(&[2, 2], Dtype::Float32)?)?;
/// assert_eq!(weights.to_vec::<f32>()?, [1.0, 0.0, 0.5, 0.5]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn causal_softmax(scores: &Array) -> Result<Array> {
    let primitive = Softmax { causal: true };
    primitive.check(scores.shape())?;
    if floats::is_known(scores) && is_active()? {
        return one(primitive, &[scores]);
    }
    let (queries, keys) = (scores.dim(-2)?, scores.dim(-1)?);
    let visible = ops::tri(queries, keys, keys - queries, Dtype::Bool)?;
    let hidden = ops::astype(&Array::scalar(f32::MIN)?, scores.dtype())?;
    ops::softmax_axis(&ops::where_(&visible, scores, &hidden)?, -1, true)
}

/// Adds a primitive of one output to the graph.
fn one<P: Primitive>(primitive: P, inputs: &[&Array]) -> Result<Array> {
    Ok(apply(primitive, inputs)?.remove(0))
}

/// The softmax over the last axis.
#[derive(Clone, Copy, PartialEq)]
struct Softmax {
    causal: bool,
}

/// `y (g - sum(g y))` of the softmax `y` and a vector `g`. The Jacobian of the softmax is
/// symmetric, so it is the product from both sides.
#[derive(Clone, Copy, PartialEq)]
struct SoftmaxGrad(Softmax);

impl Softmax {
    fn check(self, shape: &[i32]) -> Result<()> {
        match shape {
            [.., queries, keys] if self.causal && queries > keys => Err(Error::invalid_argument(
                Self::NAME,
                format!("causal scores of shape {shape:?} have fewer keys than queries"),
            )),
            [] | [_] if self.causal => Err(Error::invalid_argument(
                Self::NAME,
                format!("causal scores need the shape (…, queries, keys), not {shape:?}"),
            )),
            [] => Err(Error::invalid_argument(Self::NAME, "the array has no last axis")),
            _ => Ok(()),
        }
    }

    /// The parts of rows that are visible.
    fn visible(self, shape: &[i32]) -> Visible {
        let length = |from_end: usize| shape.iter().nth_back(from_end).map_or(1, |&n| n as usize);
        let width = length(0);
        if self.causal {
            Visible { width, queries: length(1), first: width - length(1) + 1 }
        } else {
            Visible { width, queries: 1, first: width }
        }
    }
}

/// Row `i` of `width` elements has `first + i % queries` visible ones, which come first.
#[derive(Clone, Copy)]
struct Visible {
    width: usize,
    queries: usize,
    first: usize,
}

impl Visible {
    /// Where the visible part of row `index` lies in an array.
    #[inline(always)]
    fn range(self, index: usize) -> Range<usize> {
        let start = index * self.width;
        start..start + self.first + index % self.queries
    }

    fn compute(
        self,
        kernel: &impl RowKernel<1>,
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let count = outputs[0].size().checked_div(self.width).unwrap_or(0);
        rows::compute(kernel, outputs, [self.width], count, self.width)
    }
}

struct Forward<'a> {
    x: Floats<'a>,
    visible: Visible,
}

impl RowKernel<1> for Forward<'_> {
    #[inline(always)]
    fn row(&self, index: usize, [x, ..]: &mut Scratch, [y]: [&mut [f32]; 1]) {
        let x = self.x.part(self.visible.range(index), x);
        let y = &mut y[..x.len()];
        let highest = lanes::maximum(x);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = lanes::exp(x - highest);
        }
        let scale = 1.0 / lanes::sum(y);
        for y in y {
            *y *= scale;
        }
    }
}

struct Backward<'a> {
    y: Floats<'a>,
    g: Floats<'a>,
    visible: Visible,
}

impl RowKernel<1> for Backward<'_> {
    #[inline(always)]
    fn row(&self, index: usize, [y, g, _]: &mut Scratch, [dx]: [&mut [f32]; 1]) {
        let range = self.visible.range(index);
        let (y, g) = (self.y.part(range.clone(), y), self.g.part(range, g));
        let dot = lanes::dot(y, g);
        for ((dx, &y), &g) in dx.iter_mut().zip(y).zip(g) {
            *dx = y * (g - dot);
        }
    }
}

impl Primitive for Softmax {
    const NAME: &'static str = "softmax";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        self.check(&inputs[0].shape)?;
        Ok(inputs.to_vec())
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let visible = self.visible(inputs[0].shape());
        visible.compute(&Forward { x: Floats::new(&inputs[0])?, visible }, outputs)
    }

    fn vjp(
        &self,
        _primals: &[Array],
        cotangents: &[Array],
        _argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>> {
        apply(SoftmaxGrad(*self), &[&outputs[0], &cotangents[0]])
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], _argnums: &[usize]) -> Result<Vec<Array>> {
        apply(SoftmaxGrad(*self), &[&one(*self, &[&primals[0]])?, &tangents[0]])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        rows::vmap(inputs, axes, |inputs| apply(*self, inputs))
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
        let visible = self.0.visible(inputs[0].shape());
        let (y, g) = (Floats::new(&inputs[0])?, Floats::new(&inputs[1])?);
        visible.compute(&Backward { y, g, visible }, outputs)
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[usize], _: &[Array]) -> Result<Vec<Array>> {
        no_derivative(Self::NAME, "vjp")
    }

    fn jvp(&self, _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        no_derivative(Self::NAME, "jvp")
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        rows::vmap(inputs, axes, |inputs| apply(*self, inputs))
    }
}
