//! Linear layers: the products of the same rows and some transposed matrices.
#![allow(unsafe_code)]

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, ops};

use super::matrix::Matrix;
use super::problem::{self, Product};
use super::{matmul, multiply, to_front, transposed};
use crate::derivatives::{self, Composed};
use crate::low_rank::rows;
use crate::{floats, is_active};

/// `x @ w.T`: a linear layer, as `mlx.nn.Linear` without a bias.
///
/// `x` is `(…, I)` and `w` is `(O, I)`; the result is `(…, O)`. Where [`matmul`] multiplies arrays of
/// one dtype by a kernel, this is one operation instead of two, as the matrix is read transposed.
///
/// # Errors
/// Those of `mlx.core.matmul`, if the shapes do not fit.
///
/// ```
/// use mlx_graft::Array;
///
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[1, 2])?;
/// let w = Array::from_slice(&[1.0_f32, 1.0, 3.0, 0.0], &[2, 2])?;
/// assert_eq!(graft_kernels::linear(&x, &w)?.to_vec::<f32>()?, [3.0, 3.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn linear(x: &Array, w: &Array) -> Result<Array> {
    Ok(linear_each(x, &[w])?.remove(0))
}

/// [`linear`] of the same `x` and each of some matrices: the queries, keys and values of a layer.
///
/// Where [`linear`] is one operation, so is this. The threads share the work of all where there are
/// few rows, as in generation; that takes less time than several operations.
///
/// # Errors
/// Those of [`linear`].
///
/// ```
/// use mlx_graft::Array;
///
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[1, 2])?;
/// let w = Array::from_slice(&[1.0_f32, 1.0], &[1, 2])?;
/// let y = graft_kernels::linear_each(&x, &[&w, &w])?;
/// assert_eq!(y[1].to_vec::<f32>()?, [3.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn linear_each(x: &Array, ws: &[&Array]) -> Result<Vec<Array>> {
    if ws.iter().all(|w| suits(x, w)) && is_active()? {
        let inputs: Vec<&Array> = [x].into_iter().chain(ws.iter().copied()).collect();
        return apply(Linear, &inputs);
    }
    ws.iter().map(|w| matmul(x, &ops::transpose(w)?)).collect()
}

/// Whether there is a kernel for these arrays.
fn suits(x: &Array, w: &Array) -> bool {
    floats::is_known(x)
        && x.dtype() == w.dtype()
        && x.ndim() >= 2
        && w.ndim() == 2
        && w.shape()[1] > 0
        && x.shape().last() == w.shape().last()
}

/// The products of the first input and each of the others, transposed.
#[derive(Clone, Copy, PartialEq)]
struct Linear;

impl Composed for Linear {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        inputs[1..].iter().map(|w| multiply(&inputs[0], &transposed(w)?)).collect()
    }
}

impl Primitive for Linear {
    const NAME: &'static str = "linear";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let [x, ws @ ..] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs rows and matrices"));
        };
        let spec = |w: &ArraySpec| match (x.shape.as_slice(), w.shape.as_slice()) {
            ([batch @ .., k], [n, l]) if k == l => {
                Ok(ArraySpec::new([batch, &[*n]].concat(), x.dtype))
            }
            (x, w) => Err(Error::invalid_argument(
                Self::NAME,
                format!("rows of shape {x:?} do not fit a layer of shape {w:?}"),
            )),
        };
        ws.iter().map(spec).collect()
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        match inputs[0].dtype() {
            Dtype::Bfloat16 => write::<bf16>(inputs, outputs),
            Dtype::Float16 => write::<f16>(inputs, outputs),
            _ => write::<f32>(inputs, outputs),
        }
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let with_respect_to = |&arg: &usize| {
            if arg > 0 {
                return multiply(&transposed(&rows(&cotangents[arg - 1])?)?, &rows(&primals[0])?);
            }
            let mut sum: Option<Array> = None;
            for (g, w) in cotangents.iter().zip(&primals[1..]) {
                let product = multiply(g, w)?;
                sum = Some(match sum {
                    Some(sum) => ops::add(&sum, &product)?,
                    None => product,
                });
            }
            sum.map_or_else(|| ops::zeros_like(&primals[0]), Ok)
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
        let outputs = if axes[1..].iter().all(Option::is_none) {
            apply(*self, &moved.iter().collect::<Vec<_>>())?
        } else {
            self.composed(&moved)?
        };
        let mapped = |axis: &Option<i32>| (axes[0].is_some() || axis.is_some()).then_some(0);
        Ok((outputs, axes[1..].iter().map(mapped).collect()))
    }

    fn layout(&self, input: usize) -> Layout {
        if input == 0 { Layout::RowContiguous } else { Layout::Strided }
    }
}

/// Writes all products.
fn write<T: Product>(
    inputs: &[InputBuffer<'_>],
    outputs: &mut [OutputBuffer<'_>],
) -> Result<(), KernelError> {
    let x = inputs[0].as_slice::<T>()?;
    let k = *inputs[0].shape().last().ok_or_else(|| KernelError::new("rows have a length"))?;
    let x = Matrix::from_rows(x, x.len() / k as usize, k as usize);
    let mut products = Vec::with_capacity(outputs.len());
    for (w, output) in inputs[1..].iter().zip(outputs) {
        let w = Matrix::of(&w.strided::<T>()?, &[]);
        if output.size() > 0 {
            // SAFETY: all of it is written below.
            products.push((w.transposed(), unsafe { output.as_uninit_slice::<T>()? }));
        }
    }
    if products.is_empty() {
        return Ok(());
    }
    let columns = products.iter().map(|(w, _)| w.columns).sum();
    if T::multiply_few_rows(x, &mut products, problem::is_parallel(x.rows, x.columns, columns)) {
        return Ok(());
    }
    for (w, out) in products {
        T::multiply(x, w, out, problem::is_parallel(x.rows, x.columns, w.columns));
    }
    Ok(())
}
