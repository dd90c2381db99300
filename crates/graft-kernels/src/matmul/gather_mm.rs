//! Products of matrices picked by indices.

mod kernel;

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, ops};

use super::{as_matrices, batch_of, have_common_length, matmul, transposed};
use crate::gather::{self, Given, Mapped};
use crate::{floats, is_active};
use kernel::{multiply, sum_products};

/// Products of matrices picked by indices, as `mlx.core.gather_mm`.
///
/// `a` is `(…, M, K)` and `b` `(…, K, N)`; the indices count the matrices of each over all leading
/// dimensions. The result has the shape that the indices broadcast to, then `(M, N)`. A stack
/// without indices gives all of its matrices in order. An `a` or `b` of one dimension is a row or
/// column as in [`matmul`].
///
/// Products of `float32`, `bfloat16` and `float16` on the CPU run here: those with the same matrix
/// of `b` as one product of all their rows, on the kernels' threads, with the kernels
/// of [`matmul`]. Whether the indices are sorted makes no difference. All others run through MLX's
/// own operation.
///
/// # Errors
/// Those of `mlx.core.gather_mm`: shapes that do not fit, indices that are no integers. An index
/// out of range fails the evaluation with [`Error::Index`].
///
/// ```
/// use mlx_graft::Array;
///
/// let a = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 1, 2])?;
/// let b = Array::from_slice(&[1.0_f32, 1.0, 0.0, 10.0], &[2, 2, 1])?;
/// let expert = Array::from_slice(&[1, 0], &[2])?;
/// let y = graft_kernels::gather_mm(&a, &b, None, Some(&expert), false)?;
/// assert_eq!(y.to_vec::<f32>()?, [20.0, 7.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn gather_mm(
    a: &Array,
    b: &Array,
    lhs_indices: Option<&Array>,
    rhs_indices: Option<&Array>,
    sorted_indices: bool,
) -> Result<Array> {
    let indices = [lhs_indices, rhs_indices];
    let Some(given) = Given::of(indices) else { return matmul(a, b) };
    // MLX words its own errors best, so what cannot be multiplied goes there too.
    let suits = floats::is_known(a)
        && floats::is_known(b)
        && gather::are_integers(indices)
        && have_common_length(a.shape(), b.shape())
        && gather::shape_of_products(
            [batch_of(a.shape()), batch_of(b.shape())],
            indices.map(|x| x.map(Array::shape)),
        )
        .is_some();
    if !suits || !is_active()? {
        return ops::gather_mm(a, b, lhs_indices, rhs_indices, sorted_indices);
    }
    let dtype = a.dtype().promote(b.dtype());
    let cast = |x: &Array| if x.dtype() == dtype { Ok(x.clone()) } else { ops::astype(x, dtype) };
    let [lhs, rhs] = [gather::readable(lhs_indices)?, gather::readable(rhs_indices)?];
    as_matrices(&cast(a)?, &cast(b)?, |a, b| {
        GatherMatmul { given }.apply([a, b].into_iter().chain(&lhs).chain(&rhs))
    })
}

/// The products of `a` and `b`, which have at least two dimensions, picked by the indices that are
/// given.
#[derive(Clone, Copy, PartialEq)]
struct GatherMatmul {
    given: Given,
}

/// The sums, for each matrix of a stack of this shape, of the products `aᵀ g` of all that is
/// multiplied with it: the derivative with respect to `b`, of `a`, the cotangent, and the indices.
#[derive(Clone, PartialEq)]
struct GatherMatmulGrad {
    given: Given,
    stack: Vec<i32>,
}

fn shape_of(spec: &ArraySpec) -> &[i32] {
    &spec.shape
}

fn wrong_shapes(op: &'static str, inputs: &[ArraySpec]) -> Error {
    let shapes: Vec<_> = inputs.iter().map(shape_of).collect();
    Error::invalid_argument(op, format!("arrays and indices of shape {shapes:?} do not fit"))
}

fn no_derivative(op: &'static str) -> Error {
    Error::invalid_argument(op, "indices have no derivative: pass them through stop_gradient")
}

