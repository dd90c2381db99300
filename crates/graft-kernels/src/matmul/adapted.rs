//! The product with a weight that has a low-rank update.
#![allow(unsafe_code)]

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Element, Error, Result, ops};

use super::matrix::Matrix;
use super::problem::{Product, has_sums, write_sum};
use super::{Matmul, linear, multiply, to_front, transposed};
use crate::derivatives::{self, Composed};
use crate::low_rank::{self, Base, MOST_RANK, rows, scaled};
use crate::{floats, is_active};

/// The least rows, inputs and outputs for which it is one operation.
const LEAST: [i32; 3] = [64, 256, 128];

/// `x @ w.T + scale * (x @ a) @ b`: a linear layer with a low-rank update (Hu et al., 2021).
///
/// `x` is `(…, I)`, `w` is `(O, I)`, `a` is `(I, R)` and `b` is `(R, O)`; the result is `(…, O)`. Many
/// rows of arrays of one dtype, `float32`, `bfloat16` or `float16`, on the CPU are one product whose
/// sums have a few more terms, and so is the derivative with respect to `x`. With `a` and `b` of
/// `float32`, as mlx-lm has them for weights of any dtype, the update is added to the product in one
/// pass, before it is rounded once more. Otherwise it is rounded to the dtype of `x`, as mlx-lm does,
/// and added.
///
/// # Errors
/// Those of `mlx.core.matmul`, if the shapes do not fit.
///
/// ```
/// use mlx_graft::Array;
///
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[1, 2])?;
/// let w = Array::from_slice(&[1.0_f32, 1.0], &[1, 2])?;
/// let (a, b) = (Array::from_slice(&[1.0_f32, 0.0], &[2, 1])?, Array::from_slice(&[4.0_f32], &[1, 1])?);
/// assert_eq!(graft_kernels::adapted_matmul(&x, &w, &a, &b, 0.5)?.to_vec::<f32>()?, [5.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn adapted_matmul(x: &Array, w: &Array, a: &Array, b: &Array, scale: f32) -> Result<Array> {
    if suits([x, w, a, b]) && is_active()? {
        return Adapted { scale }.apply([x, w, a, b]);
    }
    if are_multiplied_as_they_are(x, w)
        && is_active()?
        && let Some(y) = low_rank::updated(Matmul, x, &[&transposed(w)?], [a, b], scale)?
    {
        return Ok(y);
    }
    low_rank::add_update(&linear(x, w)?, x, [a, b], scale)
}

/// Whether there is a kernel for these arrays, and it is faster than several operations.
fn suits([x, w, a, b]: [&Array; 4]) -> bool {
    let (Some(&inputs), [outputs, _], [_, rank]) = (x.shape().last(), w.shape(), a.shape()) else {
        return false;
    };
    let [least_rows, least_inputs, least_outputs] = LEAST;
    floats::is_known(x)
        && [w, a, b].iter().all(|y| y.dtype() == x.dtype())
        && has_sums()
        && (1..=MOST_RANK).contains(rank)
        && inputs >= least_inputs
        && *outputs >= least_outputs
        && x.size() / inputs as usize >= least_rows as usize
        && w.shape() == [*outputs, inputs]
        && a.shape() == [inputs, *rank]
        && b.shape() == [*rank, *outputs]
}

/// Whether `x` and the transpose of `w` fit, and neither is converted.
fn are_multiplied_as_they_are(x: &Array, w: &Array) -> bool {
    x.dtype() == w.dtype() && w.ndim() == 2 && x.shape().last() == w.shape().last()
}

/// Computes a product, and returns its elements.
pub(crate) fn written<'a, T: Element>(
    product: impl Base,
    inputs: &[InputBuffer<'_>],
    outputs: &'a mut [OutputBuffer<'_>],
) -> Result<&'a mut [T], KernelError> {
    product.eval_cpu(inputs, outputs)?;
    // SAFETY: a `Base` that was evaluated has written all of it.
    Ok(unsafe { outputs[0].as_uninit_slice::<T>()?.assume_init_mut() })
}

