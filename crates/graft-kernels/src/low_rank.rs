//! Products with frozen matrices of any kind that a low-rank update of `float32` is added to, as
//! mlx-lm's adapters of 16-bit and of quantized weights are.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, ops, transforms};
use pulp::{Simd, WithSimd};

use crate::derivatives::{self, Composed};
use crate::floats::{self, Float};
use crate::isa;
use crate::matmul::matrix::Matrix;
use crate::matmul::{float32_product, matmul, written};
use crate::tasks;

/// The largest rank for which it is one operation.
pub(crate) const MOST_RANK: i32 = 128;

/// Rows that are added to at once, so that the update's are read once for all of them.
const ROWS: usize = 4;

/// Numbers of a row that are added to at once, on the stack.
const COLUMNS: usize = 256;

/// Rows of a task.
const ROWS_OF_A_TASK: usize = 16 * ROWS;

/// Products of the update below which a second thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 18;

/// A product of the first input and of matrices, which are the others. Where its evaluation returns
/// `Ok`, it has written all of its one output.
pub(crate) trait Base: Primitive + Copy + PartialEq {
    /// The name of the product with an update.
    const UPDATED: &'static str;

    /// The number of matrices.
    fn matrices(self) -> usize;

    /// The product that passes derivatives back, and its matrices.
    fn back(self, matrices: &[Array]) -> Result<(Self, Vec<Array>)>;
}

/// `product(x) + scale * (x @ a) @ b`, if that is one operation of these arrays: `x` is `(…, I)`, `a`
/// is `(I, R)` and `b` is `(R, O)`, both of `float32`, and the product is `(…, O)`, of the dtype of
/// `x`.
pub(crate) fn updated<B: Base>(
    base: B,
    x: &Array,
    matrices: &[&Array],
    [a, b]: [&Array; 2],
    scale: f32,
) -> Result<Option<Array>> {
    let (&[inputs, rank], &[inner, outputs]) = (a.shape(), b.shape()) else { return Ok(None) };
    let suits = floats::is_known(x)
        && [a, b].iter().all(|y| y.dtype() == Dtype::Float32)
        && x.ndim() >= 2
        && x.shape().last() == Some(&inputs)
        && rank == inner
        && (1..=MOST_RANK).contains(&rank)
        && x.size() > 0
        && outputs > 0;
    if !suits {
        return Ok(None);
    }
    let spec = |x: &&Array| ArraySpec::new(x.shape(), x.dtype());
    let specs: Vec<ArraySpec> = [x].iter().chain(matrices).map(spec).collect();
    if base.output_specs(&specs)?[0].shape.last() != Some(&outputs) {
        return Ok(None);
    }
    let matrices: Vec<Array> = matrices.iter().copied().cloned().collect();
    LowRank { base, scale }.apply(x, &matrices, [a, b]).map(Some)
}

/// The function of `x`, the matrices, `a`, `b`, and `x @ a`, which is no variable. The scale is taken
/// last, as mlx-lm does, so that what it makes overflow is what would there.
#[derive(Clone, Copy, PartialEq)]
struct LowRank<B> {
    base: B,
    scale: f32,
}

impl<B: Base> LowRank<B> {
    fn apply(self, x: &Array, matrices: &[Array], [a, b]: [&Array; 2]) -> Result<Array> {
        let inner = ops::stop_gradient(&inner(x, a)?)?;
        let inputs = [x].into_iter().chain(matrices).chain([a, b, &inner]);
        let inputs: Vec<&Array> = inputs.collect();
        Ok(apply(self, &inputs)?.remove(0))
    }

    /// Writes the product, and adds that of `inner` and `b`, times the scale.
    fn compute<T: Float + Send + Sync>(
        self,
        product: &[InputBuffer<'_>],
        [b, inner]: [&InputBuffer<'_>; 2],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let out = written::<T>(self.base, product, outputs)?;
        let (inner, b) = (inner.as_slice::<f32>()?, b.strided::<f32>()?);
        let (b, mut update) = (Matrix::of(&b, &[]), Vec::new());
        b.append_to(&mut update);
        let (rank, columns) = (b.rows, b.columns);
        if out.is_empty() || rank == 0 {
            return Ok(());
        }
        let parallel = inner.len() * columns >= PARALLEL_FROM;
        tasks::for_each_chunk(out, ROWS_OF_A_TASK * columns, parallel, |task, out| {
            let inner = &inner[task * ROWS_OF_A_TASK * rank..][..out.len() / columns * rank];
            isa::arch().dispatch(Add { inner, update: &update, columns, scale: self.scale, out });
        });
        Ok(())
    }
}

/// `y + scale * (x @ a) @ b` by several operations: the update is rounded to the dtype of `x`, as
/// mlx-lm does.
pub(crate) fn add_update(y: &Array, x: &Array, [a, b]: [&Array; 2], scale: f32) -> Result<Array> {
    let update = scaled(&matmul(&matmul(x, a)?, b)?, scale)?;
    let update =
        if update.dtype() == x.dtype() { update } else { ops::astype(&update, x.dtype())? };
    ops::add(y, &update)
}

/// `x` times `scale`, in its dtype.
pub(crate) fn scaled(x: &Array, scale: f32) -> Result<Array> {
    ops::multiply(&ops::astype(&Array::scalar(scale)?, x.dtype())?, x)
}

/// `x @ a`, of all rows: `(M, R)`.
fn inner(x: &Array, a: &Array) -> Result<Array> {
    float32_product(&rows(x)?, a)
}

/// The rows of an array, as a matrix.
pub(crate) fn rows(x: &Array) -> Result<Array> {
    ops::flatten(x, 0, -2)
}

/// Adds to rows of `columns` numbers the sums of those of `update`, each times a number of `inner`,
/// times a scale.
struct Add<'a, T> {
    inner: &'a [f32],
    update: &'a [f32],
    columns: usize,
    scale: f32,
    out: &'a mut [T],
}

impl<T: Float> WithSimd for Add<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { inner, update, columns, scale, out } = self;
        let rank = update.len() / columns;
        let [mut wide, mut sums] = [[[0.0_f32; COLUMNS]; ROWS]; 2];
        for (out, inner) in out.chunks_mut(ROWS * columns).zip(inner.chunks(ROWS * rank)) {
            for first in (0..columns).step_by(COLUMNS) {
                let width = COLUMNS.min(columns - first);
                let part = |r: usize| &update[r * columns + first..][..width];
                multiply(simd, &mut sums, width, inner, rank, part);
                let rows = out.chunks_exact_mut(columns).zip(wide.iter_mut().zip(&sums));
                for (out, (wide, sums)) in rows {
                    let (out, wide) = (&mut out[first..first + width], &mut wide[..width]);
                    T::widen(out, wide);
                    for ((out, &y), &sum) in out.iter_mut().zip(&*wide).zip(sums) {
                        *out = T::round(y + scale * sum);
                    }
                }
            }
        }
    }
}

