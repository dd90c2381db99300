//! The order in which an Einstein summation contracts its operands.

use mlx_graft::ops;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::to_py;
use crate::ops::arguments::inputs;

/// Adds the function of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(einsum_path, module)?)
}

/// The order in which `einsum` contracts the operands, and its costs as a text.
#[pyfunction]
#[pyo3(signature = (subscripts, *operands))]
fn einsum_path<'py>(
    subscripts: &str,
    operands: &Bound<'py, PyTuple>,
) -> PyResult<(Vec<Bound<'py, PyTuple>>, String)> {
    let path = ops::einsum_path(subscripts, &inputs(operands)?).map_err(to_py)?;
    let contractions = path.contractions.into_iter();
    let tuples = contractions.map(|positions| PyTuple::new(operands.py(), positions));
    Ok((tuples.collect::<PyResult<_>>()?, path.summary))
}
