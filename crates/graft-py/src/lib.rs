//! The extension module `mlx_graft._core`: conversions between Python and the Rust crates, and
//! nothing clever.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod bridge;
mod cli;
mod core;
mod data;
mod error;
mod generate;
mod json;
mod kernels;
mod model;
mod ops;
mod signals;
mod tokenizer;
mod trainer;
mod tree;

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

/// The folder of a model: a path, or the name of a repository in the hub's cache.
#[pyfunction]
fn resolve_model(name: &str) -> PyResult<std::path::PathBuf> {
    graft_lm::hub::resolve_model(name).map_err(error::lm_to_py)
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    mlx_graft_pyo3::join(module.py())?;
    module.add("MLX_VERSION", mlx_graft::sys::MLX_VERSION)?;
    // Timings of a debug build say little, so `graft bench` writes down which one it measured.
    module.add("BUILD_PROFILE", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    module.add_function(wrap_pyfunction!(identity, module)?)?;
    module.add_function(wrap_pyfunction!(live_handles, module)?)?;
    module.add_function(wrap_pyfunction!(resolve_model, module)?)?;
    kernels::register(module)?;
    module.add_function(wrap_pyfunction!(trainer::check_options, module)?)?;
    module.add_function(wrap_pyfunction!(cli::train, module)?)?;
    module.add_function(wrap_pyfunction!(cli::profile, module)?)?;
    module.add_function(wrap_pyfunction!(cli::generate, module)?)?;
    module.add_class::<model::PyModel>()?;
    module.add_class::<model::PyCache>()?;
    module.add_class::<tokenizer::PyTokenizer>()?;
    module.add_class::<data::PyDataset>()?;
    module.add_class::<trainer::PyTrainer>()?;
    module.add_class::<generate::PyGeneration>()?;
    module.add_class::<generate::PyGenerated>()?;
    let core = PyModule::new(module.py(), "core")?;
    ops::register(&core)?;
    core::register(&core)?;
    module.add_submodule(&core)
}
