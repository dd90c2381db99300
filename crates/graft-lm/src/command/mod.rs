//! The commands `graft-train`, `graft train`, `graft profile` and `graft generate`: the Rust program
//! and the Python command run the same code.

mod generate;
mod profile;
mod signals;
mod train;

use std::path::PathBuf;

pub use generate::{prompt_tokens, run_generate};
pub use profile::run_profile;
pub use signals::watch_signals;
pub use train::{check_tokens, run_train};

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

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(pub i32);

impl ExitCode {
    /// The exit code of an error: 130 after an interrupt, as shells have it, else 2.
    pub fn of(error: &Error) -> Self {
        Self(if matches!(error, Error::Interrupted(_)) { 130 } else { 2 })
    }
}
