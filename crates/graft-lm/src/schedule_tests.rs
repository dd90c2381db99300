#![expect(clippy::unreadable_literal, reason = "numbers as Python prints them")]

use serde_json::{Map, Value, json};

use super::{Schedule, ScheduleConfig};
use crate::args::keys::Origins;

fn map(value: Value) -> Map<String, Value> {
    serde_json::from_value(value).unwrap()
}

fn config(value: Value) -> crate::Result<ScheduleConfig> {
    ScheduleConfig::read(map(value), &Origins::default())
}

const STEPS: [u64; 20] =
    [0, 1, 2, 9, 10, 11, 12, 20, 21, 22, 50, 75, 99, 100, 119, 120, 149, 150, 199, 200];

/// Compares with what `mlx_lm.tuner.utils.build_schedule(config)(mx.array(step, mx.uint64))` gave
/// on mlx 0.32.2.
#[track_caller]
fn check(value: Value, expected: [f64; 20]) {
    let config = config(value).unwrap();
    let schedule = Schedule::new(&config).unwrap();
    for (step, expected) in STEPS.into_iter().zip(expected) {
        let found = f64::from(schedule.learning_rate(step));
        // The end of a cosine cancels, so the error there is relative to the initial rate.
        let allowed = 1e-6 * expected.abs() + 1e-7 * config.arguments[0];
        assert!((found - expected).abs() <= allowed, "step {step}: {found:e}, not {expected:e}");
    }
}

#[test]
#[rustfmt::skip]
fn decays_equal_mlx() {
    check(json!({"name": "exponential_decay", "arguments": [0.1, 0.9]}), [
        1.000000015e-01, 8.999999613e-02, 8.099999279e-02, 3.874203935e-02, 3.486783430e-02,
        3.138105199e-02, 2.824294567e-02, 1.215765905e-02, 1.094189286e-02, 9.847703390e-03,
        5.153768579e-04, 3.699877561e-05, 2.951258921e-06, 2.656132892e-06, 3.588039874e-07,
        3.229235688e-07, 1.521010340e-08, 1.368909341e-08, 7.838935751e-11, 7.055041967e-11,
    ]);
    check(json!({"name": "step_decay", "arguments": [0.01, 0.5, 10]}), [
        9.999999776e-03, 9.999999776e-03, 9.999999776e-03, 9.999999776e-03, 4.999999888e-03,
        4.999999888e-03, 4.999999888e-03, 2.499999944e-03, 2.499999944e-03, 2.499999944e-03,
        3.124999930e-04, 7.812499825e-05, 1.953124956e-05, 9.765624782e-06, 4.882812391e-06,
        2.441406195e-06, 6.103515489e-07, 3.051757744e-07, 1.907348590e-08, 9.536742951e-09,
    ]);
}

#[test]
#[rustfmt::skip]
fn cosines_and_lines_with_warmup_equal_mlx() {
    check(json!({"name": "cosine_decay", "arguments": [1e-5, 150, 1e-7]}), [
        9.999999747e-06, 9.998913811e-06, 9.995657820e-06, 9.912320820e-06, 9.891830814e-06,
        9.869215319e-06, 9.844486158e-06, 9.572049748e-06, 9.528894225e-06, 9.483773283e-06,
        7.525000001e-06, 5.049999345e-06, 2.665319698e-06, 2.574999826e-06, 1.107177354e-06,
        1.045365821e-06, 1.010857602e-07, 1.000000012e-07, 1.000000012e-07, 1.000000012e-07,
    ]);
    let warm = json!({
        "name": "cosine_decay", "arguments": [3e-4, 100], "warmup": 10, "warmup_init": 1e-7
    });
    check(warm, [
        1.000000012e-07, 3.009000102e-05, 6.008000128e-05, 2.700100013e-04, 3.000000142e-04,
        3.000000142e-04, 2.999259741e-04, 2.940440609e-04, 2.926584857e-04, 2.911321353e-04,
        2.008107112e-04, 8.613309910e-05, 1.053351843e-05, 8.867875295e-06, 0.0, 0.0, 0.0, 0.0,
        0.0, 0.0,
    ]);
    check(json!({"name": "linear_schedule", "arguments": [1e-3, 1e-5, 120], "warmup": 20}), [
        0.000000000e+00, 4.999999874e-05, 9.999999747e-05, 4.499999923e-04, 4.999999655e-04,
        5.499999970e-04, 5.999999703e-04, 9.999999311e-04, 1.000000047e-03, 9.917500429e-04,
        7.607500302e-04, 5.545000313e-04, 3.565000370e-04, 3.482500324e-04, 1.915000612e-04,
        1.832500566e-04, 1.000007614e-05, 1.000007614e-05, 1.000007614e-05, 1.000007614e-05,
    ]);
}

#[test]
fn wrong_schedules_say_what_is_wanted() {
    let message = |value| config(value).unwrap_err().to_string();
    assert_eq!(
        message(json!({"name": "cosine", "arguments": [1.0]})),
        "`lr_schedule.name`: found \"cosine\", wanted one of cosine_decay, exponential_decay, \
         linear_schedule, step_decay"
    );
    assert_eq!(
        message(json!({"name": "step_decay", "arguments": [1.0, 0.5]})),
        "`lr_schedule.arguments`: found 2 numbers, wanted [init, decay_rate, step_size] for \
         step_decay"
    );
    assert_eq!(
        message(json!({"name": "cosine_decay", "arguments": [1.0, 0]})),
        "`lr_schedule.arguments`: found 0 updates, wanted [init, decay_steps, end] for \
         cosine_decay, with a whole number of at least 1"
    );
    assert_eq!(
        message(json!({"name": "cosine_decay", "arguments": [1.0, 5], "warmups": 3})),
        "`lr_schedule.warmups`: unknown key; did you mean `warmup`?"
    );
}
