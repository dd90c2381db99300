//! The extension module `mlx_graft._core`: conversions between Python and the Rust crates, and
//! nothing clever.

mod bridge;
mod error;
mod ops;

use pyo3::prelude::*;

use bridge::{In, Out};

/// Returns its argument, through Rust and back.
#[pyfunction]
fn identity(x: In) -> Out {
    Out(x.into_array())
}

/// The number of handles of MLX objects that Rust holds.
#[pyfunction]
fn live_handles() -> isize {
    mlx_graft::live_handles()
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    bridge::join(module)?;
    module.add("MLX_VERSION", mlx_graft::sys::MLX_VERSION)?;
    module.add_function(wrap_pyfunction!(identity, module)?)?;
    module.add_function(wrap_pyfunction!(live_handles, module)?)?;
    let core = PyModule::new(module.py(), "core")?;
    ops::register(&core)?;
    module.add_submodule(&core)
}