/// The function of `x`, `w`, `a`, `b` and, as a fifth input that is no variable, `scale * x @ a`.
#[derive(Clone, Copy, PartialEq)]
struct Adapted {
    scale: f32,
}

impl Adapted {
    fn apply(self, [x, w, a, b]: [&Array; 4]) -> Result<Array> {
        let inner = ops::stop_gradient(&self.inner(x, a)?)?;
        Ok(apply(self, &[x, w, a, b, &inner])?.remove(0))
    }

    /// `scale * x @ a`.
    fn inner(self, x: &Array, a: &Array) -> Result<Array> {
        scaled(&multiply(x, a)?, self.scale)
    }
}

impl Composed for Adapted {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let [x, w, a, b, _] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs five arrays"));
        };
        let update = multiply(&self.inner(x, a)?, b)?;
        Ok(vec![ops::add(&multiply(x, &transposed(w)?)?, &update)?])
    }
}

impl Primitive for Adapted {
    const NAME: &'static str = "adapted_matmul";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let [x, w, ..] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs five arrays"));
        };
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = w.shape[0];
        }
        Ok(vec![ArraySpec::new(shape, x.dtype)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        match inputs[0].dtype() {
            Dtype::Bfloat16 => write::<bf16>(inputs, &mut outputs[0]),
            Dtype::Float16 => write::<f16>(inputs, &mut outputs[0]),
            _ => write::<f32>(inputs, &mut outputs[0]),
        }
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let ([x, w, a, b, inner], g) = ([0, 1, 2, 3, 4].map(|i| &primals[i]), &cotangents[0]);
        // The same function, of the cotangent and of the transposed matrices.
        let transposed_a = transposed(a)?;
        let transposed_b = transposed(b)?;
        let with_respect_to = |&arg: &usize| match arg {
            0 => self.apply([g, &transposed(w)?, &transposed_b, &transposed_a]),
            1 => multiply(&transposed(&rows(g)?)?, &rows(x)?),
            2 => multiply(&transposed(&rows(x)?)?, &rows(&self.inner(g, &transposed_b)?)?),
            // Computed before; what it depends on is differentiated too.
            3 => multiply(&transposed(&rows(&self.inner(x, a)?)?)?, &rows(g)?),
            _ => ops::zeros_like(inner),
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
        let ndim = inputs[0].ndim() - usize::from(axes[0].is_some());
        let moved = inputs.iter().zip(axes).map(|(x, &axis)| to_front(x, axis, ndim));
        let moved = moved.collect::<Result<Vec<_>>>()?;
        let outputs = if axes[1..4].iter().all(Option::is_none) {
            let [x, w, a, b] = [0, 1, 2, 3].map(|i| &moved[i]);
            vec![self.apply([x, w, a, b])?]
        } else {
            self.composed(&moved)?
        };
        Ok((outputs, vec![Some(0)]))
    }

    fn layout(&self, input: usize) -> Layout {
        // The rows of `x`, and what was made of them.
        if matches!(input, 0 | 4) { Layout::RowContiguous } else { Layout::Strided }
    }
}

/// Writes `x @ w.T + inner @ b`.
fn write<T: Product>(
    inputs: &[InputBuffer<'_>],
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    let [x, w, _, b, inner] = inputs else {
        return Err(KernelError::new("an adapted product has five inputs"));
    };
    let w = Matrix::of(&w.strided::<T>()?, &[]);
    let b = Matrix::of(&b.strided::<T>()?, &[]);
    if w.columns == 0 {
        return write_sum::<T>(&[], None, output);
    }
    let rows = x.size() / w.columns;
    let x = Matrix::from_rows(x.as_slice::<T>()?, rows, w.columns);
    let inner = Matrix::from_rows(inner.as_slice::<T>()?, rows, b.rows);
    write_sum(&[[x, w.transposed()]], Some([inner, b]), output)
}
