//! The cross-entropy of rows of logits.
#![allow(clippy::inline_always)] // see `lanes`

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Dtype, Error, Result, ops};
use pulp::Simd;

use crate::derivatives::{Composed, of_composed};
use crate::floats::{self, Floats};
use crate::rows::{self, RowKernel, Scratch, vmap_of_rows};
use crate::{is_active, lanes, softmax};

/// `logsumexp(logits) - logits[target]` over the last axis, as `mlx.nn.losses.cross_entropy`.
///
/// `logits` is `(…, V)` and `targets` `(…)`, an integer below `V` for each row; a negative one counts
/// from the end. Returns `(…)` of the dtype of `logits`.
///
/// `float32`, `bfloat16` and `float16` logits with `int32` targets on the CPU are read once by the loss and once by its
/// gradient, and nothing of their size is stored besides; a target outside of `-V..V` makes the
/// loss of its row NaN. All others run through MLX's own operations.
///
/// # Errors
/// Those of MLX's operations, if the shapes do not fit.
///
/// ```
/// use mlx_graft::Array;
///
/// let logits = Array::from_slice(&[5.0_f32, 5.0], &[1, 2])?;
/// let targets = Array::from_slice(&[1_i32], &[1])?;
/// let loss = graft_kernels::cross_entropy(&logits, &targets)?.to_vec::<f32>()?;
/// assert!((loss[0] - 2.0_f32.ln()).abs() < 1e-6);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array> {
    let dtypes = floats::is_known(logits) && targets.dtype() == Dtype::Int32;
    if dtypes && fits(logits.shape(), targets.shape()) && is_active()? {
        return Ok(apply(CrossEntropy, &[logits, targets])?.swap_remove(0));
    }
    let highest = ops::stop_gradient(&ops::max_axis(logits, -1, true)?)?;
    let logits = ops::subtract(logits, &highest)?;
    let targets = ops::expand_dims(targets, -1)?;
    let score = ops::squeeze_axis(&ops::take_along_axis(&logits, &targets, -1)?, -1)?;
    ops::subtract(&ops::logsumexp_axis(&logits, -1, false)?, &score)
}

/// Whether there is one target for each row, of at least one logit.
fn fits(logits: &[i32], targets: &[i32]) -> bool {
    logits.split_last().is_some_and(|(&width, rows)| width > 0 && rows == targets)
}

/// The losses, and for each row what its gradient needs: the highest logit, and the inverse of
/// the sum of exponentials relative to it.
#[derive(Clone, Copy, PartialEq)]
struct CrossEntropy;

/// `(softmax(logits) - one_hot(targets)) g`, of the logits, the targets, the second output of
/// [`CrossEntropy`], and `g`. A row whose `g` is 0 is 0 whatever its logits are.
#[derive(Clone, Copy, PartialEq)]
struct CrossEntropyGrad;

struct Forward<'a> {
    logits: Floats<'a>,
    targets: &'a [i32],
    width: usize,
}

impl RowKernel<2> for Forward<'_> {
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        simd: S,
        index: usize,
        [logits, ..]: &mut Scratch,
        [loss, statistics]: [&mut [f32]; 2],
    ) {
        let logits = self.logits.part(rows::range(index, self.width), logits);
        let highest = lanes::maximum(simd, logits);
        // The difference of two infinities is no number, but the loss may be infinite.
        let is_finite = highest.is_finite();
        let shift = if is_finite { highest } else { 0.0 };
        let sum = lanes::sum_exp(simd, logits, shift);
        let column = column(self.targets[index], self.width);
        loss[0] = column.map_or(f32::NAN, |column| sum.ln() - (logits[column] - shift));
        statistics.copy_from_slice(&[shift, if is_finite { 1.0 / sum } else { f32::NAN }]);
    }
}

/// The column of a target, if there is one.
#[inline(always)]
fn column(target: i32, width: usize) -> Option<usize> {
    let distance = target.unsigned_abs() as usize;
    let column = if target < 0 { width.checked_sub(distance)? } else { distance };
    (column < width).then_some(column)
}

