//! Products with quantized matrices picked by indices.

use mlx_graft::ops::{GatherQmmOptions, QuantizedMatmulOptions};
use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Error, Result, ops};

use super::format::Format;
use super::operands::Weight;
use super::{dtype_of, packed_shape, quantized_matmul, solve, stack_of};
use crate::floats::Floats;
use crate::gather::{self, Given, Mapped};
use crate::{derivatives, floats, is_active};

/// Products of matrices of `x` and quantized matrices, picked by indices, as `mlx.core.gather_qmm`.
///
/// `w`, `scales` and `biases` are what `mlx.core.quantize` returns for a stack of matrices `(N, K)`
/// if `transpose`, and `(K, N)` otherwise; `x` is `(…, M, K)`. The indices count the matrices of
/// `x` and `w` over all leading dimensions; the result has the shape that they broadcast to, then
/// `(M, N)`. A stack without indices gives all of its matrices in order.
///
/// Products of `float32`, `bfloat16` and `float16` on the CPU run here, in all modes: those with
/// the same quantized matrix as one product of all their rows, by the kernels of
/// [`quantized_matmul`](crate::quantized_matmul), so that each matrix is unpacked once. Whether the
/// indices are sorted makes no difference. All others run through MLX's own operation.
///
/// The gradient to `x` runs here too, those to `scales` and `biases` are MLX's.
///
/// # Errors
/// Those of `mlx.core.gather_qmm`: shapes that do not fit the mode, bits and group size, indices
/// that are no integers. An index out of range fails the evaluation with [`Error::Index`].
///
/// ```
/// use mlx_graft::{Array, Dtype, ops};
///
/// let experts = ops::ones(&[3, 8, 64], Dtype::Float32)?;
/// let packed = ops::quantize(&experts, &ops::QuantizeOptions::default())?;
/// let x = ops::ones(&[2, 1, 64], Dtype::Float32)?;
/// let picked = Array::from_slice(&[2, 0], &[2])?;
/// let options = ops::GatherQmmOptions::default().biases(&packed[2]).rhs_indices(&picked);
/// let y = graft_kernels::gather_qmm(&x, &packed[0], &packed[1], &options)?;
/// assert_eq!(y.to_vec::<f32>()?, [64.0; 16]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    options: &GatherQmmOptions<'_>,
) -> Result<Array> {
    let &GatherQmmOptions { biases, lhs_indices, rhs_indices, transpose, .. } = options;
    let &GatherQmmOptions { group_size, bits, mode, .. } = options;
    let indices = [lhs_indices, rhs_indices];
    let Some(given) = Given::of(indices) else {
        let options = QuantizedMatmulOptions::default()
            .biases(biases)
            .transpose(transpose)
            .group_size(group_size)
            .bits(bits)
            .mode(mode);
        return quantized_matmul(x, w, scales, &options);
    };
    let suits = |format: &Format| {
        let Some([rows, columns]) = packed_shape(w, scales, biases, *format) else { return false };
        floats::is_known(x)
            && gather::are_integers(indices)
            && x.ndim() > 1
            && x.shape().last() == Some(if transpose { &columns } else { &rows })
            && gather::shape_of_products(
                [stack_of(x.shape()), stack_of(w.shape())],
                indices.map(|x| x.map(Array::shape)),
            )
            .is_some()
    };
    let Some(format) = Format::new(mode, group_size, bits).filter(suits) else {
        return ops::gather_qmm(x, w, scales, options);
    };
    if !is_active()? {
        return ops::gather_qmm(x, w, scales, options);
    }
    let x = ops::astype(x, dtype_of(x, scales, biases))?;
    let [lhs, rhs] = [gather::readable(lhs_indices)?, gather::readable(rhs_indices)?];
    let inputs = [&x, w, scales].into_iter().chain(biases).chain(&lhs).chain(&rhs);
    GatherQmm { format, transpose, given }.apply(inputs)
}

/// The products of `x`, of the dtype of the result, and quantized matrices: the packed words, the
/// scales and, in affine mode, the biases; then the indices that are given.
#[derive(Clone, Copy, PartialEq)]
struct GatherQmm {
    format: Format,
    transpose: bool,
    given: Given,
}

