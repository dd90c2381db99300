//! The commands `graft-train`, `graft train`, `graft profile` and `graft generate`: the Rust program
//! and the Python command run the same code.

mod generate;
mod processes;
mod profile;
mod signals;
mod train;

use std::io::{self, Write};
use std::path::PathBuf;

pub use generate::{prompt_tokens, run_generate};
pub use processes::refuse_many_processes;
pub use profile::run_profile;
pub use signals::watch_signals;
pub use train::{check_tokens, run_train, training_state};

use crate::{Error, Result};

/// Turns the name of a model into its folder. The Python command downloads here what is missing.
pub type Resolve<'a> = &'a mut dyn FnMut(&str) -> Result<PathBuf>;

/// Fails if the user asked to stop, before there is something to lose.
fn check_interrupted(interrupted: &mut dyn FnMut() -> bool) -> Result<()> {
    if interrupted() {
        Err(Error::Interrupted("stopped; nothing was written".into()))
    } else {
        Ok(())
    }
}

/// Prints a text and ends the line: to standard output if `code` is 0, else to standard error. A
/// reader that has left, as of a pipe to `head`, is no failure.
pub fn show(text: &str, code: i32) {
    let text = text.trim_end_matches('\n');
    let _ =
        if code == 0 { writeln!(io::stdout(), "{text}") } else { writeln!(io::stderr(), "{text}") };
}

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(pub i32);

impl ExitCode {
    /// The exit code of an error: 130 after an interrupt, as shells have it, else 2.
    pub fn of(error: &Error) -> Self {
        Self(if matches!(error, Error::Interrupted(_)) { 130 } else { 2 })
    }
}
