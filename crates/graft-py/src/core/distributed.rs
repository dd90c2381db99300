//! Several processes that compute together.

use mlx_graft::distributed::{self, Backend, Group};
use mlx_graft::{Array, Error, Result};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::bridge::{DtypeArg, GroupIn, GroupOut, Out, wrong_type};
use crate::error::to_py;
use crate::ops::arguments::run;
use crate::ops::scalars::Operand;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let group = module.py().import("mlx.core")?.getattr("distributed")?.getattr("Group")?;
    module.add("Group", group.cast_into::<PyType>()?)?;
    module.add_function(wrap_pyfunction!(is_available, module)?)?;
    module.add_function(wrap_pyfunction!(init, module)?)?;
    module.add_function(wrap_pyfunction!(all_sum, module)?)?;
    module.add_function(wrap_pyfunction!(all_max, module)?)?;
    module.add_function(wrap_pyfunction!(all_min, module)?)?;
    module.add_function(wrap_pyfunction!(all_gather, module)?)?;
    module.add_function(wrap_pyfunction!(sum_scatter, module)?)?;
    module.add_function(wrap_pyfunction!(send, module)?)?;
    module.add_function(wrap_pyfunction!(recv, module)?)?;
    module.add_function(wrap_pyfunction!(recv_like, module)?)
}

/// Whether MLX has a way to communicate and finds what it needs; `any` for one of them.
#[pyfunction]
#[pyo3(signature = (backend="any"))]
fn is_available(backend: &str) -> bool {
    Backend::from_name(backend).is_some_and(Backend::is_available)
}

/// The group of all processes. Without `strict`, a backend that cannot start gives a group of this
/// process alone. `all_gather_factory` helps the processes of the backend `jaccl` to find each
/// other: it gets the rank and the number of processes, and returns a function that gets the bytes
/// of this process with their number, and returns those of all.
#[pyfunction]
#[pyo3(signature = (strict=false, backend="any", *, all_gather_factory=None))]
fn init(
    strict: bool,
    backend: &str,
    all_gather_factory: Option<Bound<'_, PyAny>>,
) -> PyResult<GroupOut> {
    if let Some(other) = all_gather_factory.as_ref().filter(|factory| !factory.is_callable()) {
        return Err(wrong_type("a callable", other.as_borrowed()));
    }
    let Some(found) = Backend::from_name(backend) else {
        let names: Vec<String> = Backend::ALL.iter().map(|(_, name)| format!("'{name}'")).collect();
        return Err(PyValueError::new_err(format!(
            "[distributed] The backend is one of {}, not '{backend}'.",
            names.join(", ")
        )));
    };
    let Some(factory) = all_gather_factory else {
        return distributed::init(strict, found).map(GroupOut).map_err(to_py);
    };
    if found != Backend::Jaccl {
        return Err(PyValueError::new_err(
            "all_gather_factory is only supported with backend='jaccl'.",
        ));
    }
    let factory = factory.unbind();
    distributed::init_jaccl(strict, move |bytes, rank, size| {
        gather(&factory, bytes, rank, size).map_err(|error| Error::closure(Box::new(error)))
    })
    .map(GroupOut)
    .map_err(to_py)
}

fn gather(factory: &Py<PyAny>, bytes: &[u8], rank: usize, size: usize) -> PyResult<Vec<u8>> {
    Python::attach(|py| {
        let own = PyBytes::new(py, bytes);
        factory.call1(py, (rank, size))?.call1(py, (own, bytes.len()))?.extract(py)
    })
}

type Collective = fn(&Array, Option<&Group>) -> Result<Array>;

fn collective(
    function: Collective,
    x: Operand<'_>,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let x = x.array()?;
    run(stream, || function(&x, group.as_deref())).map(Out)
}

/// The sum of the arrays of all processes.
#[pyfunction]
#[pyo3(signature = (x, *, group=None, stream=None))]
fn all_sum(
    x: Operand<'_>,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    collective(distributed::all_sum, x, group, stream)
}

/// The greatest elements of the arrays of all processes.
#[pyfunction]
#[pyo3(signature = (x, *, group=None, stream=None))]
fn all_max(
    x: Operand<'_>,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    collective(distributed::all_max, x, group, stream)
}

/// The least elements of the arrays of all processes.
#[pyfunction]
#[pyo3(signature = (x, *, group=None, stream=None))]
fn all_min(
    x: Operand<'_>,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    collective(distributed::all_min, x, group, stream)
}

/// The arrays of all processes, one after the other along the first axis.
#[pyfunction]
#[pyo3(signature = (x, *, group=None, stream=None))]
fn all_gather(
    x: Operand<'_>,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    collective(distributed::all_gather, x, group, stream)
}

/// This process's part, along the first axis, of the sum of the arrays of all processes.
#[pyfunction]
#[pyo3(signature = (x, *, group=None, stream=None))]
fn sum_scatter(
    x: Operand<'_>,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    collective(distributed::sum_scatter, x, group, stream)
}

/// Sends an array to the process of rank `dst` when the result, the array itself, is evaluated.
#[pyfunction]
#[pyo3(signature = (x, dst, *, group=None, stream=None))]
fn send(
    x: Operand<'_>,
    dst: i32,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let x = x.array()?;
    run(stream, || distributed::send(&x, dst, group.as_deref())).map(Out)
}

/// The array of this shape and dtype that the process of rank `src` sends.
#[pyfunction]
#[pyo3(signature = (shape, dtype, src, *, group=None, stream=None))]
fn recv(
    shape: Vec<i32>,
    dtype: DtypeArg,
    src: i32,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    run(stream, || distributed::recv(&shape, dtype.0, src, group.as_deref())).map(Out)
}

/// As `recv`, with the shape and the dtype of an array.
#[pyfunction]
#[pyo3(signature = (x, src, *, group=None, stream=None))]
fn recv_like(
    x: Operand<'_>,
    src: i32,
    group: Option<GroupIn>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let x = x.array()?;
    run(stream, || distributed::recv_like(&x, src, group.as_deref())).map(Out)
}