impl GatherQmm {
    fn apply<'a>(self, inputs: impl Iterator<Item = &'a Array>) -> Result<Array> {
        Ok(apply(self, &inputs.collect::<Vec<_>>())?.remove(0))
    }

    /// The number of the first of the indices among the inputs.
    fn first_index(self) -> usize {
        3 + usize::from(self.format.has_biases())
    }

    /// `x`, what is packed, and the indices.
    fn split<T>(self, inputs: &[T]) -> (&T, &[T], [Option<&T>; 2]) {
        let (packed, indices) = inputs[1..].split_at(self.first_index() - 1);
        (&inputs[0], packed, self.given.split(indices))
    }

    /// MLX's own operation.
    fn of_mlx(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let (x, packed, [lhs, rhs]) = self.split(inputs);
        let options = GatherQmmOptions::default()
            .biases(packed.get(2))
            .lhs_indices(lhs)
            .rhs_indices(rhs)
            .transpose(self.transpose)
            .group_size(self.format.group_size as i32)
            .bits(self.format.bits as i32)
            .mode(self.format.mode_name());
        Ok(vec![ops::gather_qmm(x, &packed[0], &packed[1], &options)?])
    }
}

impl Primitive for GatherQmm {
    const NAME: &'static str = "gather_qmm";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let (x, packed, indices) = self.split(inputs);
        let specs = || -> Option<Vec<i32>> {
            let ([x_stack @ .., m, length], [stack @ .., rows, words]) =
                (x.shape.as_slice(), packed[0].shape.as_slice())
            else {
                return None;
            };
            let columns = self.format.columns(*words)?;
            let (from, to) = if self.transpose { (columns, *rows) } else { (*rows, columns) };
            let indices = indices.map(|indices| indices.map(|spec| spec.shape.as_slice()));
            let mut shape = gather::shape_of_products([x_stack, stack], indices)?;
            shape.extend([*m, to]);
            (from == *length).then_some(shape)
        };
        let shape = specs().ok_or_else(|| {
            let shapes: Vec<_> = inputs.iter().map(|spec| &spec.shape).collect();
            let text = format!("arrays and indices of shape {shapes:?} do not fit");
            Error::invalid_argument(Self::NAME, text)
        })?;
        Ok(vec![ArraySpec::new(shape, x.dtype)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (x, packed, [lhs, rhs]) = self.split(inputs);
        let (stack, shape) = (stack_of(packed[0].shape()), stack_of(outputs[0].shape()));
        let lhs = gather::picked(Self::NAME, lhs, stack_of(x.shape()), shape)?;
        let rhs = gather::picked(Self::NAME, rhs, stack, shape)?;
        let m = x.shape()[x.shape().len() - 2] as usize;
        let weight = Weight::new(self.format, packed)?;
        let count = stack.iter().product::<i32>() as usize;
        solve::solve_picked(
            Floats::new(x)?,
            m,
            [&lhs, &rhs],
            (&weight, count),
            self.transpose,
            &mut outputs[0],
        )
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (x, packed, [lhs, rhs]) = self.split(primals);
        let this = *self;
        let with_respect_to = |&arg: &usize| {
            if arg == 0 {
                let given = Given { lhs: false, ..self.given };
                let other = Self { transpose: !self.transpose, given, ..*self };
                let inputs = [&cotangents[0]].into_iter().chain(packed).chain(rhs);
                return gather::sum_by(&other.apply(inputs)?, lhs, x.shape());
            }
            let of_mlx = move |inputs: &[Array]| this.of_mlx(inputs);
            Ok(derivatives::vjp(of_mlx, primals, cotangents, &[arg])?.remove(0))
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        if argnums == [0] {
            return Ok(vec![self.apply([&tangents[0]].into_iter().chain(&primals[1..]))?]);
        }
        let this = *self;
        derivatives::jvp(move |inputs| this.of_mlx(inputs), primals, tangents, argnums)
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let length = gather::mapped_length(inputs, axes)?;
        let first_index = self.first_index();
        let x = gather::to_front(&inputs[0], axes[0])?;
        // Words, scales and biases are stacks of one shape.
        let is_mapped = axes[1..first_index].iter().any(Option::is_some);
        let packed = inputs[1..first_index].iter().zip(&axes[1..first_index]);
        let packed = packed.map(|(x, &axis)| match axis {
            None if is_mapped => ops::broadcast_to(x, &[&[length], x.shape()].concat()),
            _ => gather::to_front(x, axis),
        });
        let packed = packed.collect::<Result<Vec<_>>>()?;
        let given: Vec<_> =
            inputs[first_index..].iter().zip(axes[first_index..].iter().copied()).collect();
        let [lhs, rhs] = self.given.split(&given);
        let [lhs, rhs] = gather::mapped_indices(
            length,
            [
                Mapped { stack: stack_of(x.shape()), leads: axes[0].is_some(), indices: lhs },
                Mapped { stack: stack_of(packed[0].shape()), leads: is_mapped, indices: rhs },
            ],
        )?;
        let inputs = [&x].into_iter().chain(&packed).chain([&lhs, &rhs]);
        Ok((vec![Self { given: Given::BOTH, ..*self }.apply(inputs)?], vec![Some(0)]))
    }
}