/// Puts the first `width` sums of rows of an update, each times a number of `inner`, into `sums`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // of known length, so that the sums stay in registers
fn multiply<'a, S: Simd>(
    simd: S,
    sums: &mut [[f32; COLUMNS]; ROWS],
    width: usize,
    inner: &[f32],
    rank: usize,
    update: impl Fn(usize) -> &'a [f32],
) {
    let count = inner.len() / rank;
    let registers = width / S::F32_LANES;
    for i in 0..registers {
        let mut totals = [simd.splat_f32s(0.0); ROWS];
        for r in 0..rank {
            let x = S::as_simd_f32s(update(r)).0[i];
            for row in 0..ROWS {
                // Rows that are not there are the last one once more, and are not kept.
                let factor = simd.splat_f32s(inner[row.min(count - 1) * rank + r]);
                totals[row] = simd.mul_add_e_f32s(factor, x, totals[row]);
            }
        }
        for row in 0..ROWS {
            S::as_mut_simd_f32s(&mut sums[row]).0[i] = totals[row];
        }
    }
    for (sums, inner) in sums.iter_mut().zip(inner.chunks_exact(rank)) {
        for j in registers * S::F32_LANES..width {
            sums[j] = inner.iter().enumerate().map(|(r, factor)| factor * update(r)[j]).sum();
        }
    }
}

impl<B: Base> Composed for LowRank<B> {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let [product @ .., a, b, _] = inputs else {
            return Err(Error::invalid_argument(B::UPDATED, "needs more arrays"));
        };
        let x = &product[0];
        let product = apply(self.base, &product.iter().collect::<Vec<_>>())?.remove(0);
        let wide = |x: &Array| ops::astype(x, Dtype::Float32);
        let update = ops::matmul(&ops::matmul(&wide(x)?, a)?, b)?;
        let update = ops::multiply(&Array::scalar(self.scale)?, &update)?;
        Ok(vec![ops::astype(&ops::add(&wide(&product)?, &update)?, x.dtype())?])
    }
}

impl<B: Base> Primitive for LowRank<B> {
    const NAME: &'static str = B::UPDATED;

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        self.base.output_specs(&inputs[..=self.base.matrices()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let [product @ .., _, b, inner] = inputs else {
            return Err(KernelError::new("a product with an update has more inputs"));
        };
        match product[0].dtype() {
            Dtype::Bfloat16 => self.compute::<bf16>(product, [b, inner], outputs),
            Dtype::Float16 => self.compute::<f16>(product, [b, inner], outputs),
            _ => self.compute::<f32>(product, [b, inner], outputs),
        }
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (product, update) = primals.split_at(1 + self.base.matrices());
        let (x, matrices) = (&product[0], &product[1..]);
        let ([a, b], g) = ([0, 1].map(|i| &update[i]), &cotangents[0]);
        let turned = |x: &Array| ops::swapaxes(x, -1, -2);
        let turned_b = turned(b)?;
        let with_respect_to = |&arg: &usize| match arg.checked_sub(product.len()) {
            None if arg == 0 => {
                let (base, matrices) = self.base.back(matrices)?;
                let back = LowRank { base, scale: self.scale };
                back.apply(g, &matrices, [&turned_b, &turned(a)?])
            }
            None => Ok(self.base.vjp(product, cotangents, &[arg], &[])?.remove(0)),
            Some(0) => {
                scaled(&float32_product(&turned(&rows(x)?)?, &inner(g, &turned_b)?)?, self.scale)
            }
            // Computed before; what it depends on is differentiated too.
            Some(1) => scaled(&float32_product(&turned(&inner(x, a)?)?, &rows(g)?)?, self.scale),
            Some(_) => ops::zeros_like(&update[2]),
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
        let outputs = transforms::vmap(derivatives::of(*self), inputs, axes, &[Some(0)])?;
        Ok((outputs, vec![Some(0)]))
    }

    fn layout(&self, input: usize) -> Layout {
        match input.checked_sub(1 + self.base.matrices()) {
            None => self.base.layout(input),
            Some(0 | 1) => Layout::Strided,
            Some(_) => Layout::RowContiguous,
        }
    }
}
