//! The trainer.

mod flat;
mod loss;
mod memory_check;
mod optimizer;
mod step;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlx_graft::memory::{self, LimitGuard, Limits};
use mlx_graft::profile::{self, Profile, Timing};
use mlx_graft::{Array, ops, transforms};
use serde_json::{Map, Value};

pub use loss::next_token_loss;
use memory_check::MemoryCheck;
pub(crate) use memory_check::available_bytes;
pub use step::{Step, StepOutput};

use crate::adapter_config::AdapterConfig;
use crate::adapters::{self, ADAPTER_FILE};
use crate::args::TrainArgs;
use crate::data::{Batch, BatchRng, Batches, Dataset, PackedBatch};
use crate::metrics::{Loss, Metrics, MetricsWriter};
use crate::models::Model;
use crate::nn::Context;
use crate::progress::{Reporter, TrainReport, ValReport};
use crate::schedule::Schedule;
use crate::{Error, Result};

/// Trains the trainable weights of a model.
pub struct Trainer {
    model: Rc<Model>,
    args: TrainArgs,
    /// The options that `adapter_config.json` tells.
    told: Map<String, Value>,
    schedule: Schedule,
    step: Step,
    batches_seen: u64,
    rng: BatchRng,
    memory: MemoryCheck,
    _limits: LimitGuard,
}

/// What a run of [`Trainer::fit`] needs besides data.
pub struct Hooks<'a> {
    /// Hears of the progress.
    pub reporter: &'a mut dyn Reporter,
    /// Asked after each step and each batch of a validation whether to stop.
    pub interrupted: &'a mut dyn FnMut() -> bool,
    /// Where weights and metrics are saved; nowhere if `None`.
    pub folder: Option<PathBuf>,
}

/// Sums since the last report.
#[derive(Default)]
struct Window {
    loss: f64,
    steps: u64,
    tokens: u64,
    seconds: f64,
}

/// How far a run of [`Trainer::fit`] has come, in iterations.
#[derive(Default)]
struct Progress {
    done: u64,
    saved: u64,
}

impl Trainer {
    /// Prepares to train `model` with the options of `args`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model has no trainable weights.
    pub fn new(model: Rc<Model>, args: TrainArgs) -> Result<Self> {
        let limit = |bytes: Option<u64>| bytes.map(|b| usize::try_from(b).unwrap_or(usize::MAX));
        let limits = LimitGuard::new(Limits {
            memory: limit(args.memory_limit),
            cache: limit(args.cache_limit),
            wired: None,
        })?;
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
        Ok(Self {
            model,
            args,
            told,
            schedule,
            step,
            batches_seen: 0,
            rng,
            memory,
            _limits: limits,
        })
    }

    /// Has `adapter_config.json` tell only these options: the caller knows nothing of the others,
    /// such as the name of the model, and has them from [`TrainArgs::default`].
    pub fn tell_only(&mut self, known: impl Fn(&str) -> bool) {
        self.told.retain(|key, _| known(key));
    }

    /// The options.
    pub fn args(&self) -> &TrainArgs {
        &self.args
    }

    /// The generator of the order of batches, where it stands.
    pub fn into_rng(self) -> BatchRng {
        self.rng
    }

    /// The number of batches trained on.
    pub fn batches_seen(&self) -> u64 {
        self.batches_seen
    }

    /// The learning rate of the next update.
    pub fn learning_rate(&self) -> f32 {
        self.schedule.learning_rate(self.step.updates())
    }

    /// Trains on one batch: the mean loss per token before the update, and the number of tokens.
    ///
    /// `tokens` is int32 `(B, T)`, `lengths` int32 `(B, 2)`: the first token that counts and the
    /// length of each row; or rows one behind the other, as [`next_token_loss`] takes them. This is
    /// the only point of evaluation of a step.
    ///
    /// # Errors
    /// [`Error::NonFiniteLoss`] if the loss or a gradient is NaN or infinite; the weights are then as
    /// before.
    pub fn step(&mut self, tokens: &Array, lengths: &Array) -> Result<(Array, u64)> {
        let (out, pending) = self.start(tokens, lengths)?;
        transforms::eval(&pending)?;
        self.finish(out)
    }

