//! CPU kernels in Rust for the operations that decide the speed of training on a processor.
//!
//! Each is a [`Primitive`](mlx_graft::primitive::Primitive) of MLX's graph with its derivatives,
//! and falls back to MLX's own operation where it has nothing better: on a GPU, and for dtypes
//! that it does not know.

mod attention;
mod cross_entropy;
mod derivatives;
mod floats;
mod lanes;
mod logsumexp;
mod matmul;
mod quantized_matmul;
mod rms_norm;
mod rope;
mod rows;
mod softmax;
mod swiglu;
mod tasks;

pub use attention::{Mask, scaled_dot_product_attention};
pub use cross_entropy::cross_entropy;
pub use logsumexp::logsumexp;
pub use matmul::matmul;
pub use quantized_matmul::quantized_matmul;
pub use rms_norm::rms_norm;
pub use rope::{Rope, rope};
pub use softmax::softmax;
pub use swiglu::swiglu;

use mlx_graft::stream::current_device;
use mlx_graft::{DeviceType, Result};

/// Whether operations in this scope run on the processor, so that these kernels are used.
///
/// # Errors
/// What MLX reports.
pub fn is_active() -> Result<bool> {
    Ok(current_device()?.kind == DeviceType::Cpu)
}
