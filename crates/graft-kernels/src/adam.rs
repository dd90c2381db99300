//! The update of weights by Adam.
#![allow(clippy::inline_always)] // see `lanes`

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Dtype, Error, Result, ops};
use pulp::Simd;

use crate::derivatives::{Composed, of_composed};
use crate::floats::{self, Floats};
use crate::is_active;
use crate::rows::{self, FLAT, RowKernel, Scratch, flat_range};

/// The options of [`adam`], which are those of `mlx.optimizers.AdamW`, and without decay of
/// `mlx.optimizers.Adam`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// The decay rates of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Whether the moments are corrected for their start at zero.
    pub bias_correction: bool,
}

/// The numbers that decide an update, arrays of one element.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep<'a> {
    /// The learning rate, `float32`.
    pub rate: &'a Array,
    /// The number of this update, counted from 1, `float32`.
    pub step: &'a Array,
    /// Whether there is an update at all, boolean: without, everything stays as it was.
    pub sound: &'a Array,
}

/// The weights and both moments after an update by Adam (Kingma and Ba, 2015) with decoupled weight
/// decay (Loshchilov and Hutter, 2019), as `mlx.optimizers.AdamW`.
///
/// `state` is the weights and the moments, and `gradient` has their shape and dtype. `float32`,
/// `bfloat16` and `float16` on the CPU are computed in `float32` in one pass, on all threads, and the
/// moments written where they were if nothing else needs them. All others run through MLX's own
/// operations.
///
/// # Errors
/// Those of MLX's operations, if the shapes do not broadcast.
///
/// ```
/// use graft_kernels::{Adam, AdamStep, adam};
/// use mlx_graft::{Array, Dtype, ops};
///
/// let options = Adam { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, bias_correction: true };
/// let (rate, step) = (Array::scalar(0.5_f32)?, Array::scalar(1.0_f32)?);
/// let at = AdamStep { rate: &rate, step: &step, sound: &Array::scalar(true)? };
/// let zeros = ops::zeros(&[2], Dtype::Float32)?;
/// let gradient = Array::from_slice(&[3.0_f32, -2.0], &[2])?;
/// let [weights, ..] = adam(options, [&zeros, &zeros, &zeros], &gradient, at)?;
/// let weights = weights.to_vec::<f32>()?;
/// assert!((weights[0] + 0.5).abs() < 1e-4 && (weights[1] - 0.5).abs() < 1e-4);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn adam(
    options: Adam,
    state: [&Array; 3],
    gradient: &Array,
    at: AdamStep<'_>,
) -> Result<[Array; 3]> {
    let alike = |x: &Array| x.shape() == gradient.shape() && x.dtype() == gradient.dtype();
    let numbers = [(at.rate, Dtype::Float32), (at.step, Dtype::Float32), (at.sound, Dtype::Bool)];
    let suits = floats::is_known(gradient)
        && state.iter().all(|x| alike(x))
        && numbers.iter().all(|(x, dtype)| x.size() == 1 && x.dtype() == *dtype);
    let [values, m, v] = state;
    let inputs = [values, m, v, gradient, at.rate, at.step, at.sound];
    let outputs = if suits && is_active()? {
        apply(options, &inputs)?
    } else {
        options.composed(&inputs.map(Array::clone))?
    };
    outputs.try_into().map_err(|_| Error::invalid_argument(Adam::NAME, "has three outputs"))
}

impl Composed for Adam {
    /// With the arithmetic of `mlx.optimizers`.
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let [values, m, v, gradient, rate, step, sound] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "has seven inputs"));
        };
        let dtype = gradient.dtype();
        // Computed in double precision and rounded once, as Python's numbers are.
        let constant = |x: f64, dtype| ops::astype(&Array::scalar(x as f32)?, dtype);
        let number = |x: f64| constant(x, dtype);
        let average = |old: &Array, new: &Array, beta: f64| -> Result<Array> {
            let (old_part, new_part) = (number(beta)?, number(1.0 - beta)?);
            ops::add(&ops::multiply(&old_part, old)?, &ops::multiply(&new_part, new)?)
        };
        let [beta_1, beta_2] = self.betas;
        let rate = ops::astype(rate, dtype)?;
        let next_m = average(m, gradient, beta_1)?;
        let next_v = average(v, &ops::square(gradient)?, beta_2)?;
        let (scaled, root) = if self.bias_correction {
            let left = |beta: f64| -> Result<Array> {
                let power = ops::power(&constant(beta, Dtype::Float32)?, step)?;
                ops::subtract(&constant(1.0, Dtype::Float32)?, &power)
            };
            let c_1 = ops::astype(&ops::divide(&rate, &left(beta_1)?)?, dtype)?;
            let c_2 = ops::astype(&ops::rsqrt(&left(beta_2)?)?, dtype)?;
            (ops::multiply(&c_1, &next_m)?, ops::multiply(&ops::sqrt(&next_v)?, &c_2)?)
        } else {
            (ops::multiply(&rate, &next_m)?, ops::sqrt(&next_v)?)
        };
        let change = ops::divide(&scaled, &ops::add(&root, &number(self.eps)?)?)?;
        let decay = ops::multiply(&rate, &number(self.weight_decay)?)?;
        let kept = ops::multiply(values, &ops::subtract(&number(1.0)?, &decay)?)?;
        let next = [(ops::subtract(&kept, &change)?, values), (next_m, m), (next_v, v)];
        next.iter().map(|(next, old)| ops::where_(sound, next, old)).collect()
    }
}

