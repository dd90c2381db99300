//! CPU kernels in Rust for the operations that decide the speed of training on a processor.
//!
//! Each is a [`Primitive`](mlx_graft::primitive::Primitive) of MLX's graph with its derivatives,
//! and falls back to MLX's own operation where it has nothing better: on a GPU, and for dtypes
//! that it does not know.

mod matmul;

pub use matmul::matmul;

use mlx_graft::{Device, DeviceType, Result};

/// Whether operations in this scope run on the processor, so that these kernels are used.
///
/// # Errors
/// What MLX reports.
pub fn is_active() -> Result<bool> {
    Ok(Device::default_device()?.kind == DeviceType::Cpu)
}
