//! The operations as Python functions: `mlx_graft.core`, named and called as in `mlx.core`.

mod arguments;
mod arithmetic;
mod create;
mod fast;
mod indexing;
mod irregular;
mod irregular_fast;
mod irregular_random;
mod linear;
mod logic;
mod math;
mod quantized;
mod random;
mod reduce;
mod scalars;
mod shape;
mod sorting;

use pyo3::prelude::*;

/// Adds the functions to `core`, and the modules `fast` and `random` with theirs.
pub(crate) fn register(core: &Bound<'_, PyModule>) -> PyResult<()> {
    arithmetic::register(core)?;
    math::register(core)?;
    logic::register(core)?;
    reduce::register(core)?;
    sorting::register(core)?;
    shape::register(core)?;
    indexing::register(core)?;
    create::register(core)?;
    linear::register(core)?;
    quantized::register(core)?;
    irregular::register(core)?;
    let fast = PyModule::new(core.py(), "fast")?;
    fast::register(&fast)?;
    irregular_fast::register(&fast)?;
    core.add_submodule(&fast)?;
    let random = PyModule::new(core.py(), "random")?;
    random::register(&random)?;
    irregular_random::register(&random)?;
    core.add_submodule(&random)
}