    /// [`Trainer::step`] with a look at its operations, and the time before its evaluation, in
    /// which the graph is built.
    ///
    /// # Errors
    /// As [`Trainer::step`]; and [`Timing::Together`] on a GPU.
    pub fn profile(
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
        let limit = self.args.memory_limit;
        self.memory.check(&self.model.decoder, tokens, limit, true)?;
        self.batches_seen += 1;
        let update = self.batches_seen.is_multiple_of(self.args.grad_accumulation_steps);
        let out = self.step.run(tokens, lengths, self.learning_rate(), update)?;
        let mut pending = self.step.state();
        pending.extend([out.loss.clone(), out.tokens.clone()]);
        Ok((out, pending))
    }

    /// What an evaluated step gave: the loss and the number of tokens.
    fn finish(&mut self, out: StepOutput) -> Result<(Array, u64)> {
        let loss: f32 = out.loss.item()?;
        let tokens: i32 = out.tokens.item()?;
        if !loss.is_finite() {
            self.step.drop_pending();
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
        evaluate(&self.model, &self.args, data, limit, &mut self.rng, reporter, interrupted)
    }

    /// Checks that the data sets have enough rows and something to learn in each batch, before
    /// anything is written.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the data set, or [`Error::Invalid`] naming the row.
    pub fn check(&self, train: &Dataset, valid: Option<&Dataset>) -> Result<()> {
        training_batches(train, &self.args)?;
        if let Some(valid) = valid.filter(|_| self.args.val_batches != 0) {
            evaluation_batches(valid, &self.args)?;
        }
        Ok(())
    }

    /// Trains for the configured number of iterations, with validation, reports and saves.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a stop was asked for. What was reached is saved then, as with
    /// any other error.
    pub fn fit(
        &mut self,
        train: &Dataset,
        valid: Option<&Dataset>,
        mut hooks: Hooks,
    ) -> Result<()> {
        let mut progress = Progress::default();
        let done = self.iterate(train, valid, &mut hooks, &mut progress);
        hooks.reporter.done();
        done.map_err(|error| self.rescue(error, &progress, hooks))
    }

    /// Saves what a run that ended with `error` has reached since the last save, and says so.
    fn rescue(&self, error: Error, progress: &Progress, hooks: Hooks) -> Error {
        let Hooks { reporter, folder, .. } = hooks;
        let unsaved = folder.as_deref().filter(|_| progress.done > progress.saved);
        let saved = unsaved.map(|folder| self.save(folder)).transpose();
        match (error, saved) {
            (Error::Interrupted(_), Ok(_)) => stopped(progress.done, folder.as_deref()),
            (Error::Interrupted(_), Err(error)) | (error, Ok(None)) => error,
            (error, Ok(Some(file))) => {
                reporter.warning(&format!(
                    "The weights after iteration {} are saved: {}",
                    progress.done,
                    file.display()
                ));
                error
            }
            (error, Err(second)) => {
                reporter.warning(&format!(
                    "The weights after iteration {} could not be saved: {second}",
                    progress.done
                ));
                error
            }
        }
    }

    /// The iterations of [`Trainer::fit`].
    fn iterate(
        &mut self,
        train: &Dataset,
        valid: Option<&Dataset>,
        hooks: &mut Hooks,
        progress: &mut Progress,
    ) -> Result<()> {
        let Hooks { reporter, interrupted, folder } = hooks;
        let args = self.args.clone();
        let mut metrics = folder.as_deref().map(MetricsWriter::open).transpose()?;
        let mut batches = training_batches(train, &args)?;
        let (mut window, mut trained) = (Window::default(), 0);
        reporter.start(args.iters);
        for it in 1..=args.iters {
            let Some(batch) = batches.next(train, &mut self.rng) else { break };
            let mut started = Instant::now();
            let validate = it == 1 || it % args.steps_per_eval == 0 || it == args.iters;
            if let Some(valid) = valid.filter(|_| validate && args.val_batches != 0) {
                let report = self.validate(it, valid, *reporter, *interrupted)?;
                reporter.val(&report);
                if let Some(metrics) = &mut metrics {
                    let report = self.metrics(it, Loss::Val(report.val_loss), trained, &window)?;
                    metrics.write(&report)?;
                }
                started = Instant::now();
            }
            let (tokens, lengths) = arrays(&batch, &self.model, *reporter)?;
            let (loss, count) = self.step(&tokens, &lengths)?;
            progress.done = it;
            self.trim_cache()?;
            window.add(f64::from(loss.item::<f32>()?), count, started);
            trained += count;
            reporter.advance();

            let stop = interrupted();
            if it % args.steps_per_report == 0 || it == args.iters || stop {
                let mean = window.loss / window.steps as f64;
                let report = self.metrics(it, Loss::Train(mean), trained, &window)?;
                reporter.train(&train_report(&report, mean));
                if let Some(metrics) = &mut metrics {
                    metrics.write(&report)?;
                }
                window = Window::default();
            }
            if let Some(folder) = folder.as_deref().filter(|_| it % args.save_every == 0) {
                let file = folder.join(format!("{it:07}_{ADAPTER_FILE}"));
                adapters::save_trainable(&self.model.decoder, &file)?;
                reporter.save(&file);
                self.save(folder)?;
                progress.saved = it;
            }
            if stop {
                return Err(interruption());
            }
        }
        if let Some(folder) = &folder {
            self.save(folder)?;
        }
        Ok(())
    }

    /// Writes the trained weights and their configuration to a folder.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        let decoder = &self.model.decoder;
        // The model knows how its adapters were made; in Python the options of the trainer don't.
        let made = match self.model.adapters.borrow().clone() {
            Some(made) => made,
            None if adapters::adapted_layer(decoder).is_some() => {
                AdapterConfig::from_args(&self.args)
            }
            None => AdapterConfig::full(),
        };
        let config = AdapterConfig { other: self.told.clone(), ..made };
        adapters::save_adapters(decoder, &config, folder)
    }

