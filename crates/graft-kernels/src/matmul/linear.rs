//! Linear layers: the products of the same rows and some transposed matrices.
#![allow(unsafe_code)]

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, ops, transforms};

use super::matrix::Matrix;
use super::problem::{self, Product, has_sums, write_sum};
use super::{matmul, multiply, to_front, transposed};
use crate::derivatives::{self, Composed, of_composed};
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
            let pairs = cotangents.iter().zip(&primals[1..]);
            let pairs: Vec<Array> = pairs.flat_map(|(g, w)| [g.clone(), w.clone()]).collect();
            let mut sum = match pairs.as_slice() {
                [] => return ops::zeros_like(&primals[0]),
                pairs if suits_sum(pairs) => {
                    apply(SumOfProducts, &pairs.iter().collect::<Vec<_>>())?
                }
                pairs => SumOfProducts.composed(pairs)?,
            };
            Ok(sum.remove(0))
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

/// The least rows, columns, and terms of each sum for which a sum of products is one operation.
const LEAST: [i32; 3] = [64, 128, 256];

/// Whether there is a kernel for the sum of the products of such pairs, and it is faster than several
/// operations.
fn suits_sum(pairs: &[Array]) -> bool {
    let [least_rows, least_columns, least_terms] = LEAST;
    let suits = |pair: &[Array]| {
        let &[terms, columns] = pair[1].shape() else { return false };
        terms >= least_terms
            && columns >= least_columns
            && pair[0].size() / terms as usize >= least_rows as usize
    };
    pairs.len() > 2 && has_sums() && pairs.chunks_exact(2).all(suits)
}

/// `g @ w + h @ v + …` of rows and matrices in pairs: the derivative of [`Linear`] with respect to its
/// rows. It is one product with long sums, and nothing is added in passes over arrays.
#[derive(Clone, Copy, PartialEq)]
struct SumOfProducts;

impl Composed for SumOfProducts {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let mut products = inputs.chunks_exact(2).map(|pair| multiply(&pair[0], &pair[1]));
        let first = products.next().transpose()?.into_iter().collect();
        products.try_fold(first, |sum: Vec<Array>, product| Ok(vec![ops::add(&sum[0], &product?)?]))
    }
}

impl Primitive for SumOfProducts {
    const NAME: &'static str = "matmul";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let fits = |pair: &[ArraySpec]| {
            let [g, w] = pair else { return None };
            let ([batch @ .., k], &[l, n]) = (&*g.shape, &*w.shape) else { return None };
            (*k == l).then(|| [batch, &[n]].concat())
        };
        let mut shapes = inputs.chunks(2).map(fits);
        let first = shapes.next().flatten();
        match first {
            Some(shape) if shapes.all(|other| other.as_ref() == Some(&shape)) => {
                Ok(vec![ArraySpec::new(shape, inputs[0].dtype)])
            }
            _ => Err(Error::invalid_argument(Self::NAME, "rows do not fit the layers' matrices")),
        }
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        match inputs[0].dtype() {
            Dtype::Bfloat16 => write_pairs::<bf16>(inputs, &mut outputs[0]),
            Dtype::Float16 => write_pairs::<f16>(inputs, &mut outputs[0]),
            _ => write_pairs::<f32>(inputs, &mut outputs[0]),
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

    fn layout(&self, input: usize) -> Layout {
        if input.is_multiple_of(2) { Layout::RowContiguous } else { Layout::Strided }
    }
}

/// Writes the sum of the products of pairs.
fn write_pairs<T: Product>(
    inputs: &[InputBuffer<'_>],
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    let mut products = Vec::with_capacity(inputs.len() / 2);
    for pair in inputs.chunks_exact(2) {
        let (g, w) = (pair[0].as_slice::<T>()?, pair[1].strided::<T>()?);
        let w = Matrix::of(&w, &[]);
        if !g.is_empty() {
            products.push([Matrix::from_rows(g, g.len() / w.rows, w.rows), w]);
        }
    }
    write_sum(&products, None, output)
}

/// Writes all products.
fn write<T: Product>(
    inputs: &[InputBuffer<'_>],
    outputs: &mut [OutputBuffer<'_>],
) -> Result<(), KernelError> {
    let x = inputs[0].as_slice::<T>()?;
    let k = *inputs[0].shape().last().ok_or_else(|| KernelError::new("rows have a length"))?;
    if k == 0 {
        // Where a trace without shapes meets sums of nothing.
        return outputs.iter_mut().try_for_each(|output| output.as_mut_slice::<T>().map(drop));
    }
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
