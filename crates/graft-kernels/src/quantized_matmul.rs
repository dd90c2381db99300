//! Products with quantized matrices.

mod adapted;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_codes;
#[cfg(target_arch = "x86_64")]
mod avx2_many_rows;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod codes;
mod each;
mod few_rows;
mod format;
mod gather_qmm;
mod many_rows;
#[cfg(target_arch = "x86_64")]
mod multiples;
mod operands;
mod output;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod product;
#[cfg(target_arch = "x86_64")]
mod row_sums;
mod solve;
mod unpack;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub use adapted::adapted_quantized_matmul;
pub use each::{Packed, quantized_matmul_each};
pub use gather_qmm::gather_qmm;

use mlx_graft::ops::QuantizedMatmulOptions;
use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Dtype, Error, Result, ops};

use crate::floats::{self, Floats};
use crate::low_rank::Base;
use crate::matmul::{broadcast, sum_to};
use crate::{derivatives, is_active};
use format::Format;
use operands::Weight;

/// The product of `x` and a quantized matrix, as `mlx.core.quantized_matmul`.
///
/// `w`, `scales` and `biases` are what `mlx.core.quantize` returns for a matrix of shape `(N, K)`
/// if `transpose`, and `(K, N)` otherwise; `x` is `(…, M, K)` and the result `(…, M, N)`. Stacks of
/// quantized matrices broadcast with an `x` of at least three dimensions. `group_size` and `bits`
/// default to those of `mode`.
///
/// Products of `float32`, `bfloat16` and `float16` on the CPU run here, in all modes, on the
/// kernels' threads: sums are of `float32` and rounded once, to the dtype that MLX
/// gives. With many rows, pieces of the quantized matrix are unpacked as they are needed and
/// multiplied as matrices of `float32`, or rounded to `bfloat16`, if that is the dtype of `x` and the
/// processor multiplies it faster; with few rows, numbers are unpacked where they are multiplied,
/// in AVX-512's or AVX2's registers where the processor has them. There, codes meet an `x` of 16-bit
/// numbers as whole numbers: in each group of `x`, numbers count in units of 2⁻¹³ of the
/// power of two below the largest, so that those of `bfloat16` within 2⁶ of it are exact. All
/// others run through MLX's own operation.
///
/// The gradient to `x` runs here too, those to `scales` and `biases` are MLX's.
///
/// # Errors
/// Those of `mlx.core.quantized_matmul`: shapes that do not fit the mode, bits and group size.
///
/// ```
/// use mlx_graft::{Dtype, ops};
///
/// let w = ops::ones(&[8, 64], Dtype::Float32)?;
/// let packed = ops::quantize(&w, &ops::QuantizeOptions::default())?;
/// let x = ops::ones(&[2, 64], Dtype::Float32)?;
/// let options = ops::QuantizedMatmulOptions::default().biases(&packed[2]);
/// let y = graft_kernels::quantized_matmul(&x, &packed[0], &packed[1], &options)?;
/// assert_eq!(y.to_vec::<f32>()?, [64.0; 16]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    options: &QuantizedMatmulOptions<'_>,
) -> Result<Array> {
    let &QuantizedMatmulOptions { biases, transpose, group_size, bits, mode, .. } = options;
    let format = Format::new(mode, group_size, bits);
    let Some(format) = format.filter(|format| fits(x, w, scales, biases, transpose, *format))
    else {
        return ops::quantized_matmul(x, w, scales, options);
    };
    if !is_active()? {
        return ops::quantized_matmul(x, w, scales, options);
    }
    let dtype = dtype_of(x, scales, biases);
    let cast;
    let x = if x.dtype() == dtype {
        x
    } else {
        cast = ops::astype(x, dtype)?;
        &cast
    };
    let primitive = QuantizedMatmul { format, transpose };
    match biases {
        Some(biases) => primitive.apply(&[x, w, scales, biases]),
        None => primitive.apply(&[x, w, scales]),
    }
}

/// The dtype that MLX computes with.
fn dtype_of(x: &Array, scales: &Array, biases: Option<&Array>) -> Dtype {
    let wider = |a: Dtype, b: Dtype| if a == b { a } else { Dtype::Float32 };
    biases.map_or(x.dtype(), |biases| wider(x.dtype(), wider(scales.dtype(), biases.dtype())))
}

/// The rows and columns of quantized matrices, if the arrays are such.
fn packed_shape(
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    format: Format,
) -> Option<[i32; 2]> {
    let dtypes = w.dtype() == Dtype::Uint32
        && match biases {
            Some(biases) => {
                format.has_biases()
                    && floats::is_known(scales)
                    && floats::is_known(biases)
                    && scales.shape() == biases.shape()
            }
            None => !format.has_biases() && scales.dtype() == Dtype::Uint8,
        };
    let ([batch @ .., rows, words], [scale_batch @ .., scale_rows, groups]) =
        (w.shape(), scales.shape())
    else {
        return None;
    };
    let columns = format.columns(*words)?;
    let of_scales = i64::from(*groups) * format.group_size as i64;
    let fits = batch == scale_batch && rows == scale_rows && i64::from(columns) == of_scales;
    (dtypes && fits).then_some([*rows, columns])
}

/// Whether the arrays are what this module multiplies. MLX words errors best, so what cannot be
/// multiplied goes there too.
fn fits(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    transpose: bool,
    format: Format,
) -> bool {
    let Some([rows, columns]) = packed_shape(w, scales, biases, format) else { return false };
    let Some((&length, x_batch)) = x.shape().split_last() else { return false };
    let batch = stack_of(w.shape());
    floats::is_known(x)
        && length == if transpose { columns } else { rows }
        // MLX takes the first of a stack of quantized matrices for an `x` that is none.
        && (batch.is_empty() || x_batch.len() > 1)
        && broadcast(&x_batch[..x_batch.len().saturating_sub(1)], batch).is_some()
}

