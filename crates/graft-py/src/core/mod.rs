//! The functions of `mlx_graft.core` that are no operations, one file a concept. What `core/memory.rs`
//! defines is typed in `core/memory.pyi`, which `cargo xtask gen` puts into the stub of the package.

mod convolve;
mod dtype;
mod einsum_path;
mod io;
mod memory;

use pyo3::prelude::*;

/// Adds the functions of all concepts to `core`.
pub(crate) fn register(core: &Bound<'_, PyModule>) -> PyResult<()> {
    convolve::register(core)?;
    dtype::register(core)?;
    einsum_path::register(core)?;
    io::register(core)?;
    memory::register(core)
}