struct Backward<'a> {
    logits: Floats<'a>,
    targets: &'a [i32],
    statistics: &'a [f32],
    g: Floats<'a>,
    width: usize,
}

impl RowKernel<1> for Backward<'_> {
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        simd: S,
        index: usize,
        [logits, g, ..]: &mut Scratch,
        [dx]: [&mut [f32]; 1],
    ) {
        let g = self.g.part(index..index + 1, g)[0];
        // The loss of padding is multiplied by 0.
        if g == 0.0 {
            return dx.fill(0.0);
        }
        let logits = self.logits.part(rows::range(index, self.width), logits);
        let Some(column) = column(self.targets[index], self.width) else {
            return dx.fill(f32::NAN);
        };
        let (highest, scale) = (self.statistics[2 * index], self.statistics[2 * index + 1] * g);
        for (dx, &x) in dx.iter_mut().zip(logits) {
            *dx = lanes::exp(simd, x - highest) * scale;
        }
        dx[column] -= g;
    }
}

impl Primitive for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let (logits, targets) = (&inputs[0].shape, &inputs[1].shape);
        if !fits(logits, targets) {
            return Err(Error::invalid_argument(
                Self::NAME,
                format!("logits of shape {logits:?} do not fit targets of shape {targets:?}"),
            ));
        }
        let losses = ArraySpec::new(targets.clone(), inputs[0].dtype);
        let statistics = ArraySpec::new([targets.as_slice(), &[2]].concat(), Dtype::Float32);
        Ok(vec![losses, statistics])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let width = rows::width_of(&inputs[0]);
        let (logits, targets) = (Floats::new(&inputs[0])?, inputs[1].as_slice()?);
        let kernel = Forward { logits, targets, width };
        rows::compute(&kernel, outputs, [1, 2], targets.len(), width)
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let with_respect_to = |&arg: &usize| {
            if arg == 1 {
                return ops::zeros_like(&primals[1]);
            }
            let inputs = [&primals[0], &primals[1], &outputs[1], &cotangents[0]];
            Ok(apply(CrossEntropyGrad, &inputs)?.remove(0))
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let (logits, targets) = (&primals[0], &primals[1]);
        let outputs = apply(Self, &[logits, targets])?;
        let ones = ops::ones_like(&outputs[0])?;
        let gradient = apply(CrossEntropyGrad, &[logits, targets, &outputs[1], &ones])?;
        // Integers have no direction to move in.
        let tangent = match argnums.iter().position(|&arg| arg == 0) {
            Some(i) => ops::sum_axis(&ops::multiply(&gradient[0], &tangents[i])?, -1, false)?,
            None => ops::zeros_like(&outputs[0])?,
        };
        Ok(vec![tangent, ops::zeros_like(&outputs[1])?])
    }

    vmap_of_rows!();
}

impl Composed for CrossEntropyGrad {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let (logits, targets, g) = (&inputs[0], &inputs[1], &inputs[3]);
        let width = logits.dim(-1)?;
        let columns = ops::arange(0.0, f64::from(width), 1.0, Dtype::Int32)?;
        let targets = ops::expand_dims(targets, -1)?;
        let from_end = ops::add(&targets, &Array::scalar(width)?)?;
        let targets = ops::where_(&ops::less(&targets, &Array::scalar(0)?)?, &from_end, &targets)?;
        let hits = ops::equal(&targets, &columns)?;
        let hits = ops::astype(&hits, logits.dtype())?;
        let slopes = ops::subtract(&softmax(logits)?, &hits)?;
        Ok(vec![ops::multiply(&slopes, &ops::expand_dims(g, -1)?)?])
    }
}

impl Primitive for CrossEntropyGrad {
    const NAME: &'static str = "cross_entropy_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let width = rows::width_of(&inputs[0]);
        let targets = inputs[1].as_slice()?;
        let kernel = Backward {
            logits: Floats::new(&inputs[0])?,
            targets,
            statistics: inputs[2].as_slice()?,
            g: Floats::new(&inputs[3])?,
            width,
        };
        rows::compute(&kernel, outputs, [width], targets.len(), width)
    }

    of_composed!();

    vmap_of_rows!();
}