/// Which outputs are updates of inputs: the moments. The weights are read by what the gradient is
/// computed of, which need not have run when the update gets its memory, so that they would have to be
/// copied.
const UPDATED: [bool; 3] = [false, true, true];

/// An update of which all numbers are known, of the moments where they lie.
struct Update<'a> {
    values: Floats<'a>,
    gradient: Floats<'a>,
    betas: [f32; 2],
    /// One minus the above, rounded once.
    rests: [f32; 2],
    rate: f32,
    root_scale: f32,
    eps: f32,
    kept: f32,
}

impl RowKernel<3> for Update<'_> {
    const UPDATED: [bool; 3] = UPDATED;

    #[inline(always)]
    fn row<S: Simd>(
        &self,
        _simd: S,
        index: usize,
        [values, gradient, ..]: &mut Scratch,
        [next, m, v]: [&mut [f32]; 3],
    ) {
        let range = flat_range(index, self.values.len());
        let values = self.values.part(range.clone(), values);
        let gradient = self.gradient.part(range, gradient);
        let ([beta_1, beta_2], [rest_1, rest_2]) = (self.betas, self.rests);
        let outputs = next.iter_mut().zip(m).zip(v);
        for (((next, m), v), (&value, &gradient)) in outputs.zip(values.iter().zip(gradient)) {
            *m = beta_1 * *m + rest_1 * gradient;
            *v = beta_2 * *v + rest_2 * (gradient * gradient);
            let change = self.rate * *m / (v.sqrt() * self.root_scale + self.eps);
            *next = value * self.kept - change;
        }
    }
}

/// The weights as they were, and the moments left alone.
struct Unchanged<'a>(Floats<'a>);

impl RowKernel<3> for Unchanged<'_> {
    const UPDATED: [bool; 3] = UPDATED;

    #[inline(always)]
    fn row<S: Simd>(
        &self,
        _simd: S,
        index: usize,
        _scratch: &mut Scratch,
        [next, ..]: [&mut [f32]; 3],
    ) {
        self.0.widen(flat_range(index, self.0.len()), next);
    }
}

impl Primitive for Adam {
    const NAME: &'static str = "adam";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(inputs[..3].to_vec())
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let [values, _, _, gradient, rate, step, sound] = inputs else {
            return Err(KernelError::new("an update has seven inputs"));
        };
        let (rate, step) = (rate.as_slice::<f32>()?[0], step.as_slice::<f32>()?[0]);
        let count = values.size().div_ceil(FLAT);
        let values = Floats::new(values)?;
        if !sound.as_slice::<bool>()?[0] {
            return rows::compute(&Unchanged(values), outputs, [FLAT; 3], count, 2 * FLAT);
        }
        let betas = self.betas.map(|beta| beta as f32);
        let [left_1, left_2] =
            if self.bias_correction { betas.map(|beta| 1.0 - beta.powf(step)) } else { [1.0; 2] };
        let update = Update {
            values,
            gradient: Floats::new(gradient)?,
            betas,
            rests: self.betas.map(|beta| (1.0 - beta) as f32),
            rate: rate / left_1,
            root_scale: 1.0 / left_2.sqrt(),
            eps: self.eps as f32,
            kept: 1.0 - rate * self.weight_decay as f32,
        };
        rows::compute(&update, outputs, [FLAT; 3], count, 7 * FLAT)
    }

    of_composed!();

    fn vmap(
        &self,
        _inputs: &[Array],
        _axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Err(Error::unsupported_transform(Self::NAME, "vmap"))
    }

    fn updates(&self, output: usize) -> Option<usize> {
        UPDATED[output].then_some(output)
    }
}
