//! Fused operations of transformer models, named as in `mlx.core.fast`, and custom kernels.

mod generated;
pub mod kernel;

pub use generated::*;
