//! The operations as Python functions: `mlx_graft.core`, named and called as in `mlx.core`.

pub(crate) mod arguments;
mod arithmetic;
mod create;
mod fast;
mod fft;
mod fourier;
mod indexing;
mod irregular;
mod irregular_arange;
mod irregular_conv;
mod irregular_fast;
mod irregular_linalg;
mod irregular_random;
mod irregular_shape;
mod linalg;
mod linear;
mod logic;
mod math;
mod quantized;
mod random;
pub(crate) mod random_state;
mod reduce;
pub(crate) mod scalars;
mod shape;
mod sorting;

use pyo3::prelude::*;

/// Adds the functions to `core`, and the modules `fast`, `fft`, `linalg` and `random` with theirs.
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
    irregular_arange::register(core)?;
    irregular_conv::register(core)?;
    irregular_shape::register(core)?;
    let fast = PyModule::new(core.py(), "fast")?;
    fast::register(&fast)?;
    irregular_fast::register(&fast)?;
    core.add_submodule(&fast)?;
    let fft = PyModule::new(core.py(), "fft")?;
    fft::register(&fft)?;
    core.add_submodule(&fft)?;
    let linalg = PyModule::new(core.py(), "linalg")?;
    linalg::register(&linalg)?;
    irregular_linalg::register(&linalg)?;
    core.add("matrix_norm", linalg.getattr("norm")?)?;
    core.add_submodule(&linalg)?;
    let random = PyModule::new(core.py(), "random")?;
    random::register(&random)?;
    irregular_random::register(&random)?;
    core.add_submodule(&random)
}
