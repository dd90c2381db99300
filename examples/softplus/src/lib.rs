//! Softplus for Python: an MLX operation written in Rust.

mod operation;

use mlx_graft_pyo3::{ArrayIn, ArrayOut, Result};
use pyo3::prelude::*;

/// `log(1 + exp(sharpness * x))`, element by element, of a float32 array.
#[pyfunction]
#[pyo3(signature = (x, sharpness = 1.0))]
fn softplus(x: ArrayIn, sharpness: f32) -> Result<ArrayOut> {
    Ok(ArrayOut(operation::softplus(&x, sharpness)?.0))
}

/// `softplus` and its derivative.
#[pyfunction]
#[pyo3(signature = (x, sharpness = 1.0))]
fn softplus_and_slope(x: ArrayIn, sharpness: f32) -> Result<(ArrayOut, ArrayOut)> {
    let (value, slope) = operation::softplus(&x, sharpness)?;
    Ok((ArrayOut(value), ArrayOut(slope)))
}

/// The number of handles of MLX objects that this module holds, for a test that none leaks.
#[pyfunction]
fn live_handles() -> isize {
    mlx_graft::live_handles()
}

#[pymodule]
fn _softplus(module: &Bound<'_, PyModule>) -> PyResult<()> {
    mlx_graft_pyo3::join(module.py())?;
    module.add_function(wrap_pyfunction!(softplus, module)?)?;
    module.add_function(wrap_pyfunction!(softplus_and_slope, module)?)?;
    module.add_function(wrap_pyfunction!(live_handles, module)?)
}