impl GatherMatmul {
    fn apply<'a>(self, inputs: impl Iterator<Item = &'a Array>) -> Result<Array> {
        Ok(apply(self, &inputs.collect::<Vec<_>>())?.remove(0))
    }

    /// The derivative with respect to `a`, which has this shape.
    fn gradient_to_a(
        self,
        shape: &[i32],
        b: &Array,
        g: &Array,
        indices: &[Array],
    ) -> Result<Array> {
        let [lhs, rhs] = self.given.split(indices);
        let in_order = Self { given: Given { lhs: false, ..self.given } };
        let products = in_order.apply([g, &transposed(b)?].into_iter().chain(rhs))?;
        gather::sum_by(&products, lhs, shape)
    }
}

impl Primitive for GatherMatmul {
    const NAME: &'static str = "gather_mm";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let wrong = || wrong_shapes(Self::NAME, inputs);
        let [a, b, indices @ ..] = inputs else { return Err(wrong()) };
        let ([a_stack @ .., m, k], [b_stack @ .., l, n]) = (a.shape.as_slice(), b.shape.as_slice())
        else {
            return Err(wrong());
        };
        let indices = self.given.split(indices).map(|indices| indices.map(shape_of));
        let shape = gather::shape_of_products([a_stack, b_stack], indices).filter(|_| k == l);
        let mut shape = shape.ok_or_else(wrong)?;
        shape.extend([m, n]);
        Ok(vec![ArraySpec::new(shape, a.dtype)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (a, b, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        let [lhs, rhs] = self.given.split(&inputs[2..]);
        let shape = batch_of(out.shape());
        let lhs = gather::picked(Self::NAME, lhs, batch_of(a.shape()), shape)?;
        let rhs = gather::picked(Self::NAME, rhs, batch_of(b.shape()), shape)?;
        let picked = [lhs.as_slice(), rhs.as_slice()];
        match a.dtype() {
            Dtype::Bfloat16 => multiply::<bf16>([a.strided()?, b.strided()?], picked, out),
            Dtype::Float16 => multiply::<f16>([a.strided()?, b.strided()?], picked, out),
            _ => multiply::<f32>([a.strided()?, b.strided()?], picked, out),
        }
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (a, b, g, indices) = (&primals[0], &primals[1], &cotangents[0], &primals[2..]);
        let with_respect_to = |&arg: &usize| match arg {
            0 => self.gradient_to_a(a.shape(), b, g, indices),
            1 => {
                let stack = batch_of(b.shape()).to_vec();
                let inputs: Vec<&Array> = [a, g].into_iter().chain(indices).collect();
                Ok(apply(GatherMatmulGrad { given: self.given, stack }, &inputs)?.remove(0))
            }
            _ => Err(no_derivative(Self::NAME)),
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let (a, b, indices) = (&primals[0], &primals[1], &primals[2..]);
        sum_of_moved(argnums, tangents, |arg, tangent| match arg {
            0 => self.apply([tangent, b].into_iter().chain(indices)),
            1 => self.apply([a, tangent].into_iter().chain(indices)),
            _ => Err(no_derivative(Self::NAME)),
        })
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let (a, b) =
            (gather::to_front(&inputs[0], axes[0])?, gather::to_front(&inputs[1], axes[1])?);
        let given: Vec<_> = inputs[2..].iter().zip(axes[2..].iter().copied()).collect();
        let [lhs, rhs] = self.given.split(&given);
        let mapped = |i: usize, x, indices| Mapped {
            stack: batch_of(Array::shape(x)),
            leads: axes[i].is_some(),
            indices,
        };
        let length = gather::mapped_length(inputs, axes)?;
        let [lhs, rhs] = gather::mapped_indices(length, [mapped(0, &a, lhs), mapped(1, &b, rhs)])?;
        let product = Self { given: Given::BOTH }.apply([&a, &b, &lhs, &rhs].into_iter())?;
        Ok((vec![product], vec![Some(0)]))
    }

    fn layout(&self, input: usize) -> Layout {
        if input < 2 { Layout::Strided } else { Layout::RowContiguous }
    }
}

/// The sum of what moves as the inputs `argnums` do by `tangents`.
fn sum_of_moved(
    argnums: &[usize],
    tangents: &[Array],
    moved: impl Fn(usize, &Array) -> Result<Array>,
) -> Result<Vec<Array>> {
    let mut parts = argnums.iter().zip(tangents).map(|(&arg, tangent)| moved(arg, tangent));
    let first = parts.next().transpose()?;
    let sum = parts.try_fold(first, |sum, part| match sum {
        Some(sum) => ops::add(&sum, &part?).map(Some),
        None => part.map(Some),
    })?;
    Ok(sum.into_iter().collect())
}

impl GatherMatmulGrad {
    fn apply<'a>(&self, inputs: impl Iterator<Item = &'a Array>) -> Result<Array> {
        Ok(apply(self.clone(), &inputs.collect::<Vec<_>>())?.remove(0))
    }
}

impl Primitive for GatherMatmulGrad {
    const NAME: &'static str = "gather_mm_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let wrong = || wrong_shapes(Self::NAME, inputs);
        let [a, g, indices @ ..] = inputs else { return Err(wrong()) };
        let ([a_stack @ .., m, k], [batch @ .., l, n]) = (a.shape.as_slice(), g.shape.as_slice())
        else {
            return Err(wrong());
        };
        let indices = self.given.split(indices).map(|indices| indices.map(shape_of));
        let shape = gather::shape_of_products([a_stack, &self.stack], indices);
        if m != l || shape.is_none_or(|shape| shape != batch) {
            return Err(wrong());
        }
        Ok(vec![ArraySpec::new([self.stack.as_slice(), &[*k, *n]].concat(), a.dtype)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (a, g, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        let [lhs, rhs] = self.given.split(&inputs[2..]);
        let lhs = gather::picked(Self::NAME, lhs, batch_of(a.shape()), batch_of(g.shape()))?;
        let rhs = gather::picked(Self::NAME, rhs, &self.stack, batch_of(g.shape()))?;
        let picked = [lhs.as_slice(), rhs.as_slice()];
        match a.dtype() {
            Dtype::Bfloat16 => sum_products::<bf16>([a.strided()?, g.strided()?], picked, out),
            Dtype::Float16 => sum_products::<f16>([a.strided()?, g.strided()?], picked, out),
            _ => sum_products::<f32>([a.strided()?, g.strided()?], picked, out),
        }
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (a, g, of_b, indices) = (&primals[0], &primals[1], &cotangents[0], &primals[2..]);
        let product = GatherMatmul { given: self.given };
        let with_respect_to = |&arg: &usize| match arg {
            0 => product.gradient_to_a(a.shape(), of_b, g, indices),
            1 => product.apply([a, of_b].into_iter().chain(indices)),
            _ => Err(no_derivative(Self::NAME)),
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let (a, g, indices) = (&primals[0], &primals[1], &primals[2..]);
        sum_of_moved(argnums, tangents, |arg, tangent| match arg {
            0 => self.apply([tangent, g].into_iter().chain(indices)),
            1 => self.apply([a, tangent].into_iter().chain(indices)),
            _ => Err(no_derivative(Self::NAME)),
        })
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let (a, mut g) =
            (gather::to_front(&inputs[0], axes[0])?, gather::to_front(&inputs[1], axes[1])?);
        let length = gather::mapped_length(inputs, axes)?;
        if axes[1].is_none() {
            g = ops::broadcast_to(&g, &[&[length], g.shape()].concat())?;
        }
        let given: Vec<_> = inputs[2..].iter().zip(axes[2..].iter().copied()).collect();
        let [lhs, rhs] = self.given.split(&given);
        // The sums of each are apart.
        let stack = [&[length], self.stack.as_slice()].concat();
        let [lhs, rhs] = gather::mapped_indices(
            length,
            [
                Mapped { stack: batch_of(a.shape()), leads: axes[0].is_some(), indices: lhs },
                Mapped { stack: &stack, leads: true, indices: rhs },
            ],
        )?;
        let gradient = Self { given: Given::BOTH, stack };
        Ok((vec![gradient.apply([&a, &g, &lhs, &rhs].into_iter())?], vec![Some(0)]))
    }

    fn layout(&self, input: usize) -> Layout {
        if input < 2 { Layout::Strided } else { Layout::RowContiguous }
    }
}
