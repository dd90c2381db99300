//! Values that belong to the thread that made them.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A value that only its owner thread can reach: MLX binds streams, and so lazy arrays, to a
/// thread. So a Python class may hold arrays.
///
/// If Python drops it on another thread, the value is freed when its own thread next makes or
/// reaches an `Owned`, and never if that thread has ended.
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

/// A value that another thread than its own let go of.
struct Abandoned {
    thread: ThreadId,
    value: Box<dyn Any>,
}

// SAFETY: `drop_abandoned` takes the value out on its own thread; elsewhere it only moves.
unsafe impl Send for Abandoned {}

static ABANDONED: Mutex<Vec<Abandoned>> = Mutex::new(Vec::new());
static ANY_ABANDONED: AtomicBool = AtomicBool::new(false);

/// Drops what other threads let go of and is this thread's.
fn drop_abandoned() {
    if !ANY_ABANDONED.load(Ordering::Acquire) {
        return;
    }
    let here = thread::current().id();
    let mine: Vec<_> = {
        let mut all = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = all.extract_if(.., |one| one.thread == here).map(|one| one.value).collect();
        ANY_ABANDONED.store(!all.is_empty(), Ordering::Release);
        mine
    };
    // A destructor may come back here.
    drop(mine);
}

impl<T> Owned<T> {
    /// Makes this thread the owner of `value`, called `what` in errors.
    pub fn new(what: &'static str, value: T) -> Self {
        drop_abandoned();
        let current = thread::current();
        let name = current.name().unwrap_or("unnamed").to_string();
        Self { value: Some(value), thread: current.id(), name, what }
    }

    /// The value, on the owner thread.
    ///
    /// # Errors
    /// A `RuntimeError` on another thread.
    pub fn get(&self) -> PyResult<&T> {
        drop_abandoned();
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
        // Reference counts inside are not atomic.
        if thread::current().id() != self.thread
            && let Some(value) = self.value.take()
        {
            let mut all = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(Abandoned { thread: self.thread, value: Box::new(value) });
            ANY_ABANDONED.store(true, Ordering::Release);
        }
    }
}
