//! The traces of a compiled Python function, which any Python thread may call and free.

use std::ops::Deref;

use mlx_graft::transforms::Traces;

/// [`Traces`] of Python functions.
#[derive(Default)]
pub(crate) struct PyTraces(Traces);

// SAFETY: MLX locks its caches, and `Traces` its own list of them. They belong to one thread for
// the sake of closures that a trace holds; those of this crate hold Python objects, which may be
// freed on any thread (`Held`), and nothing that is counted without atomics. Arrays in a trace are
// freed by atomic counts.
unsafe impl Send for PyTraces {}
// SAFETY: as above: a call uses the cache of its own thread only.
unsafe impl Sync for PyTraces {}

impl Deref for PyTraces {
    type Target = Traces;

    fn deref(&self) -> &Traces {
        &self.0
    }
}
