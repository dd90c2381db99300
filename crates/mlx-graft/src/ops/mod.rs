//! Operations on arrays, named as in `mlx.core`.
//!
//! All are lazy: they add a node to the graph and return at once. They run on the stream in scope
//! ([`with_stream`](crate::with_stream), [`with_device`](crate::with_device)).
//!
//! Where Python has one function with an optional axis, there are up to three here: `sum` over all
//! elements, `sum_axis` along one axis, `sum_axes` along several.
//!
//! Where Python has more than three optional arguments, the last argument here is a struct of
//! options, with a setter for each: see [`QuantizedMatmulOptions`].

mod arithmetic;
mod convolve;
mod create;
mod einsum_path;
mod indexing;
mod linear;
mod logic;
mod math;
mod quantized;
mod reduce;
mod shape;
mod sorting;
mod strided;
mod take_index;

pub use arithmetic::*;
pub use convolve::{ConvolveMode, convolve};
pub use create::*;
pub use einsum_path::{EinsumPath, einsum_path};
pub use indexing::*;
pub use linear::*;
pub use logic::*;
pub use math::*;
pub use quantized::*;
pub use reduce::*;
pub use shape::*;
pub use sorting::*;
pub use strided::strided_view;
pub use take_index::take_index;
