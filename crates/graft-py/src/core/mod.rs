//! The functions of `mlx_graft.core` that are no operations, one file a concept. What `core/memory.rs`
//! defines is typed in `core/memory.pyi`, which `cargo xtask gen` puts into the stub of the package;
//! `core/fast/kernel.pyi` goes into that of `fast`.

mod autodiff;
mod compile;
mod convolve;
mod cuda;
mod custom_function;
mod device;
mod distributed;
mod dtype;
mod einsum_path;
mod eval;
mod export;
mod fast;
mod io;
mod memory;
mod metal;
mod printing;
mod stream;
mod transformed;
mod trees;
mod vmap;

use pyo3::prelude::*;

/// Adds the functions of all concepts to `core` and to its modules.
pub(crate) fn register(core: &Bound<'_, PyModule>) -> PyResult<()> {
    autodiff::register(core)?;
    compile::register(core)?;
    convolve::register(core)?;
    custom_function::register(core)?;
    dtype::register(core)?;
    einsum_path::register(core)?;
    eval::register(core)?;
    export::register(core)?;
    io::register(core)?;
    memory::register(core)?;
    vmap::register(core)?;
    device::register(core)?;
    stream::register(core)?;
    printing::register(core)?;
    fast::register(&core.getattr("fast")?.cast_into()?)?;
    submodule(core, "distributed", distributed::register)?;
    submodule(core, "metal", metal::register)?;
    submodule(core, "cuda", cuda::register)
}

fn submodule(
    core: &Bound<'_, PyModule>,
    name: &str,
    register: impl FnOnce(&Bound<'_, PyModule>) -> PyResult<()>,
) -> PyResult<()> {
    let module = PyModule::new(core.py(), name)?;
    register(&module)?;
    core.add_submodule(&module)
}
