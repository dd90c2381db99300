//! CUDA.
#![allow(unsafe_code)]

use crate::{Result, call, sys};

/// Whether MLX was built with its CUDA back-end and finds a device.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// use mlx_graft::{DeviceType, cuda};
///
/// assert!(!cuda::is_available()? || DeviceType::Gpu.count()? > 0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn is_available() -> Result<bool> {
    let mut res = false;
    // SAFETY: writes one boolean.
    call::status("cuda::is_available", || unsafe { sys::mlx_cuda_is_available(&raw mut res) })?;
    Ok(res)
}
