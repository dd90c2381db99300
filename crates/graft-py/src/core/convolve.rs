//! The discrete convolution of two sequences.

use mlx_graft::ops;
use pyo3::prelude::*;

use crate::bridge::{In, Out};
use crate::ops::arguments::run;

/// Adds the function of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(convolve, module)?)
}

/// The discrete convolution of two sequences, as in `numpy.convolve`.
#[pyfunction]
#[pyo3(signature = (a, v, /, mode="full", *, stream=None), text_signature = "(a, v, /, mode='full', *, stream=None)")]
fn convolve(a: In, v: In, mode: &str, stream: Option<&Bound<'_, PyAny>>) -> PyResult<Out> {
    run(stream, || ops::convolve(&a, &v, mode.parse()?)).map(Out)
}
