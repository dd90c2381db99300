//! Fourier transforms, named as in `mlx.core.fft`.
//!
//! Lengths and axes are explicit: `n` elements along an axis are transformed, cut or padded with
//! zeros. The whole of a dimension is [`Array::dim`](crate::Array::dim).

mod generated;
mod norm;

pub use generated::*;
pub use norm::Norm;
