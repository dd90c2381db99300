//! Root mean square normalisation.

use mlx_graft::{Array, fast};

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
        Ok(fast::rms_norm(x, Some(&self.weight.get()), self.eps)?)
    }
}
