//! The commands `graft train`, `graft profile` and `graft generate`.

use std::ffi::OsString;
use std::path::PathBuf;

use graft_lm::cli::{ParseOutcome, parse_generate, parse_profile, parse_train};
use graft_lm::command::{ExitCode, run_generate, run_profile, run_train};
use graft_lm::progress::default_reporter;
use graft_lm::{Error, Result};
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
    finish(without_gil(py, || {
        run_train(
            &args,
            &mut |name| resolve_with(&resolve, name),
            default_reporter().as_mut(),
            &mut is_interrupted,
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
    finish(without_gil(py, || {
        run_profile(
            &args,
            &mut |name| resolve_with(&resolve, name),
            default_reporter().as_mut(),
            &mut std::io::stdout(),
            &mut is_interrupted,
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
    let mut out = Interruptible(std::io::stdout().lock());
    finish(without_gil(py, || {
        run_generate(&args, &mut |name| resolve_with(&resolve, name), &mut out)
    }))
}

/// Standard output that notices Ctrl-C between two pieces of text.
struct Interruptible<W>(W);

impl<W: std::io::Write> std::io::Write for Interruptible<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if is_interrupted() {
            return Err(std::io::Error::other("interrupted"));
        }
        self.0.flush()
    }
}

/// Whether Ctrl-C was pressed since this was asked last.
fn is_interrupted() -> bool {
    Python::attach(|py| py.check_signals().is_err())
}

fn resolve_with(resolve: &Py<PyAny>, name: &str) -> Result<PathBuf> {
    Python::attach(|py| {
        let folder = resolve.call1(py, (name,)).and_then(|folder| folder.extract(py));
        folder.map_err(|e: PyErr| {
            // The resolver's message is written for users; its type is not.
            Error::Usage(e.value(py).to_string())
        })
    })
}

fn say(text: &str, code: i32) -> i32 {
    if code == 0 {
        print!("{text}");
    } else {
        eprint!("{text}");
    }
    code
}

fn finish(done: Result<()>) -> i32 {
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::of(&error).0
        }
    }
}
