//! Root mean square normalisation.

use graft_kernels::{add_rms_norm, rms_norm};
use mlx_graft::{Array, Dtype};

use super::{Module, Param};
use crate::Result;

/// `mlx.nn.RMSNorm` (Zhang and Sennrich, 2019).
#[derive(Debug, Module)]
pub struct RmsNorm {
    weight: Param,
    #[module(skip)]
    eps: f32,
}

impl RmsNorm {
    /// A norm with the given weight, of shape `(D,)`.
    pub fn new(weight: Array, eps: f32) -> Self {
        Self { weight: Param::trainable(weight), eps }
    }

    /// Normalises the last axis of `x`, of shape `(..., D)`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        Ok(rms_norm(x, Some(&self.weight.get()), self.eps)?)
    }

    /// The sum of `x` and `y`, if there is a `y`, and its normalisation; all are `(..., D)`.
    pub fn forward_sum(&self, x: &Array, y: Option<&Array>) -> Result<(Array, Array)> {
        match y {
            Some(y) => Ok(add_rms_norm(x, y, &self.weight.get(), self.eps)?),
            None => Ok((x.clone(), self.forward(x)?)),
        }
    }

    /// The dtype of the weight, which is that of the layers around it.
    pub fn dtype(&self) -> Dtype {
        self.weight.get().dtype()
    }
}
