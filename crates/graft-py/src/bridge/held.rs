//! Python objects that C++ owns and may drop anywhere.

use std::ops::Deref;

use pyo3::{Python, ffi};

/// Python objects inside a closure of MLX.
///
/// The last owner of a closure may be a graph that is freed while MLX computes without the GIL, or
/// an array that Python frees outside of any call of this crate, where `PyO3` knows of no GIL.
pub(crate) struct Held<T>(Option<T>);

impl<T> Held<T> {
    pub(crate) fn new(objects: T) -> Self {
        Self(Some(objects))
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only a drop takes the objects")
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let mut objects = self.0.take();
        // SAFETY: may be called from any thread, also while the interpreter shuts down.
        let is_pythons = !unsafe { ffi::PyGILState_GetThisThreadState() }.is_null();
        // A thread of MLX must not wait for the GIL: whoever holds it may wait for that thread.
        // What is not freed here waits for the next call of this crate.
        if is_pythons {
            Python::try_attach(|_| drop(objects.take()));
        }
    }
}
