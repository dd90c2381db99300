//! Transformed functions as Python objects.

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

/// What a transformation makes of a call.
pub(super) trait Transformation: Send + Sync {
    /// Calls the transformed function.
    fn call<'py>(
        &self,
        fun: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>>;

    /// Shows Python's garbage collector the objects that this holds.
    fn traverse(&self, _visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }
}

/// An argument that can be called.
pub(super) struct Callable(pub(super) Py<PyAny>);

impl<'py> FromPyObject<'_, 'py> for Callable {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_callable() {
            return Ok(Self(object.to_owned().unbind()));
        }
        let found = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("expected a callable, not {found}")))
    }
}

/// A transformed function. Its attributes are those of the original one.
#[pyclass(module = "mlx_graft.core", weakref)]
pub(super) struct Transformed(Option<(Py<PyAny>, Box<dyn Transformation>)>);

impl Transformed {
    pub(super) fn new(fun: Callable, transformation: impl Transformation + 'static) -> Self {
        Self(Some((fun.0, Box::new(transformation))))
    }
}

#[pymethods]
impl Transformed {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = args.py();
        let Some((fun, transformation)) = &self.0 else {
            return Err(PyTypeError::new_err("the function was cleared by the garbage collector"));
        };
        let kwargs = kwargs.unwrap_or_else(|| PyDict::new(py));
        transformation.call(fun.bind(py), args, &kwargs)
    }

    fn __getattribute__<'py>(&self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        match &self.0 {
            Some((fun, _)) => fun.bind(name.py()).getattr(name),
            None => Err(PyAttributeError::new_err(name.clone().unbind())),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some((fun, transformation)) = &self.0 {
            visit.call(fun)?;
            transformation.traverse(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&mut self) {
        self.0 = None;
    }
}
