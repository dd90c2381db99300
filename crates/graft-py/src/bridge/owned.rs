//! Values that belong to the thread that made them.

use std::thread::{self, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A value that only its owner thread can reach: MLX binds streams, and so lazy arrays, to a
/// thread.
pub(crate) struct Owned<T: 'static> {
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
    pub(crate) fn new(what: &'static str, value: T) -> Self {
        let current = thread::current();
        let name = current.name().unwrap_or("unnamed").to_string();
        Self { value: Some(value), thread: current.id(), name, what }
    }

    /// The value, on the owner thread.
    pub(crate) fn get(&self) -> PyResult<&T> {
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
