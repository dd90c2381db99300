//! Learning-rate schedules, as `lr_schedule` in a YAML file names them.

use std::f64::consts::PI;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::Result;
use crate::args::keys::{Keys, Origins};

/// A schedule as a configuration writes it.
///
/// Source: `build_schedule` of mlx-lm's `tuner/utils.py`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScheduleConfig {
    /// A function of `mlx.optimizers.schedulers`.
    pub name: String,
    /// Its arguments, in order; the first is the initial learning rate.
    pub arguments: Vec<f64>,
    /// Updates over which the rate rises linearly to the initial one.
    pub warmup: u64,
    /// The rate at the start of the warm-up.
    pub warmup_init: f64,
}

impl ScheduleConfig {
    pub(crate) fn read(values: Map<String, Value>, origins: &Origins) -> Result<Self> {
        let mut keys = Keys::new(values, "lr_schedule", origins);
        let Some(name) = keys.text("name")? else {
            let known = SHAPES.map(|shape| shape.name).join(", ");
            return Err(keys.error("name", &format!("missing; wanted one of {known}")));
        };
        let arguments = keys.numbers("arguments")?.unwrap_or_default();
        let config = Self {
            name,
            arguments,
            warmup: keys.integer("warmup", 0, 0..=i64::MAX)?,
            warmup_init: keys.number("warmup_init", 0.0, "a number of at least 0", |r| r >= 0.0)?,
        };
        Schedule::main(&config).map_err(|(key, message)| keys.error(key, &message))?;
        keys.finish()?;
        Ok(config)
    }
}

/// What a schedule's arguments look like.
struct Shape {
    name: &'static str,
    arguments: &'static str,
    count: std::ops::RangeInclusive<usize>,
    /// The argument that counts updates.
    steps: Option<usize>,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "cosine_decay",
        arguments: "init, decay_steps, end",
        count: 2..=3,
        steps: Some(1),
    },
    Shape { name: "exponential_decay", arguments: "init, decay_rate", count: 2..=2, steps: None },
    Shape { name: "linear_schedule", arguments: "init, end, steps", count: 3..=3, steps: Some(2) },
    Shape {
        name: "step_decay",
        arguments: "init, decay_rate, step_size",
        count: 3..=3,
        steps: Some(2),
    },
];

/// A learning rate as a function of the number of updates made so far.
///
/// Source: `mlx.optimizers.schedulers`; the arithmetic is theirs, in single precision.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// The same rate always.
    Constant(f64),
    /// `init * rate^step`.
    ExponentialDecay {
        /// The initial rate.
        init: f64,
        /// The factor of an update.
        rate: f64,
    },
    /// `init * rate^(step / size)`, with the quotient rounded down.
    StepDecay {
        /// The initial rate.
        init: f64,
        /// The factor of `size` updates.
        rate: f64,
        /// Updates between decays.
        size: u64,
    },
    /// Half a cosine from `init` to `end`, then `end`.
    CosineDecay {
        /// The initial rate.
        init: f64,
        /// Updates until `end`.
        steps: u64,
        /// The final rate.
        end: f64,
    },
    /// A straight line from `init` to `end`, then `end`.
    Linear {
        /// The initial rate.
        init: f64,
        /// The final rate.
        end: f64,
        /// Updates until `end`.
        steps: u64,
    },
    /// One schedule before `boundary`, and another, which starts there, from it on.
    Join {
        /// The schedule of the first updates.
        first: Box<Schedule>,
        /// The schedule from `boundary` on.
        second: Box<Schedule>,
        /// The update at which the second begins.
        boundary: u64,
    },
}

impl Schedule {
    /// The schedule of `config`, with its warm-up.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if `config` names no known schedule, or its arguments don't fit;
    /// one that was read from a file always does.
    pub fn new(config: &ScheduleConfig) -> Result<Self> {
        let main = Self::main(config).map_err(|(key, message)| {
            crate::Error::Usage(format!("`lr_schedule.{key}`: {message}"))
        })?;
        if config.warmup == 0 {
            return Ok(main);
        }
        let warmup = Self::Linear {
            init: config.warmup_init,
            end: config.arguments[0],
            steps: config.warmup,
        };
        let boundary = config.warmup + 1;
        Ok(Self::Join { first: Box::new(warmup), second: Box::new(main), boundary })
    }

    /// The schedule without warm-up, or the wrong key and why.
    fn main(config: &ScheduleConfig) -> Result<Self, (&'static str, String)> {
        let Some(shape) = SHAPES.iter().find(|shape| shape.name == config.name) else {
            let known = SHAPES.map(|shape| shape.name).join(", ");
            return Err(("name", format!("found {:?}, wanted one of {known}", config.name)));
        };
        let arguments = &config.arguments;
        let whole = |index: usize| arguments[index] >= 1.0 && arguments[index].fract() == 0.0;
        let wanted = format!("wanted [{}] for {}", shape.arguments, shape.name);
        if !shape.count.contains(&arguments.len()) {
            return Err(("arguments", format!("found {} numbers, {wanted}", arguments.len())));
        }
        if arguments[0] < 0.0 {
            return Err(("arguments", format!("found a negative rate {}, {wanted}", arguments[0])));
        }
        if let Some(index) = shape.steps.filter(|index| !whole(*index)) {
            let message = format!(
                "found {} updates, {wanted}, with a whole number of at least 1",
                arguments[index]
            );
            return Err(("arguments", message));
        }
        let init = arguments[0];
        Ok(match shape.name {
            "exponential_decay" => Self::ExponentialDecay { init, rate: arguments[1] },
            "step_decay" => Self::StepDecay { init, rate: arguments[1], size: arguments[2] as u64 },
            "cosine_decay" => Self::CosineDecay {
                init,
                steps: arguments[1] as u64,
                end: arguments.get(2).copied().unwrap_or(0.0),
            },
            _ => Self::Linear { init, end: arguments[1], steps: arguments[2] as u64 },
        })
    }

    /// The learning rate of the update that follows `step` updates.
    pub fn learning_rate(&self, step: u64) -> f32 {
        match *self {
            Self::Constant(rate) => rate as f32,
            Self::ExponentialDecay { init, rate } => init as f32 * (rate as f32).powf(step as f32),
            Self::StepDecay { init, rate, size } => {
                init as f32 * (rate as f32).powf((step / size) as f32)
            }
            Self::CosineDecay { init, steps, end } => {
                let angle = (PI / steps as f64) as f32 * step.min(steps) as f32;
                end as f32 + 0.5 * (1.0 + angle.cos()) * (init - end) as f32
            }
            Self::Linear { init, end, steps } => {
                step.min(steps) as f32 * ((end - init) / steps as f64) as f32 + init as f32
            }
            Self::Join { ref first, ref second, boundary } => match step.checked_sub(boundary) {
                None => first.learning_rate(step),
                Some(step) => second.learning_rate(step),
            },
        }
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
