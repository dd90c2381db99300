//! Evaluation.

use mlx_graft::transforms;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::trees;
use crate::bridge::without_gil;
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(eval, module)?)?;
    module.add_function(wrap_pyfunction!(async_eval, module)?)
}

/// Computes all arrays in trees, and waits. Other leaves are ignored.
#[pyfunction]
#[pyo3(signature = (*args))]
fn eval(args: &Bound<'_, PyTuple>) -> PyResult<()> {
    let arrays = trees::flatten(args, false)?;
    without_gil(args.py(), move || transforms::eval(&arrays)).map_err(to_py)
}

/// Starts to compute all arrays in trees. Other leaves are ignored.
#[pyfunction]
#[pyo3(signature = (*args))]
fn async_eval(args: &Bound<'_, PyTuple>) -> PyResult<()> {
    let arrays = trees::flatten(args, false)?;
    without_gil(args.py(), move || transforms::async_eval(&arrays)).map_err(to_py)
}
