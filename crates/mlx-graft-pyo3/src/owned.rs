//! Values that belong to the thread that made them.

use std::thread::{self, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A value that only its owner thread can reach: MLX binds streams, and so lazy arrays, to a
/// thread. So a Python class may hold arrays.
///
/// ```no_run
/// use mlx_graft::{Array, ops};
/// use mlx_graft_pyo3::{ArrayIn, ArrayOut, Owned, Result};
/// use pyo3::prelude::*;
///
/// #[pyclass]
/// struct Scaler(Owned<Array>);
///
/// #[pymethods]
/// impl Scaler {
///     #[new]
///     fn new(factor: ArrayIn) -> Self {
///         Self(Owned::new("scaler", factor.0))
///     }
///
///     fn __call__(&self, x: ArrayIn) -> Result<ArrayOut> {
///         Ok(ArrayOut(ops::multiply(self.0.get()?, &x)?))
///     }
/// }
/// ```
pub struct Owned<T: 'static> {
    value: Option<T>,
    thread: ThreadId,
    name: String,
    what: &'static str,
}

// SAFETY: `get` and `drop` hand the value out on the owner thread only; elsewhere nothing but the
// thread's id and name, which are plain data, is touched.
unsafe impl<T> Send for Owned<T> {}
// SAFETY: as above: a shared reference gives access on the owner thread only.
unsafe impl<T> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// Makes this thread the owner of `value`, called `what` in errors.
    pub fn new(what: &'static str, value: T) -> Self {
        let current = thread::current();
        let name = current.name().unwrap_or("unnamed").to_string();
        Self { value: Some(value), thread: current.id(), name, what }
    }

    /// The value, on the owner thread.
    ///
    /// # Errors
    /// A `RuntimeError` on another thread.
    pub fn get(&self) -> PyResult<&T> {
        match &self.value {
            Some(value) if thread::current().id() == self.thread => Ok(value),
            _ => Err(PyRuntimeError::new_err(format!(
                "this {} belongs to thread {:?} ({:?}), which made it, and is used from another \
                 one: MLX evaluates arrays on the thread that made them",
                self.what, self.name, self.thread
            ))),
        }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if thread::current().id() != self.thread {
            // Reference counts inside are not atomic: leaking is the only safe thing to do.
            std::mem::forget(self.value.take());
        }
    }
}
