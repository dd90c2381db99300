//! Functions of `linalg` whose arguments choose the operation, or how much it returns.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::linalg;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arguments::{Axes, run};
use crate::bridge::{In, Out};

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(lu, module)?)?;
    module.add_function(wrap_pyfunction!(norm, module)?)?;
    module.add_function(wrap_pyfunction!(svd, module)?)?;
    Ok(())
}

/// The order of a norm.
#[derive(FromPyObject)]
enum Order {
    /// By a number.
    Number(f64),
    /// By a name.
    Name(String),
}

/// Norm of vectors (one axis) or matrices (two axes).
///
/// The order is a number, infinity, `fro` (Frobenius) or `nuc` (nuclear); without one it is the
/// square root of the sum of squares.
#[pyfunction]
#[pyo3(signature = (a, /, ord=None, axis=None, keepdims=false, *, stream=None))]
fn norm(
    a: In,
    ord: Option<Order>,
    axis: Option<Axes>,
    keepdims: bool,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let axes = axis.map(|axes| match axes {
        Axes::One(axis) => vec![axis],
        Axes::Many(axes) => axes,
    });
    let axes = axes.as_deref();
    run(stream, || match &ord {
        None => linalg::norm_l2(&a, axes, keepdims),
        Some(Order::Number(order)) => linalg::norm(&a, *order, axes, keepdims),
        Some(Order::Name(name)) => linalg::norm_matrix(&a, name, axes, keepdims),
    })
    .map(Out)
}

/// LU factorization with pivots: row indices, a lower triangular matrix and an upper one.
#[pyfunction]
#[pyo3(signature = (a, *, stream=None))]
fn lu<'py>(
    py: Python<'py>,
    a: In,
    stream: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let parts = run(stream, || linalg::lu(&a))?;
    PyTuple::new(py, parts.into_iter().map(Out))
}

/// Singular value decomposition: `U`, the singular values and `V` transposed.
///
/// Without `compute_uv` it is the singular values only.
#[pyfunction]
#[pyo3(signature = (a, compute_uv=true, *, stream=None))]
fn svd<'py>(
    py: Python<'py>,
    a: In,
    compute_uv: bool,
    stream: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut parts = run(stream, || linalg::svd(&a, compute_uv))?;
    if compute_uv {
        return Ok(PyTuple::new(py, parts.into_iter().map(Out))?.into_any());
    }
    Out(parts.remove(0)).into_pyobject(py)
}
