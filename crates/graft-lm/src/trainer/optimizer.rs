//! Adam and `AdamW` on flat buffers.

use graft_kernels::{Adam, AdamStep, adam};
use mlx_graft::{Array, ops};

use crate::Result;
use crate::args::OptimizerOptions;

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

/// The state after one update.
///
/// The numbers of `at` are arrays, as others would be frozen in a compiled step.
pub fn update(
    options: &OptimizerOptions,
    state: &Moments,
    grad: &Array,
    at: AdamStep<'_>,
) -> Result<Moments> {
    let OptimizerOptions { kind: _, betas, eps, weight_decay, bias_correction } = *options;
    let options = Adam { betas, eps, weight_decay, bias_correction };
    let [values, m, v] = adam(options, [&state.values, &state.m, &state.v], grad, at)?;
    Ok(Moments { values, m, v })
}
