//! Matrix products of `float32`, `bfloat16` and `float16`.

mod adapted;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_few_rows;
#[cfg(target_arch = "x86_64")]
mod avx2_lanes;
#[cfg(target_arch = "x86_64")]
mod avx2_tile;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_lanes;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_pairs;
#[cfg(target_arch = "x86_64")]
mod avx512_panels;
#[cfg(target_arch = "x86_64")]
mod avx512_tile;
mod bfloat16;
#[cfg(target_arch = "x86_64")]
mod blocked;
pub(crate) mod converted;
#[cfg(target_arch = "x86_64")]
mod cuts;
pub(crate) mod factor;
#[cfg(target_arch = "x86_64")]
mod few_rows;
pub(crate) mod float32;
mod float32_product;
mod gather_mm;
mod gemv;
mod linear;
pub(crate) mod matrix;
#[cfg(target_arch = "x86_64")]
mod panels;
mod problem;
#[cfg(target_arch = "x86_64")]
mod skinny;
#[cfg(target_arch = "x86_64")]
mod soon;

pub use adapted::adapted_matmul;
pub(crate) use adapted::written;
pub(crate) use float32_product::float32_product;
pub use gather_mm::gather_mm;
pub use linear::{linear, linear_each};

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, ops};

use crate::low_rank::Base;
use crate::{floats, is_active};

use problem::Problem;

/// The matrix product of two arrays, as `mlx.core.matmul`.
///
/// Shapes `(…, M, K)` and `(…, K, N)` give `(…, M, N)`; the leading dimensions broadcast. An `a` of
/// one dimension is a row, a `b` of one dimension a column, and the result lacks that dimension.
///
/// Products of arrays of these dtypes on the CPU run here, in the wider of both, on the kernels'
/// threads; transposed and broadcast arrays are read where they lie. `float32` goes through kernels for
/// AVX-512 and AVX2 or the `gemm` crate, whichever is faster for the sizes. 16-bit numbers are added up in
/// `float32` and rounded once: `bfloat16` by AVX-512's own instructions where the processor has them
/// and they are fast, the rest in `float32` block by block. All others
/// run through MLX's own operation.
///
/// # Errors
/// Those of `mlx.core.matmul`: an array without dimensions, or shapes that do not fit.
///
/// ```
/// use mlx_graft::Array;
///
/// let a = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])?;
/// let x = Array::from_slice(&[1.0_f32, -1.0], &[2])?;
/// assert_eq!(graft_kernels::matmul(&a, &x)?.to_vec::<f32>()?, [-1.0, -1.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn matmul(a: &Array, b: &Array) -> Result<Array> {
    // MLX words its own errors best, so what cannot be multiplied goes there too.
    if !floats::is_known(a) || !floats::is_known(b) || !fits(a.shape(), b.shape()) || !is_active()?
    {
        return ops::matmul(a, b);
    }
    if a.dtype() != b.dtype() {
        let dtype = a.dtype().promote(b.dtype());
        return matmul(&ops::astype(a, dtype)?, &ops::astype(b, dtype)?);
    }
    as_matrices(a, b, multiply)
}

/// Multiplies arrays of which those of one dimension are a row and a column, and takes that
/// dimension from the product.
fn as_matrices(
    a: &Array,
    b: &Array,
    multiply: impl Fn(&Array, &Array) -> Result<Array>,
) -> Result<Array> {
    let row = (a.ndim() == 1).then(|| ops::expand_dims(a, 0)).transpose()?;
    let column = (b.ndim() == 1).then(|| ops::expand_dims(b, 1)).transpose()?;
    let product = multiply(row.as_ref().unwrap_or(a), column.as_ref().unwrap_or(b))?;
    match (row.is_some(), column.is_some()) {
        (false, false) => Ok(product),
        (true, false) => ops::squeeze_axes(&product, &[-2]),
        (false, true) => ops::squeeze_axes(&product, &[-1]),
        (true, true) => ops::squeeze_axes(&product, &[-2, -1]),
    }
}

/// Whether MLX would multiply these shapes.
fn fits(a: &[i32], b: &[i32]) -> bool {
    have_common_length(a, b) && broadcast(batch_of(a), batch_of(b)).is_some()
}

/// Whether the rows of `a` are as long as the columns of `b`.
fn have_common_length(a: &[i32], b: &[i32]) -> bool {
    let (Some(&inner), Some(&last)) = (a.last(), b.last()) else { return false };
    inner == if b.len() == 1 { last } else { b[b.len() - 2] }
}

/// The leading dimensions of a stack of matrices.
fn batch_of(shape: &[i32]) -> &[i32] {
    &shape[..shape.len().saturating_sub(2)]
}

