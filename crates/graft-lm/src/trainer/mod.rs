//! The trainer.

mod earlier;
mod fit;
mod flat;
mod loss;
mod memory_check;
mod optimizer;
mod state;
mod step;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlx_graft::memory::{LimitGuard, Limits};
use mlx_graft::profile::{self, Profile, Timing};
use mlx_graft::{Array, ops, transforms};
use serde_json::{Map, Value};

pub use earlier::EARLIER_FILE;
pub use fit::Hooks;
pub use loss::next_token_loss;
use memory_check::MemoryCheck;
pub(crate) use memory_check::available_bytes;
pub use state::{STATE_FILE, TrainingState};
pub use step::{Step, StepOutput};

use crate::adapter_config::AdapterConfig;
use crate::adapters;
use crate::args::TrainArgs;
use crate::data::{Batch, BatchRng, Batches, Dataset, PackedBatch, Widths};
use crate::models::Model;
use crate::nn::Context;
use crate::progress::Reporter;
use crate::schedule::Schedule;
use crate::{Error, Result};

/// How far a trainer has come, for those that it calls while it trains.
#[derive(Debug, Default)]
pub struct Reached {
    /// The number of batches trained on.
    pub batches: Cell<u64>,
    /// The learning rate of the next update.
    pub learning_rate: Cell<f32>,
    /// Whether a step has begun and not ended: if none is running, its evaluation failed.
    in_step: Cell<bool>,
}

impl Reached {
    /// Fails if the weights are those that the failed evaluation of a step has left. It may have
    /// written over those before, of which nobody holds a copy.
    fn check(&self) -> Result<()> {
        if !self.in_step.get() {
            return Ok(());
        }
        Err(Error::Broken(
            "the evaluation of a step failed, and the weights are neither those before it nor those \
             after it, so that they are not trained, tested or saved. Load the model again; a \
             training goes on from its last save with --resume"
                .into(),
        ))
    }
}

/// Writes the trained weights of a model and their configuration, also while it is trained.
#[derive(Clone)]
pub struct Saver {
    model: Rc<Model>,
    args: Rc<TrainArgs>,
    /// The options that `adapter_config.json` tells.
    told: Map<String, Value>,
    reached: Rc<Reached>,
}

/// Trains the trainable weights of a model.
pub struct Trainer {
    model: Rc<Model>,
    args: Rc<TrainArgs>,
    saver: Saver,
    reached: Rc<Reached>,
    schedule: Schedule,
    step: Step,
    batches_seen: u64,
    rng: BatchRng,
    memory: MemoryCheck,
    _limits: LimitGuard,
}

impl Trainer {
    /// Prepares to train `model` with the options of `args`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model has no trainable weights.
    pub fn new(model: Rc<Model>, args: TrainArgs) -> Result<Self> {
        let limits = limit_memory(&args)?;
        model.decoder.set_grad_checkpoint(args.grad_checkpoint);
        let options = args.optimizer_options()?;
        let every = args.grad_accumulation_steps;
        let step = Step::new(&model, options, every, u64::from(args.seed))?;
        let schedule = match &args.lr_schedule {
            Some(config) => Schedule::new(config)?,
            None => Schedule::Constant(args.learning_rate),
        };
        let rng = BatchRng::new(args.seed);
        let memory = MemoryCheck::default();
        let told = AdapterConfig::from_args(&args).other;
        let args = Rc::new(args);
        let reached: Rc<Reached> = Rc::default();
        let saver =
            Saver { model: model.clone(), args: args.clone(), told, reached: reached.clone() };
        let trainer = Self {
            model,
            args,
            saver,
            reached,
            schedule,
            step,
            batches_seen: 0,
            rng,
            memory,
            _limits: limits,
        };
        trainer.publish();
        Ok(trainer)
    }

    /// Has `adapter_config.json` tell only these options: the caller knows nothing of the others,
    /// such as the name of the model, and has them from [`TrainArgs::default`].
    pub fn tell_only(&mut self, known: impl Fn(&str) -> bool) {
        self.saver.told.retain(|key, _| known(key));
    }

    /// The options.
    pub fn args(&self) -> &TrainArgs {
        &self.args
    }

    /// Who writes the weights.
    pub fn saver(&self) -> &Saver {
        &self.saver
    }

    /// How far this trainer has come, which goes on with it.
    pub fn reached(&self) -> Rc<Reached> {
        self.reached.clone()
    }

    fn publish(&self) {
        self.reached.batches.set(self.batches_seen);
        self.reached.learning_rate.set(self.schedule.learning_rate(self.step.updates()));
    }

    /// The generator of the order of batches, where it stands.
    pub fn into_rng(self) -> BatchRng {
        self.rng
    }

