//! Where the time and the memory of a training step go.

mod cost;
mod machine;
mod memory;
mod rows;
mod table;

use std::time::Instant;

use mlx_graft::profile::{Profile, Timing};
use mlx_graft::{Array, memory as arrays, version};
use serde::Serialize;

pub use machine::Limits;
pub(crate) use machine::on_processor;
pub use memory::{Made, Memory};
pub use rows::Row;

use crate::args::TrainArgs;
use crate::models::Model;
use crate::nn::Module;
use crate::trainer::Trainer;
use crate::{Error, Result};

/// Turns before those that count: the first compiles the step and gets its memory from the system.
const WARMUP: usize = 2;

/// The batch of a profile.
#[derive(Debug)]
pub struct Batch {
    /// int32 `(B, T)`, of the model's vocabulary.
    pub tokens: Array,
    /// int32 `(B, 2)`: the first token that counts as a target, and the length of each row.
    pub lengths: Array,
    /// Whether the tokens are random.
    pub random: bool,
}

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How operations are timed.
    pub timing: Timing,
    /// Whether operations of the same name are told apart by their shapes.
    pub shapes: bool,
    /// How many steps are taken with the profile, and as many without in turns with them.
    pub turns: usize,
}

/// What was measured; the JSON of `graft profile`. Times are seconds, memory is bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this project.
    pub graft: &'static str,
    /// The version of MLX.
    pub mlx: String,
    /// `cpu` or `gpu`.
    pub device: &'static str,
    /// The threads of the CPU's operations.
    pub threads: usize,
    /// `together` or `apart`, see [`Timing`].
    pub timing: &'static str,
    /// The options of training.
    pub options: TrainArgs,
    /// The batch: `[rows, tokens]`.
    pub batch: Vec<i32>,
    /// Whether the tokens were random.
    pub random: bool,
    /// The speeds that shares of the limit are taken from.
    pub limits: Limits,
    /// The time of a step.
    pub step: Step,
    /// The operations of the step, those that took longest first.
    pub operations: Vec<Row>,
    /// The memory of a step.
    pub memory: Memory,
}

/// The times of a step, in seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Of steps without the profile: the median.
    pub seconds: f64,
    /// Each step without the profile.
    pub turns: Vec<f64>,
    /// The step whose operations are reported: the median of those with the profile. The sum of
    /// the three parts that follow.
    pub profiled: f64,
    /// Each step with the profile.
    pub profiled_turns: Vec<f64>,
    /// The operations of the reported step together.
    pub operations: f64,
    /// The time of its evaluation in which no operation ran: of starting and waiting.
    pub between: f64,
    /// The time before its evaluation, in which the trainer builds the graph.
    pub building: f64,
}

/// Profiles steps of a trainer on one batch.
///
/// `interrupted` is asked between steps whether to stop.
///
/// # Errors
/// Those of [`Trainer::step`], and [`Error::Interrupted`].
pub fn profile(
    model: &Model,
    trainer: &mut Trainer,
    batch: &Batch,
    options: Options,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Report> {
    let mut check = || {
        if interrupted() {
            return Err(Error::Interrupted("stopped; nothing is written".into()));
        }
        Ok(())
    };
    for _ in 0..WARMUP {
        check()?;
        trainer.step_of_known(&batch.tokens, &batch.lengths)?;
    }
    let (mut plain, mut profiled) = (Vec::new(), Vec::new());
    let (mut before, mut peak) = (0, 0);
    for _ in 0..options.turns {
        check()?;
        before = arrays::active()?;
        arrays::reset_peak()?;
        let start = Instant::now();
        trainer.step_of_known(&batch.tokens, &batch.lengths)?;
        plain.push(start.elapsed().as_secs_f64());
        peak = arrays::peak()?;
        check()?;
        let (profile, building) = trainer.profile(&batch.tokens, &batch.lengths, options.timing)?;
        profiled.push(Profiled { profile, building: building.as_secs_f64() });
    }
    let (resident, most_resident) = memory::resident();
    let profiled_turns = profiled.iter().map(Profiled::seconds).collect();
    profiled.sort_by(|a, b| a.seconds().total_cmp(&b.seconds()));
    let chosen = profiled.swap_remove((profiled.len() - 1) / 2);
    let operations = &chosen.profile.operations;

    check()?;
    let limits = Limits::measure(&rows::product_dtypes(operations))?;
    let (frozen, trained) = weights(model);
    let optimizer = 2 * trained;
    let (before, peak) = (before as u64, (peak as u64).max(before as u64));
    Ok(Report {
        graft: env!("CARGO_PKG_VERSION"),
        mlx: version()?,
        device: if machine::on_processor()? { "cpu" } else { "gpu" },
        threads: graft_kernels::limits::threads(),
        timing: match options.timing {
            Timing::Together => "together",
            Timing::Apart => "apart",
        },
        options: trainer.args().clone(),
        batch: batch.tokens.shape().to_vec(),
        random: batch.random,
        operations: rows::rows(operations, &limits, chosen.seconds(), options.shapes),
        step: Step {
            seconds: median(&plain),
            turns: plain,
            profiled: chosen.seconds(),
            profiled_turns,
            operations: chosen.operations(),
            between: chosen.between(),
            building: chosen.building,
        },
        memory: Memory {
            frozen,
            trained,
            optimizer,
            other: before.saturating_sub(frozen + trained + optimizer),
            step: peak - before,
            peak,
            made_by: memory::fullest(operations),
            resident,
            most_resident,
        },
        limits,
    })
}

/// A step that was profiled.
struct Profiled {
    profile: Profile,
    building: f64,
}

impl Profiled {
    fn operations(&self) -> f64 {
        self.profile.operations.iter().map(|op| op.elapsed().as_secs_f64()).sum()
    }

    fn between(&self) -> f64 {
        (self.profile.elapsed.as_secs_f64() - self.operations()).max(0.0)
    }

    fn seconds(&self) -> f64 {
        self.building + self.operations() + self.between()
    }
}

/// The bytes of the weights that are frozen and of those that are trained.
fn weights(model: &Model) -> (u64, u64) {
    let (mut frozen, mut trained) = (0, 0);
    for (_, param) in model.decoder.params() {
        let bytes = param.get().nbytes() as u64;
        *(if param.is_trainable() { &mut trained } else { &mut frozen }) += bytes;
    }
    (frozen, trained)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}
