//! Fused operations of transformer models, named as in `mlx.core.fast`.

mod generated;

pub use generated::*;
