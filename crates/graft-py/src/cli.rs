//! The commands `graft train`, `graft profile` and `graft generate`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use graft_lm::cli::{ParseOutcome, parse_generate, parse_profile, parse_train};
use graft_lm::command::{ExitCode, run_generate, run_profile, run_train, show, watch_signals};
use graft_lm::progress::default_reporter;
use graft_lm::{Error, Result};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use crate::bridge::without_gil;

/// Runs `graft train` with the given arguments, the name of the command first, and returns the
/// exit code. `resolve` turns the name of a model into a folder.
#[pyfunction]
pub(crate) fn train(py: Python<'_>, argv: Vec<OsString>, resolve: Py<PyAny>) -> i32 {
    let args = match parse_train(&argv) {
        ParseOutcome::Run(args) => args,
        ParseOutcome::Exit { text, code } => return say(&text, code),
    };
    let stop = Arc::default();
    finish(without_gil(py, || {
        run_train(
            &args,
            &mut |name| resolve_with(&resolve, name, &stop),
            default_reporter().as_mut(),
            &mut || stop.load(Ordering::Relaxed),
        )
    }))
}

/// Runs `graft profile`; see [`train`].
#[pyfunction]
pub(crate) fn profile(py: Python<'_>, argv: Vec<OsString>, resolve: Py<PyAny>) -> i32 {
    let args = match parse_profile(&argv) {
        ParseOutcome::Run(args) => args,
        ParseOutcome::Exit { text, code } => return say(&text, code),
    };
    let stop = Arc::default();
    finish(without_gil(py, || {
        run_profile(
            &args,
            &mut |name| resolve_with(&resolve, name, &stop),
            default_reporter().as_mut(),
            &mut std::io::stdout(),
            &mut || stop.load(Ordering::Relaxed),
        )
    }))
}

/// Runs `graft generate`; see [`train`].
#[pyfunction]
pub(crate) fn generate(py: Python<'_>, argv: Vec<OsString>, resolve: Py<PyAny>) -> i32 {
    let args = match parse_generate(&argv) {
        ParseOutcome::Run(args) => args,
        ParseOutcome::Exit { text, code } => return say(&text, code),
    };
    let stop = Arc::default();
    let mut out = std::io::stdout().lock();
    finish(without_gil(py, || {
        run_generate(&args, &mut |name| resolve_with(&resolve, name, &stop), &mut out, &mut || {
            stop.load(Ordering::Relaxed)
        })
    }))
}

/// The folder of a model. What follows is Rust's work, so from there on `stop` is what signals set:
/// Python's handlers would wait for Python code to run.
fn resolve_with(resolve: &Py<PyAny>, name: &str, stop: &Arc<AtomicBool>) -> Result<PathBuf> {
    let folder = Python::attach(|py| {
        let folder = resolve.call1(py, (name,)).and_then(|folder| folder.extract(py));
        folder.map_err(|e: PyErr| {
            if e.is_instance_of::<PyKeyboardInterrupt>(py) {
                return Error::Interrupted("stopped; nothing was written".into());
            }
            // The resolver's message is written for users; its type is not.
            Error::Usage(e.value(py).to_string())
        })
    })?;
    watch_signals(stop)?;
    Ok(folder)
}

fn say(text: &str, code: i32) -> i32 {
    show(text, code);
    code
}

fn finish(done: Result<()>) -> i32 {
    match done {
        Ok(()) => 0,
        Err(error) => say(&format!("error: {error}"), ExitCode::of(&error).0),
    }
}