    fn validate(
        &mut self,
        iteration: u64,
        valid: &Dataset,
        reporter: &mut dyn Reporter,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<ValReport> {
        let started = Instant::now();
        let limit = u64::try_from(self.args.val_batches).ok();
        let val_loss = self.evaluate(valid, limit, reporter, interrupted)?;
        Ok(ValReport { iteration, val_loss, seconds: started.elapsed().as_secs_f64() })
    }

    fn metrics(&self, step: u64, loss: Loss, tokens: u64, window: &Window) -> Result<Metrics> {
        let per_second =
            |n: u64| if window.seconds > 0.0 { n as f64 / window.seconds } else { 0.0 };
        Ok(Metrics {
            step,
            loss,
            // That of the latest update.
            learning_rate: f64::from(
                self.schedule.learning_rate(self.step.updates().saturating_sub(1)),
            ),
            tokens,
            tokens_per_second: per_second(window.tokens),
            iterations_per_second: per_second(window.steps),
            peak_memory_bytes: memory::peak()? as u64,
            active_memory_bytes: memory::active()? as u64,
            cache_memory_bytes: memory::cache()? as u64,
        })
    }

    /// Frees memory kept for reuse if that was asked for: it costs the next step fresh pages.
    fn trim_cache(&self) -> Result<()> {
        let threshold = self.args.clear_cache_threshold;
        if threshold > 0 && memory::cache()? as u64 > threshold {
            memory::clear_cache()?;
        }
        Ok(())
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
    let mut batches = evaluation_batches(data, args)?;
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
pub(crate) fn training_batches(data: &Dataset, args: &TrainArgs) -> Result<Batches> {
    let mut batches = Batches::new(data, args.batch_size, args.max_seq_length, true)?;
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
pub(crate) fn evaluation_batches(data: &Dataset, args: &TrainArgs) -> Result<Batches> {
    let batches = Batches::new(data, args.batch_size, args.max_seq_length, false)?;
    batches.check_targets(data)?;
    Ok(batches)
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

impl Window {
    fn add(&mut self, loss: f64, tokens: u64, started: Instant) {
        self.loss += loss;
        self.steps += 1;
        self.tokens += tokens;
        self.seconds += started.elapsed().as_secs_f64();
    }
}

fn train_report(metrics: &Metrics, train_loss: f64) -> TrainReport {
    TrainReport {
        iteration: metrics.step,
        train_loss,
        learning_rate: metrics.learning_rate,
        iterations_per_second: metrics.iterations_per_second,
        tokens_per_second: metrics.tokens_per_second,
        trained_tokens: metrics.tokens,
        peak_memory_bytes: metrics.peak_memory_bytes,
    }
}

fn interruption() -> Error {
    Error::Interrupted("stopped".into())
}

fn stopped(iteration: u64, folder: Option<&Path>) -> Error {
    Error::Interrupted(match folder {
        _ if iteration == 0 => "stopped before the first iteration; nothing was trained".into(),
        Some(folder) => format!(
            "stopped after iteration {iteration}; the weights are saved. Go on with \
             --resume-adapter-file {}",
            folder.join(ADAPTER_FILE).display()
        ),
        None => format!("stopped after iteration {iteration}; the model has the weights reached"),
    })
}