    /// Trains on one batch: the mean loss per token before the update, and the number of tokens.
    ///
    /// `tokens` is int32 `(B, T)`, `lengths` int32 `(B, 2)`: the first and the last position of each
    /// row that count, inclusive; or rows one behind the other, as [`next_token_loss`] takes them.
    /// The tokens are evaluated first, to be checked, and all the rest of the step at once.
    ///
    /// # Errors
    /// [`Error::NonFiniteLoss`] if the loss or a gradient is NaN or infinite; the weights are then as
    /// before. An error of the kind [`Index`](crate::ErrorKind::Index) for a token outside the
    /// vocabulary, before anything is done. Whatever else fails in the evaluation breaks the trainer:
    /// [`Error::Broken`] is then what it and its [`Saver`] answer.
    pub fn step(&mut self, tokens: &Array, lengths: &Array) -> Result<(Array, u64)> {
        // Tokens that are not computed yet may be too many for the memory.
        self.check_memory(tokens)?;
        check_vocabulary(tokens, self.model.decoder.vocab_size())?;
        self.step_of_known(tokens, lengths)
    }

    /// [`Trainer::step`] of tokens that are known to be in the vocabulary.
    pub(crate) fn step_of_known(
        &mut self,
        tokens: &Array,
        lengths: &Array,
    ) -> Result<(Array, u64)> {
        let (out, pending) = self.start(tokens, lengths)?;
        transforms::eval(&pending)?;
        self.finish(out)
    }

    /// A step of tokens that are known to be in the vocabulary, with a look at its operations, and
    /// the time before its evaluation, in which the graph is built.
    ///
    /// # Errors
    /// As [`Trainer::step`]; and [`Timing::Together`] on a GPU.
    pub(crate) fn profile(
        &mut self,
        tokens: &Array,
        lengths: &Array,
        timing: Timing,
    ) -> Result<(Profile, Duration)> {
        let started = Instant::now();
        let (out, pending) = self.start(tokens, lengths)?;
        let building = started.elapsed();
        let profile = profile::eval(&pending, timing)?;
        self.finish(out)?;
        Ok((profile, building))
    }

    /// The graph of a step, and what of it is to be evaluated.
    fn start(&mut self, tokens: &Array, lengths: &Array) -> Result<(StepOutput, Vec<Array>)> {
        self.reached.check()?;
        self.check_memory(tokens)?;
        let out = self.step.run(tokens, lengths, self.reached.learning_rate.get())?;
        self.reached.in_step.set(true);
        self.batches_seen += 1;
        let mut pending = self.step.state();
        pending.extend([out.loss.clone(), out.tokens.clone()]);
        Ok((out, pending))
    }

    fn check_memory(&mut self, tokens: &Array) -> Result<()> {
        self.memory.check(&self.model.decoder, tokens, self.args.memory_limit, true)
    }

    /// What an evaluated step gave: the loss and the number of tokens.
    fn finish(&mut self, out: StepOutput) -> Result<(Array, u64)> {
        let loss: f32 = out.loss.item()?;
        let tokens: i32 = out.tokens.item()?;
        self.step.settle(loss.is_finite());
        self.reached.in_step.set(false);
        self.publish();
        if !loss.is_finite() {
            return Err(Error::NonFiniteLoss(format!(
                "the loss or a gradient is no number (NaN or infinite) at step {}; the weights of \
                 the step before are kept. Lower the learning rate, look for rows without targets, \
                 or use a model in float32 or bfloat16.",
                self.batches_seen
            )));
        }
        Ok((out.loss, u64::try_from(tokens).unwrap_or(0)))
    }

    /// The mean loss per token over at most `limit` batches of a data set.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(
        &mut self,
        data: &Dataset,
        limit: Option<u64>,
        reporter: &mut dyn Reporter,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<f64> {
        self.reached.check()?;
        evaluate(&self.model, &self.args, data, limit, &mut self.rng, reporter, interrupted)
    }
}

/// Sets the limits of MLX's memory that `args` give, until the result is dropped.
///
/// # Errors
/// What MLX reports.
pub(crate) fn limit_memory(args: &TrainArgs) -> Result<LimitGuard> {
    let limit = |bytes: Option<u64>| bytes.map(|b| usize::try_from(b).unwrap_or(usize::MAX));
    let (memory, cache) = (limit(args.memory_limit), limit(args.cache_limit));
    Ok(LimitGuard::new(Limits { memory, cache, wired: None })?)
}

/// Fails if a token, int32, is none of the `vocab` that the model knows.
fn check_vocabulary(tokens: &Array, vocab: i32) -> Result<()> {
    let Some(token) = tokens.to_vec::<i32>()?.into_iter().find(|token| !(0..vocab).contains(token))
    else {
        return Ok(());
    };
    let message = format!(
        "token {token} is outside the model's vocabulary of {vocab}; is the tokenizer of this model?"
    );
    let kind = mlx_graft::ErrorKind::OutOfRange;
    Err(mlx_graft::Error::Mlx { kind, op: "step", message }.into())
}

