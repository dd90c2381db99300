//! The optimizers and their options.

use serde::Serialize;
use serde_json::{Map, Value};

use super::keys::{Keys, Origins};
use crate::Result;

/// An optimizer of `mlx.optimizers` that is built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OptimizerKind {
    /// `mlx.optimizers.Adam`.
    Adam,
    /// `mlx.optimizers.AdamW`: Adam with decoupled weight decay.
    AdamW,
}

/// The options of an [`OptimizerKind`], with the defaults of `mlx.optimizers`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerOptions {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// The decay rates of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay; zero for Adam.
    pub weight_decay: f64,
    /// Whether the moments are corrected for their start at zero.
    pub bias_correction: bool,
}

impl OptimizerOptions {
    /// The options of `kind` in `config`, the mapping `optimizer_config`.
    pub(crate) fn read(
        kind: OptimizerKind,
        config: &Map<String, Value>,
        origins: &Origins,
    ) -> Result<Self> {
        let mut section = Keys::new(config.clone(), "optimizer_config", origins);
        let adam = section.mapping("adam")?.unwrap_or_default();
        let adamw = section.mapping("adamw")?.unwrap_or_default();
        // mlx-lm's defaults hold a mapping for each, and a config written there brings them along.
        for other in ["muon", "sgd", "adafactor"] {
            section.mapping(other)?;
        }
        section.finish()?;
        let adam = Self::read_one(OptimizerKind::Adam, adam, origins)?;
        let adamw = Self::read_one(OptimizerKind::AdamW, adamw, origins)?;
        Ok(match kind {
            OptimizerKind::Adam => adam,
            OptimizerKind::AdamW => adamw,
        })
    }

    fn read_one(
        kind: OptimizerKind,
        config: Map<String, Value>,
        origins: &Origins,
    ) -> Result<Self> {
        let path = match kind {
            OptimizerKind::Adam => "optimizer_config.adam",
            OptimizerKind::AdamW => "optimizer_config.adamw",
        };
        let mut keys = Keys::new(config, path, origins);
        let betas = match keys.numbers("betas")?.as_deref() {
            None => [0.9, 0.999],
            Some(&[first, second])
                if (0.0..1.0).contains(&first) && (0.0..1.0).contains(&second) =>
            {
                [first, second]
            }
            Some(_) => return Err(keys.error("betas", "wanted two numbers from 0 to below 1")),
        };
        let eps = keys.number("eps", 1e-8, "a number above 0", |eps| eps > 0.0)?;
        let weight_decay = match kind {
            OptimizerKind::Adam => 0.0,
            OptimizerKind::AdamW => {
                keys.number("weight_decay", 0.01, "a number of at least 0", |w| w >= 0.0)?
            }
        };
        let bias_correction = keys.boolean("bias_correction", false)?;
        keys.finish()?;
        Ok(Self { kind, betas, eps, weight_decay, bias_correction })
    }
}
