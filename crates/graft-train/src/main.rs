//! `graft-train`: `LoRA` and full fine-tuning of language models, with the flags of `mlx_lm.lora`;
//! `graft-train profile`: where the time and the memory of a step go.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use graft_lm::cli::{ParseOutcome, parse_profile, parse_train};
use graft_lm::command::{ExitCode as CommandCode, run_profile, run_train, show, watch_signals};
use graft_lm::progress::default_reporter;
use graft_lm::{Result, hub};

fn main() -> ExitCode {
    let mut argv: Vec<_> = std::env::args_os().collect();
    if argv.get(1).is_some_and(|command| command == "profile") {
        argv.remove(1);
        argv[0] = "graft-train profile".into();
        return command(parse_profile(&argv), |args, interrupted| {
            let (mut reporter, mut out) = (default_reporter(), std::io::stdout());
            let resolve = &mut hub::resolve_model;
            run_profile(args, resolve, reporter.as_mut(), &mut out, interrupted)
        });
    }
    command(parse_train(&argv), |args, interrupted| {
        run_train(args, &mut hub::resolve_model, default_reporter().as_mut(), interrupted)
    })
}

/// Runs a command whose flags were read; `run` is given what says whether to stop.
fn command<T>(
    parsed: ParseOutcome<T>,
    run: impl FnOnce(&T, &mut dyn FnMut() -> bool) -> Result<()>,
) -> ExitCode {
    let args = match parsed {
        ParseOutcome::Run(args) => args,
        ParseOutcome::Exit { text, code } => {
            show(&text, code);
            return ExitCode::from(code as u8);
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let done = watch_signals(&stop).and_then(|()| run(&args, &mut || stop.load(Ordering::Relaxed)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let CommandCode(code) = CommandCode::of(&error);
            show(&format!("error: {error}"), code);
            ExitCode::from(code as u8)
        }
    }
}
