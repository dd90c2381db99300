//! How arrays are printed.

use mlx_graft::printing;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(get_printoptions, module)?)?;
    module.add_function(wrap_pyfunction!(set_printoptions, module)?)?;
    module.add_function(wrap_pyfunction!(printoptions, module)?)?;
    module.add_class::<PrintOptions>()
}

/// How arrays are printed.
#[pyclass(module = "mlx_graft.core", get_all, set_all)]
struct PrintOptions {
    /// The number of decimal places; -1 for as many as MLX sees fit.
    precision: i32,
}

#[pymethods]
impl PrintOptions {
    #[new]
    #[pyo3(signature = (precision=-1), text_signature = "(precision=-1)")]
    fn new(precision: i32) -> Self {
        Self { precision }
    }
}

/// The options in force.
#[pyfunction]
fn get_printoptions() -> PyResult<PrintOptions> {
    let options = printing::PrintOptions::current().map_err(to_py)?;
    Ok(PrintOptions { precision: options.precision })
}

/// Sets the number of decimal places of printed numbers.
#[pyfunction]
#[pyo3(signature = (precision=-1), text_signature = "(precision=-1)")]
fn set_printoptions(precision: i32) -> PyResult<()> {
    printing::PrintOptions { precision }.set().map_err(to_py)
}

/// A context manager in which numbers are printed with so many decimal places.
#[pyfunction]
#[pyo3(signature = (precision=-1), text_signature = "(precision=-1)")]
fn printoptions(precision: i32) -> PrintOptionsContext {
    let options = printing::PrintOptions { precision };
    PrintOptionsContext { options, former: Vec::new() }
}

/// The context manager of `printoptions`.
#[pyclass(module = "mlx_graft.core", name = "_PrintOptionsContext")]
struct PrintOptionsContext {
    options: printing::PrintOptions,
    former: Vec<printing::PrintOptions>,
}

#[pymethods]
impl PrintOptionsContext {
    fn __enter__(mut slf: PyRefMut<'_, Self>) -> PyResult<PyRefMut<'_, Self>> {
        slf.former.push(printing::PrintOptions::current().map_err(to_py)?);
        slf.options.set().map_err(to_py)?;
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&mut self, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        match self.former.pop() {
            Some(former) => former.set().map_err(to_py),
            None => Ok(()),
        }
    }
}