/// The shape that two shapes broadcast to.
pub(crate) fn broadcast(a: &[i32], b: &[i32]) -> Option<Vec<i32>> {
    let ndim = a.len().max(b.len());
    let dim = |shape: &[i32], i: usize| (i + shape.len()).checked_sub(ndim).map_or(1, |i| shape[i]);
    (0..ndim)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// The product of arrays of at least two dimensions.
#[derive(Clone, Copy, PartialEq)]
struct Matmul;

/// Adds a [`Matmul`] to the graph.
fn multiply(a: &Array, b: &Array) -> Result<Array> {
    let mut outputs = apply(Matmul, &[a, b])?;
    Ok(outputs.remove(0))
}

/// Swaps the last two dimensions.
fn transposed(x: &Array) -> Result<Array> {
    ops::swapaxes(x, -1, -2)
}

/// A stack of matrices whose dimension `axis`, if one is mapped, comes first, before `ndim` others:
/// leading dimensions broadcast from the right, and the mapped one must stay leftmost.
fn to_front(x: &Array, axis: Option<i32>, ndim: usize) -> Result<Array> {
    let Some(axis) = axis else { return Ok(x.clone()) };
    let moved = ops::moveaxis(x, axis, 0)?;
    let missing: Vec<i32> = (1..=(ndim + 1 - moved.ndim()) as i32).collect();
    if missing.is_empty() { Ok(moved) } else { ops::expand_dims_axes(&moved, &missing) }
}

/// Sums the dimensions along which an array of `shape` was broadcast to become `x`. MLX sums in the
/// dtype of `x`, in which 16 bits stop to grow after some hundreds.
pub(crate) fn sum_to(x: &Array, shape: &[i32]) -> Result<Array> {
    if x.shape() == shape {
        return Ok(x.clone());
    }
    if matches!(x.dtype(), Dtype::Bfloat16 | Dtype::Float16) {
        let sum = sum_to(&ops::astype(x, Dtype::Float32)?, shape)?;
        return ops::astype(&sum, x.dtype());
    }
    let extra = x.ndim() - shape.len();
    let mut sum = x.clone();
    if extra > 0 {
        let axes: Vec<i32> = (0..extra as i32).collect();
        sum = ops::sum_axes(&sum, &axes, false)?;
    }
    let axes: Vec<i32> =
        (0..shape.len()).filter(|&i| shape[i] != sum.shape()[i]).map(|i| i as i32).collect();
    if axes.is_empty() { Ok(sum) } else { ops::sum_axes(&sum, &axes, true) }
}

impl Primitive for Matmul {
    const NAME: &'static str = "matmul";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let [a, b] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs two arrays"));
        };
        let (m, n) = match (a.shape.as_slice(), b.shape.as_slice()) {
            ([.., m, k], [.., l, n]) if k == l => (*m, *n),
            _ => return Err(mismatch(a, b)),
        };
        let mut shape =
            broadcast(batch_of(&a.shape), batch_of(&b.shape)).ok_or_else(|| mismatch(a, b))?;
        shape.extend([m, n]);
        Ok(vec![ArraySpec::new(shape, a.dtype)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (a, b, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        match a.dtype() {
            Dtype::Bfloat16 => Problem::<bf16>::new(a.strided()?, b.strided()?).solve(out),
            Dtype::Float16 => Problem::<f16>::new(a.strided()?, b.strided()?).solve(out),
            _ => Problem::<f32>::new(a.strided()?, b.strided()?).solve(out),
        }
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (a, b, cotangent) = (&primals[0], &primals[1], &cotangents[0]);
        let with_respect_to = |&arg: &usize| {
            if arg == 0 {
                sum_to(&multiply(cotangent, &transposed(b)?)?, a.shape())
            } else if b.ndim() == 2 && a.ndim() > 2 {
                // The sum over the leading dimensions is part of the product.
                let rows = ops::flatten(a, 0, -2)?;
                multiply(&transposed(&rows)?, &ops::flatten(cotangent, 0, -2)?)
            } else {
                sum_to(&multiply(&transposed(a)?, cotangent)?, b.shape())
            }
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let mut products = argnums.iter().zip(tangents).map(|(&arg, tangent)| {
            if arg == 0 { multiply(tangent, &primals[1]) } else { multiply(&primals[0], tangent) }
        });
        let first = products.next().transpose()?;
        let second = products.next().transpose()?;
        match (first, second) {
            (Some(x), Some(y)) => Ok(vec![ops::add(&x, &y)?]),
            (Some(x), None) => Ok(vec![x]),
            _ => Err(Error::invalid_argument(Self::NAME, "jvp without a tangent")),
        }
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        // Dimensions of one matrix stack, without the mapped one.
        let ndim = |i: usize| inputs[i].ndim() - usize::from(axes[i].is_some());
        let most = ndim(0).max(ndim(1));
        let front = |i: usize| to_front(&inputs[i], axes[i], most);
        Ok((vec![multiply(&front(0)?, &front(1)?)?], vec![Some(0)]))
    }

    fn layout(&self, _input: usize) -> Layout {
        Layout::Strided
    }
}

impl Base for Matmul {
    const UPDATED: &'static str = "adapted_matmul";

    fn matrices(self) -> usize {
        1
    }

    fn back(self, matrices: &[Array]) -> Result<(Self, Vec<Array>)> {
        Ok((self, vec![transposed(&matrices[0])?]))
    }
}

fn mismatch(a: &ArraySpec, b: &ArraySpec) -> Error {
    Error::invalid_argument(
        Matmul::NAME,
        format!("arrays of shape {:?} and {:?} cannot be multiplied", a.shape, b.shape),
    )
}
