//! Handles and bytes return to their start. One test, as the counters are the process's.
//!
//! `LEAK_REPETITIONS` says how often each round runs; `make leakcheck` sets 100,000.

#[path = "leaks/rounds.rs"]
mod rounds;

use mlx_graft::{live_handles, memory};

#[test]
fn no_round_leaves_anything() {
    let repetitions: usize = match std::env::var("LEAK_REPETITIONS") {
        Ok(text) => text.parse().expect("LEAK_REPETITIONS is no number"),
        Err(_) => 1000,
    };
    // The panics of the rounds are planned.
    std::panic::set_hook(Box::new(|_| {}));
    let mut leaks = Vec::new();
    let many = rounds::ROUNDS.iter().map(|round| (round, 10, repetitions));
    let few = rounds::FEW.iter().map(|round| (round, 2, 10));
    for ((name, round), warm_up, repetitions) in many.chain(few) {
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
    let _ = std::panic::take_hook();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}
