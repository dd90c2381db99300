//! The version of MLX.
#![allow(unsafe_code)]

use crate::{Result, call, sys};

/// The version of the MLX that is loaded, for example `0.32.2`.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// assert_eq!(mlx_graft::version()?, mlx_graft::sys::MLX_VERSION);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn version() -> Result<String> {
    // SAFETY: `res` is a slot for a new string.
    call::text("version", |res| unsafe { sys::mlx_version(res) })
}
