//! Adam and `AdamW` on flat buffers, with the arithmetic of `mlx.optimizers`.

use mlx_graft::{Array, Dtype, ops};

use crate::Result;
use crate::args::{OptimizerKind, OptimizerOptions};
use crate::nn::constant;

/// Weights of one dtype behind each other, and their running averages.
#[derive(Debug, Clone)]
pub struct Moments {
    /// The weights, `(N,)`.
    pub values: Array,
    /// The average of the gradient, `(N,)`.
    pub m: Array,
    /// The average of the squared gradient, `(N,)`.
    pub v: Array,
}

impl Moments {
    /// The state before the first update.
    pub fn new(values: Array) -> Result<Self> {
        Ok(Self { m: ops::zeros_like(&values)?, v: ops::zeros_like(&values)?, values })
    }
}

/// The state after one update by Adam (Kingma and Ba, 2015) or `AdamW` (Loshchilov and Hutter,
/// 2019).
///
/// `rate` is the learning rate and `step` the number of this update, counted from 1: both are
/// float32 arrays, as a number would be frozen in a compiled step.
pub fn update(
    options: &OptimizerOptions,
    at: &Moments,
    grad: &Array,
    rate: &Array,
    step: &Array,
) -> Result<Moments> {
    let dtype = grad.dtype();
    // Computed in double precision and rounded once, as Python's numbers are.
    let number = |x: f64| constant(x as f32, dtype);
    let average = |old: &Array, new: &Array, beta: f64| -> Result<Array> {
        let (old_part, new_part) = (number(beta)?, number(1.0 - beta)?);
        Ok(ops::add(&ops::multiply(&old_part, old)?, &ops::multiply(&new_part, new)?)?)
    };
    let [beta1, beta2] = options.betas;
    let rate = ops::astype(rate, dtype)?;
    let values = match options.kind {
        OptimizerKind::Adam => at.values.clone(),
        OptimizerKind::AdamW => {
            let decay = ops::multiply(&rate, &number(options.weight_decay)?)?;
            ops::multiply(&at.values, &ops::subtract(&number(1.0)?, &decay)?)?
        }
    };
    let m = average(&at.m, grad, beta1)?;
    let v = average(&at.v, &ops::square(grad)?, beta2)?;
    let change = if options.bias_correction {
        let left = |beta: f64| -> Result<Array> {
            let power = ops::power(&constant(beta as f32, Dtype::Float32)?, step)?;
            Ok(ops::subtract(&constant(1.0, Dtype::Float32)?, &power)?)
        };
        let c1 = ops::astype(&ops::divide(&rate, &left(beta1)?)?, dtype)?;
        let c2 = ops::astype(&ops::rsqrt(&left(beta2)?)?, dtype)?;
        let denominator = ops::add(&ops::multiply(&ops::sqrt(&v)?, &c2)?, &number(options.eps)?)?;
        ops::divide(&ops::multiply(&c1, &m)?, &denominator)?
    } else {
        let denominator = ops::add(&ops::sqrt(&v)?, &number(options.eps)?)?;
        ops::divide(&ops::multiply(&rate, &m)?, &denominator)?
    };
    Ok(Moments { values: ops::subtract(&values, &change)?, m, v })
}
