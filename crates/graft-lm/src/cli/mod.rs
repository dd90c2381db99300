//! The command lines of training, of its profile and of generation, shared by the Rust binary and the Python
//! command: nothing here prints or exits.

mod generate;
mod profile;
mod train;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use serde::Serialize;
use serde_json::{Map, Value};

pub use generate::parse_generate;
pub use profile::parse_profile;
pub use train::parse_train;

use crate::Error;

/// What to do after reading a command line.
#[derive(Debug, Clone)]
pub enum ParseOutcome<T> {
    /// Run with these options.
    Run(T),
    /// Print `text` (to standard output if `code` is 0, else to standard error) and exit.
    Exit {
        /// Help, a version, or an error with its remedy.
        text: String,
        /// The exit code: 0 for help, 2 for an error.
        code: i32,
    },
}

impl<T> ParseOutcome<T> {
    /// The outcome of a user's error: its message, with exit code 2.
    pub fn from_error(error: &Error) -> Self {
        Self::Exit { text: format!("error: {error}\n"), code: 2 }
    }
}

impl<T> From<crate::Result<T>> for ParseOutcome<T> {
    fn from(result: crate::Result<T>) -> Self {
        match result {
            Ok(args) => Self::Run(args),
            Err(error) => Self::from_error(&error),
        }
    }
}

/// Reads flags into a mapping of those given; `argv[0]` is the command's name, such as
/// `graft-train` or `graft train`.
fn given_flags<F>(argv: &[OsString]) -> Result<Map<String, Value>, (String, i32)>
where
    F: CommandFactory + FromArgMatches + Serialize,
{
    let name = argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    let command = F::command().bin_name(&name).name(name);
    let flags = command
        .try_get_matches_from(argv)
        .and_then(|matches| F::from_arg_matches(&matches))
        .map_err(|error| {
            let code = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => 2,
            };
            (error.render().to_string(), code)
        })?;
    let Ok(Value::Object(mut given)) = serde_json::to_value(flags) else {
        unreachable!("flags are a struct of plain values");
    };
    // Flags without a value are false when absent, and lists are empty.
    given.retain(|_, value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    });
    Ok(given)
}

/// A number that JSON has too: it has no infinities, and no NaN.
fn finite(value: &str) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("wanted a finite number".to_owned()),
    }
}

#[cfg(test)]
mod tests;
