//! `graft profile`: the flags of `graft train`, and what is measured.

use std::ffi::OsString;

use clap::Parser;
use serde::Serialize;

use super::train::{TrainFlags, merge};
use super::{ParseOutcome, given_flags};
use crate::args::ProfileArgs;

/// Show where the time and the memory of a training step go.
///
/// Takes the flags and the YAML file of `train`. One batch is trained on for some steps, in turns
/// with and without the profile; nothing is saved. Without --data the tokens are random,
/// --batch-size rows of --max-seq-length [then 257].
#[derive(Parser, Serialize)]
#[command(version, infer_long_args = true, args_override_self = true)]
struct ProfileFlags {
    /// Write everything that was measured to this file, as JSON.
    #[arg(long)]
    json: Option<String>,
    /// Tell operations of the same name apart by their shapes.
    #[arg(long)]
    shapes: bool,
    /// Evaluate each operation alone, as is done on a GPU always.
    #[arg(long)]
    apart: bool,
    /// Steps with the profile, and as many without [default: 5].
    #[arg(long, allow_negative_numbers = true)]
    turns: Option<i64>,
    /// The most lines of the table of operations [default: 20].
    #[arg(long, allow_negative_numbers = true)]
    lines: Option<i64>,
    #[command(flatten)]
    #[serde(flatten)]
    train: TrainFlags,
}

/// Reads the command line of a profile; `argv[0]` is the command's name in help and errors.
pub fn parse_profile(argv: &[OsString]) -> ParseOutcome<ProfileArgs> {
    match given_flags::<ProfileFlags>(argv) {
        Ok(flags) => {
            merge(flags).and_then(|(values, origins)| ProfileArgs::read(values, &origins)).into()
        }
        Err((text, code)) => ParseOutcome::Exit { text, code },
    }
}