impl Saver {
    /// Writes `adapters.safetensors` and `adapter_config.json` to a folder.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses; [`Error::Broken`] after the evaluation of a step failed.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        self.reached.check()?;
        let config = AdapterConfig { other: self.told.clone(), ..self.adapter_config() };
        adapters::save_adapters(&self.model.decoder, &config, folder)
    }

    /// How the adapters were made, without the options of the training.
    fn adapter_config(&self) -> AdapterConfig {
        // The model knows how its adapters were made; in Python the options of the trainer don't.
        match self.model.adapters.borrow().clone() {
            Some(made) => made,
            None if adapters::adapted_layer(&self.model.decoder).is_some() => {
                AdapterConfig::from_args(&self.args)
            }
            None => AdapterConfig::full(),
        }
    }
}

/// The mean loss per token of a model over at most `limit` batches of a data set, in a random
/// order. Source: `evaluate` of mlx-lm's trainer.
///
/// # Errors
/// [`Error::Usage`] if the data set has fewer rows than a batch, [`Error::Invalid`] for a batch
/// without anything to learn, and [`Error::Interrupted`] after a stop was asked for.
pub fn evaluate(
    model: &Model,
    args: &TrainArgs,
    data: &Dataset,
    limit: Option<u64>,
    rng: &mut BatchRng,
    reporter: &mut dyn Reporter,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<f64> {
    let mut batches = evaluation_batches(data, args, model)?;
    let mut memory = MemoryCheck::default();
    let count = limit.unwrap_or(u64::MAX).min(batches.per_epoch() as u64);
    reporter.val_start(count);
    let (mut total, mut tokens) = (Array::scalar(0.0_f32)?, Array::scalar(0_i32)?);
    for _ in 0..count {
        let Some(batch) = batches.next(data, rng) else { break };
        let (inputs, lengths) = arrays(&batch, model, reporter)?;
        memory.check(&model.decoder, &inputs, args.memory_limit, false)?;
        let (loss, n) = next_token_loss(&model.decoder, &inputs, &lengths, &Context::eval())?;
        total = ops::add(&total, &ops::multiply(&loss, &n)?)?;
        tokens = ops::add(&tokens, &n)?;
        transforms::eval(&[&total, &tokens])?;
        reporter.val_advance();
        if interrupted() {
            return Err(interruption());
        }
    }
    Ok(f64::from(total.item::<f32>()?) / f64::from(tokens.item::<i32>()?))
}

/// The batches of a training.
///
/// # Errors
/// [`Error::Usage`] if the data set has fewer rows than a batch, [`Error::Invalid`] for a batch
/// without anything to learn.
pub(crate) fn training_batches(data: &Dataset, args: &TrainArgs, model: &Model) -> Result<Batches> {
    let mut batches = batches(data, args, model, true)?;
    if args.group_by_length {
        batches = batches.by_length(data);
    }
    batches.check_targets(data)?;
    Ok(batches)
}

/// The batches of a validation or a test.
///
/// # Errors
/// As [`training_batches`].
pub(crate) fn evaluation_batches(
    data: &Dataset,
    args: &TrainArgs,
    model: &Model,
) -> Result<Batches> {
    let batches = batches(data, args, model, false)?;
    batches.check_targets(data)?;
    Ok(batches)
}

fn batches(data: &Dataset, args: &TrainArgs, model: &Model, repeat: bool) -> Result<Batches> {
    let widths = if model.decoder.depends_on_width() { Widths::Upstream } else { Widths::Few };
    let batches = Batches::new(data, args.batch_size, args.max_seq_length, repeat)?;
    Ok(batches.with_widths(widths))
}

/// A batch as arrays for [`next_token_loss`]: tokens and lengths, both int32. The rows lie one behind
/// the other where that leaves fewer positions; a GPU gets them side by side, as mlx-lm does it.
pub(crate) fn arrays(
    batch: &Batch,
    model: &Model,
    reporter: &mut dyn Reporter,
) -> Result<(Array, Array)> {
    if let Some(warning) = &batch.warning {
        reporter.warning(warning);
    }
    let packs = graft_kernels::is_active()? && model.decoder.can_pack();
    if let Some(PackedBatch { tokens, spans }) = packs.then(|| batch.packed()).flatten() {
        let (width, rows) = (tokens.len() as i32, spans.len() as i32);
        let tokens = Array::from_slice(&tokens, &[1, width])?;
        return Ok((tokens, Array::from_slice(spans.as_flattened(), &[rows, 3])?));
    }
    let rows = batch.rows() as i32;
    let tokens = Array::from_slice(&batch.tokens, &[rows, batch.width as i32])?;
    let lengths: Vec<i32> = batch.lengths.iter().flat_map(|&(from, to)| [from, to]).collect();
    Ok((tokens, Array::from_slice(&lengths, &[rows, 2])?))
}

fn interruption() -> Error {
    Error::Interrupted("stopped".into())
}

#[cfg(test)]
mod tests;
