//! Linear algebra, named as in `mlx.core.linalg`.
//!
//! Matrices are the last two dimensions; those in front of them are a batch. Most of these
//! functions run on CPU streams only: on a GPU, MLX reports an error.

mod generated;

pub use generated::*;
