//! CPU kernels in Rust for the operations that decide the speed of training on a processor.
//!
//! Each is a [`Primitive`](mlx_graft::primitive::Primitive) of MLX's graph with its derivatives,
//! and falls back to MLX's own operation where it has nothing better: on a GPU, and for dtypes
//! that it does not know.
//!
//! Instruction sets are chosen when the kernels run. The environment variable `GRAFT_MAX_ISA` names
//! the last one that they may use, to find out where a difference comes from: `none`, which leaves
//! everything to MLX's own operations as on a GPU, `portable`, `avx2`, `avx512`, `avx512_vnni` or
//! `avx512_bf16`. The last is used for products of many rows only if it is named or the processor is
//! AMD's: on Intel's it is slower than `float32`. What the crate `gemm` chooses for products that
//! none of these computes, and `half` for conversions of `float16`, is not limited.

mod adam;
mod add_rms_norm;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cross_entropy;
mod derivatives;
mod floats;
mod gather;
mod isa;
mod lanes;
mod layer_norm;
pub mod limits;
mod logsumexp;
mod low_rank;
mod matmul;
mod prefetch;
mod quantized_matmul;
mod rms_norm;
mod rope;
mod rows;
mod softmax;
mod swiglu;
mod tasks;

pub use adam::{Adam, AdamStep, adam};
pub use add_rms_norm::add_rms_norm;
pub use attention::{
    Attended, Mask, Projections, cached_attention, scaled_dot_product_attention, visible_from,
};
pub use cross_entropy::cross_entropy;
pub use layer_norm::layer_norm;
pub use logsumexp::logsumexp;
pub use matmul::{adapted_matmul, gather_mm, linear, linear_each, matmul};
pub use quantized_matmul::{
    Packed, adapted_quantized_matmul, gather_qmm, quantized_matmul, quantized_matmul_each,
};
pub use rms_norm::rms_norm;
pub use rope::{Rope, rope, rope_heads};
pub use softmax::softmax;
pub use swiglu::swiglu;

use mlx_graft::stream::current_device;
use mlx_graft::{DeviceType, Result};

/// Whether operations in this scope run on the processor, so that these kernels are used, and the
/// environment variable `GRAFT_MAX_ISA` is not `none`.
///
/// # Errors
/// What MLX reports, and what `GRAFT_MAX_ISA` says that cannot be.
pub fn is_active() -> Result<bool> {
    Ok(isa::are_kernels_wanted()? && current_device()?.kind == DeviceType::Cpu)
}
