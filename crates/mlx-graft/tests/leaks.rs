//! Handles and bytes return to their start. One test, as the counters are the process's.
//!
//! `LEAK_REPETITIONS` says how often each round runs; `make leakcheck` sets 100,000.

#[path = "leaks/functions.rs"]
mod functions;
#[path = "leaks/outside.rs"]
mod outside;
#[path = "leaks/rounds.rs"]
mod rounds;
#[path = "leaks/thread.rs"]
mod thread;

use mlx_graft::{Array, Result, live_handles, memory};

/// A name and one repetition.
type Round = (&'static str, fn() -> Result<()>);

/// What MLX itself bears a few times only: it keeps the thread of each stream to the end of the
/// process.
const FEW: &[Round] = rounds::FEW;
const MANY: [&[Round]; 3] = [rounds::ROUNDS, functions::ROUNDS, outside::ROUNDS];
/// In these a kernel fails, see [`thread::off_the_first_thread`].
const FAILING: [&[Round]; 2] = [rounds::FAILING, outside::FAILING];

fn x() -> Result<Array> {
    Array::from_slice(&[0.5_f32; 256], &[16, 16])
}

#[test]
fn no_round_leaves_anything() {
    let repetitions: usize = match std::env::var("LEAK_REPETITIONS") {
        Ok(text) => text.parse().expect("LEAK_REPETITIONS is no number"),
        Err(_) => 1000,
    };
    // The panics of the rounds are planned.
    std::panic::set_hook(Box::new(|_| {}));
    let many = MANY.into_iter().flatten().map(|round| (round, 10, repetitions));
    let slow = functions::SLOW.iter().map(|round| (round, 2, repetitions.div_ceil(100)));
    let few = FEW.iter().map(|round| (round, 2, 10));
    let mut leaks = run(many.chain(slow).chain(few));
    leaks.extend(thread::off_the_first_thread(move || {
        run(FAILING.into_iter().flatten().map(|round| (round, 10, repetitions)))
    }));
    let _ = std::panic::take_hook();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

/// Runs rounds, each with so many repetitions before its counters are read and so many after; says
/// which of them leave something.
fn run<'a>(rounds: impl Iterator<Item = (&'a Round, usize, usize)>) -> Vec<String> {
    let mut leaks = Vec::new();
    for ((name, round), warm_up, repetitions) in rounds {
        let repeat = |times| {
            for _ in 0..times {
                round().unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        };
        repeat(warm_up);
        let before = (live_handles(), memory::active().unwrap());
        repeat(repetitions);
        let after = (live_handles(), memory::active().unwrap());
        if after != before {
            leaks.push(format!("{name}: {before:?} handles and bytes became {after:?}"));
        }
    }
    leaks
}
