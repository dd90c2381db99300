//! Metal: whether it is there, its library of kernels, and captures for Xcode.
//!
//! Without Metal, MLX itself does nothing in some of these functions; here they all fail then.
#![allow(unsafe_code)]

use std::path::Path;

use crate::{Error, Result, call, sys};

/// Whether MLX was built with its Metal back-end and finds a device.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// use mlx_graft::{DeviceType, metal};
///
/// assert!(!metal::is_available()? || DeviceType::Gpu.count()? > 0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn is_available() -> Result<bool> {
    let mut res = false;
    // SAFETY: writes one boolean.
    call::status("metal::is_available", || unsafe { sys::mlx_metal_is_available(&raw mut res) })?;
    Ok(res)
}

/// Starts to capture what is run on the GPU into a file whose name ends in `.gputrace`.
///
/// # Errors
/// There is no Metal device, captures are not enabled (`MTL_CAPTURE_ENABLED=1`), or the file
/// exists.
///
/// ```
/// use mlx_graft::metal;
///
/// if metal::is_available()? {
///     metal::start_capture("step.gputrace")?;
///     metal::stop_capture()?;
/// } else {
///     assert!(metal::start_capture("step.gputrace").is_err());
/// }
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn start_capture(path: impl AsRef<Path>) -> Result<()> {
    const OP: &str = "metal::start_capture";
    require(OP)?;
    let path = call::c_path(OP, path.as_ref())?;
    // SAFETY: the path lives during the call.
    call::status(OP, || unsafe { sys::mlx_metal_start_capture(path.as_ptr()) })
}

/// Ends the capture.
///
/// # Errors
/// There is no Metal device.
pub fn stop_capture() -> Result<()> {
    const OP: &str = "metal::stop_capture";
    require(OP)?;
    // SAFETY: takes no argument.
    call::status(OP, || unsafe { sys::mlx_metal_stop_capture() })
}

/// The file with MLX's compiled Metal kernels.
///
/// # Errors
/// There is no Metal device.
///
/// ```
/// use mlx_graft::metal;
///
/// assert_eq!(metal::metallib_path().is_ok(), metal::is_available()?);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn metallib_path() -> Result<String> {
    // SAFETY: `res` is a slot for a new string.
    call::text("metal::metallib_path", |res| unsafe { sys::mlx_metal_get_metallib_path(res) })
}

/// Sets the file with MLX's compiled Metal kernels, before the first use of the GPU.
///
/// # Errors
/// There is no Metal device.
pub fn set_metallib_path(path: impl AsRef<Path>) -> Result<()> {
    const OP: &str = "metal::set_metallib_path";
    require(OP)?;
    let path = call::c_path(OP, path.as_ref())?;
    // SAFETY: the path lives during the call.
    call::status(OP, || unsafe { sys::mlx_metal_set_metallib_path(path.as_ptr()) })
}

fn require(op: &'static str) -> Result<()> {
    if is_available()? { Ok(()) } else { Err(Error::missing_backend(op, "Metal")) }
}