/// The product of `x`, of the dtype of the result, and a quantized matrix: the packed words, the
/// scales and, in affine mode, the biases.
#[derive(Clone, Copy, PartialEq)]
struct QuantizedMatmul {
    format: Format,
    transpose: bool,
}

impl QuantizedMatmul {
    fn apply(self, inputs: &[&Array]) -> Result<Array> {
        Ok(apply(self, inputs)?.remove(0))
    }

    /// The product with another `x`.
    fn of(self, x: &Array, inputs: &[Array]) -> Result<Array> {
        let mut inputs: Vec<&Array> = inputs.iter().collect();
        inputs[0] = x;
        self.apply(&inputs)
    }

    /// MLX's own operation.
    fn of_mlx(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let [x, w, scales, biases @ ..] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs three or four arrays"));
        };
        let options = QuantizedMatmulOptions::default()
            .biases(biases.first())
            .transpose(self.transpose)
            .group_size(self.format.group_size as i32)
            .bits(self.format.bits as i32)
            .mode(self.format.mode_name());
        Ok(vec![ops::quantized_matmul(x, w, scales, &options)?])
    }
}

impl Base for QuantizedMatmul {
    const UPDATED: &'static str = "adapted_quantized_matmul";

    fn matrices(self) -> usize {
        2 + usize::from(self.format.has_biases())
    }

    fn back(self, matrices: &[Array]) -> Result<(Self, Vec<Array>)> {
        Ok((Self { transpose: !self.transpose, ..self }, matrices.to_vec()))
    }
}

impl Primitive for QuantizedMatmul {
    const NAME: &'static str = "quantized_matmul";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let ([batch @ .., rows, words], [x_batch @ .., length]) =
            (inputs[1].shape.as_slice(), inputs[0].shape.as_slice())
        else {
            return Err(Error::invalid_argument(Self::NAME, "arrays without dimensions"));
        };
        let columns = self.format.columns(*words);
        let [from, to] =
            if self.transpose { [columns, Some(*rows)] } else { [Some(*rows), columns] };
        let (x_batch, m) = match x_batch.split_last() {
            Some((m, x_batch)) => (x_batch, Some(*m)),
            None => (x_batch, None),
        };
        let shape = broadcast(x_batch, batch).filter(|_| Some(*length) == from);
        let (mut shape, to) = shape.zip(to).ok_or_else(|| {
            let (x, w) = (&inputs[0].shape, &inputs[1].shape);
            let text = format!("arrays of shape {x:?} and {w:?} (packed) cannot be multiplied");
            Error::invalid_argument(Self::NAME, text)
        })?;
        shape.extend(m);
        shape.push(to);
        Ok(vec![ArraySpec::new(shape, inputs[0].dtype)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let x = Floats::new(&inputs[0])?;
        let weight = Weight::new(self.format, &inputs[1..])?;
        let stacks = [stack_of(inputs[0].shape()), stack_of(inputs[1].shape())];
        solve::solve(x, stacks, &weight, self.transpose, &mut outputs[0])
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let this = *self;
        let with_respect_to = |&arg: &usize| {
            if arg == 0 {
                let other = Self { transpose: !self.transpose, ..*self };
                return sum_to(&other.of(&cotangents[0], primals)?, primals[0].shape());
            }
            let of_mlx = move |inputs: &[Array]| this.of_mlx(inputs);
            Ok(derivatives::vjp(of_mlx, primals, cotangents, &[arg])?.remove(0))
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        if argnums == [0] {
            return Ok(vec![self.of(&tangents[0], primals)?]);
        }
        let this = *self;
        derivatives::jvp(move |inputs| this.of_mlx(inputs), primals, tangents, argnums)
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let dims = |i: usize| inputs[i].ndim() - usize::from(axes[i].is_some());
        // A row becomes a matrix of one row, so that leading dimensions are stacks.
        let is_row = dims(0) == 1;
        let most = dims(0).max(dims(1));
        // Words, scales and biases are stacks of one shape.
        let packed = axes[1..].iter().any(Option::is_some);
        let length = inputs.iter().zip(axes).find_map(|(x, axis)| axis.map(|axis| x.dim(axis)));
        let length = length.transpose()?;
        let to_front = |i: usize| -> Result<Array> {
            let (x, mapped) = match (axes[i], length) {
                (Some(axis), _) => (ops::moveaxis(&inputs[i], axis, 0)?, true),
                (None, Some(length)) if i > 0 && packed => {
                    let shape: Vec<i32> =
                        [length].iter().chain(inputs[i].shape()).copied().collect();
                    (ops::broadcast_to(&inputs[i], &shape)?, true)
                }
                _ => (inputs[i].clone(), false),
            };
            // Leading dimensions broadcast from the right: the mapped one must stay leftmost.
            let missing: Vec<i32> = match mapped {
                true => (1..=(most - dims(i)) as i32).collect(),
                false if i == 0 && is_row => vec![0],
                false => Vec::new(),
            };
            if missing.is_empty() { Ok(x) } else { ops::expand_dims_axes(&x, &missing) }
        };
        let inputs = (0..inputs.len()).map(to_front).collect::<Result<Vec<_>>>()?;
        let mut product = self.apply(&inputs.iter().collect::<Vec<_>>())?;
        if is_row {
            product = ops::squeeze_axes(&product, &[-2])?;
        }
        Ok((vec![product], vec![Some(0)]))
    }
}

/// The dimensions that stack matrices.
fn stack_of(shape: &[i32]) -> &[i32] {
    &shape[..shape.len().saturating_sub(2)]
}
