//! A whole run: iterations with validation, reports and saves.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use mlx_graft::memory;
use serde_json::{Map, Value, json};

use super::earlier::{self, EARLIER_FILE};
use super::state::{Header, Position, ROWS, STATE_FILE, TrainingState, VERSION};
use super::{Trainer, arrays, evaluation_batches, interruption, training_batches};
use crate::adapter_config::AdapterConfig;
use crate::adapters::{self, ADAPTER_FILE};
use crate::args::OptimizerOptions;
use crate::chat_template::Time;
use crate::data::{BatchRng, Batches, Dataset};
use crate::metrics::{Loss, Metrics, MetricsWriter};
use crate::progress::{Reporter, TrainReport, ValReport};
use crate::{Error, Result};

/// What a run of [`Trainer::fit`] needs besides data.
pub struct Hooks<'a> {
    /// Hears of the progress.
    pub reporter: &'a mut dyn Reporter,
    /// Asked after each step and each batch of a validation whether to stop.
    pub interrupted: &'a mut dyn FnMut() -> bool,
    /// Where weights, metrics and the state of the training are saved; nowhere if `None`.
    pub folder: Option<PathBuf>,
    /// The state of the training to go on from, which [`Trainer::check`] has seen.
    pub resume: Option<TrainingState>,
}

/// Sums since the last report.
#[derive(Default)]
struct Window {
    loss: f64,
    steps: u64,
    tokens: u64,
    seconds: f64,
}

/// How far a run of [`Trainer::fit`] has come, and up to which iteration it is saved.
struct Progress {
    at: Position,
    saved: u64,
    /// Whether it began anew and has saved nothing yet.
    fresh: bool,
    /// What the run has to be known by when it goes on.
    options: Map<String, Value>,
    /// The time that is printed into its rows.
    rendered: Option<Time>,
}

impl Trainer {
    /// Trains for the configured number of iterations, with validation, reports and saves. A run
    /// that goes on from a state ends with the weights that the run which left it would have had.
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
        self.reached.check()?;
        let mut batches = training_batches(train, &self.args, &self.model)?;
        let options = match &hooks.folder {
            Some(_) => self.fixed_options(train)?,
            None => Map::new(),
        };
        let resumed = hooks.resume.take();
        let fresh = resumed.is_none();
        let at = match resumed {
            Some(state) => self.resume(state, train, &mut batches)?,
            None => self.position(0, 0, &batches),
        };
        let (done, iters) = (at.iteration, self.args.iters);
        if done > 0 && done >= iters {
            let text = format!("iteration {done} is done, and iters is {iters}");
            hooks.reporter.message(&format!("Nothing is left to do: {text}"));
            return Ok(());
        }
        // The system may refuse the file: then the state of an earlier training keeps its name.
        let metrics = hooks.folder.as_deref().map(MetricsWriter::open).transpose()?;
        if let Some(folder) = hooks.folder.as_deref().filter(|_| fresh) {
            put_aside(folder, hooks.reporter)?;
        }
        let rendered = train.rendered();
        let mut progress = Progress { at, saved: done, fresh, options, rendered };
        let ended = self.iterate(train, valid, batches, metrics, &mut hooks, &mut progress);
        hooks.reporter.done();
        ended.map_err(|error| self.rescue(error, &mut progress, hooks))
    }

    /// Checks that the data sets have enough rows and something to learn in each batch, and that
    /// they and the options are those of the training that is to go on, before anything is written.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the data set or the option, or [`Error::Invalid`] naming the row.
    pub fn check(
        &self,
        train: &Dataset,
        valid: Option<&Dataset>,
        resume: Option<&TrainingState>,
    ) -> Result<()> {
        let mut batches = training_batches(train, &self.args, &self.model)?;
        if let Some(valid) = valid.filter(|_| self.args.val_batches != 0) {
            evaluation_batches(valid, &self.args, &self.model)?;
        }
        if let Some(state) = resume {
            state.check_options(&self.fixed_options(train)?, train.rendered())?;
            batches.go_to(state.header.position.batches, train)?;
        }
        Ok(())
    }

    /// Takes over the state of a training, and how far it had come.
    fn resume(
        &mut self,
        state: TrainingState,
        train: &Dataset,
        batches: &mut Batches,
    ) -> Result<Position> {
        let TrainingState { file, header, tensors } = state;
        batches.go_to(header.position.batches, train)?;
        self.step.restore(tensors, (header.updates, header.accumulated), &file)?;
        self.batches_seen = header.batches_seen;
        self.publish();
        self.rng = BatchRng::at(header.position.rng);
        Ok(header.position)
    }

    fn position(&self, iteration: u64, tokens: u64, batches: &Batches) -> Position {
        Position { iteration, tokens, batches: batches.position(), rng: self.rng.position() }
    }

    /// The options without which a state means nothing; others may change when a training goes on,
    /// such as the learning rate, or what needs less memory.
    fn fixed_options(&self, train: &Dataset) -> Result<Map<String, Value>> {
        let AdapterConfig { fine_tune_type, num_layers, lora_parameters, other: _ } =
            self.saver.adapter_config();
        let args = &self.args;
        let OptimizerOptions { kind: _, betas, eps, weight_decay, bias_correction } =
            args.optimizer_options()?;
        let checksum = |checksum: u32| format!("of checksum {checksum:08x}");
        let Value::Object(options) = json!({
            "fine_tune_type": fine_tune_type,
            "num_layers": num_layers,
            "lora_parameters": lora_parameters,
            "optimizer": args.optimizer,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "batch_size": args.batch_size,
            "grad_accumulation_steps": args.grad_accumulation_steps,
            "group_by_length": args.group_by_length,
            "seed": args.seed,
            "frozen weights": checksum(self.step.frozen_checksum()?),
            ROWS: checksum(train.checksum()),
        }) else {
            unreachable!("an object was written");
        };
        Ok(options)
    }

    /// Saves what a run that ended with `error` has reached since the last save, and says so. An
    /// earlier training in the folder loses nothing by it.
    fn rescue(&self, error: Error, progress: &mut Progress, hooks: Hooks) -> Error {
        let Hooks { reporter, folder, .. } = hooks;
        let Position { iteration, .. } = progress.at;
        let unsaved = folder.as_deref().filter(|_| iteration > progress.saved);
        // A loss that is no number has cost a step its gradients and random numbers: what is left
        // of the iteration before are the weights.
        let weights_only = matches!(error, Error::NonFiniteLoss(_));
        let save = |folder: &Path| {
            if weights_only {
                self.save_weights(folder, progress)
            } else {
                self.checkpoint(folder, progress)
            }
        };
        let saved = unsaved.map(save).transpose();
        if let Some(folder) = &folder {
            tell_of_earlier(folder, progress.fresh, reporter);
        }
        match (error, saved) {
            (Error::Interrupted(_), Ok(_)) => interrupted_after(iteration, folder.as_deref()),
            (Error::Interrupted(_), Err(error)) | (error, Ok(None)) => error,
            (error, Ok(Some(file))) => {
                let what = if weights_only { "The weights are" } else { "All that was reached is" };
                reporter.warning(&format!(
                    "{what} saved as after iteration {iteration}: {}",
                    file.display()
                ));
                error
            }
            (error, Err(second)) => {
                reporter.warning(&format!(
                    "What was reached after iteration {iteration} could not be saved: {second}"
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
        mut batches: Batches,
        mut metrics: Option<MetricsWriter>,
        hooks: &mut Hooks,
        progress: &mut Progress,
    ) -> Result<()> {
        let Hooks { reporter, interrupted, folder, resume: _ } = hooks;
        let args = Rc::clone(&self.args);
        let Position { iteration: done, tokens: mut trained, .. } = progress.at;
        let mut window = Window::default();
        reporter.start(args.iters, done);
        for it in done + 1..=args.iters {
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
                // Whoever was told may have had enough.
                if interrupted() {
                    return Err(interruption());
                }
                started = Instant::now();
            }
            let (tokens, lengths) = arrays(&batch, &self.model, *reporter)?;
            let (loss, count) = self.step_of_known(&tokens, &lengths)?;
            trained += count;
            progress.at = self.position(it, trained, &batches);
            self.trim_cache()?;
            window.add(f64::from(loss.item::<f32>()?), count, started);
            reporter.advance();

            let mut stop = interrupted();
            if it % args.steps_per_report == 0 || it == args.iters || stop {
                let mean = window.loss / window.steps as f64;
                let report = self.metrics(it, Loss::Train(mean), trained, &window)?;
                reporter.train(&train_report(&report, mean));
                if let Some(metrics) = &mut metrics {
                    metrics.write(&report)?;
                }
                window = Window::default();
                stop = stop || interrupted();
            }
            if let Some(folder) = folder.as_deref().filter(|_| it % args.save_every == 0) {
                let file = folder.join(format!("{it:07}_{ADAPTER_FILE}"));
                adapters::save_trainable(&self.model.decoder, &file)?;
                reporter.save(&file);
                self.checkpoint(folder, progress)?;
                earlier::remove(folder)?;
            }
            if stop {
                return Err(interruption());
            }
        }
        if let Some(folder) = folder {
            self.checkpoint(folder, progress)?;
            earlier::remove(folder)?;
        }
        Ok(())
    }

    /// Saves the adapters. Those of an earlier training are put aside first, and stay if the state
    /// of this one cannot be written.
    fn save_weights(&self, folder: &Path, progress: &mut Progress) -> Result<PathBuf> {
        if progress.fresh && earlier::is_in(folder) {
            earlier::put_weights_aside(folder)?;
        }
        let file = self.saver.save(folder)?;
        progress.fresh = false;
        Ok(file)
    }

    /// Saves the adapters and the state of the training.
    fn checkpoint(&self, folder: &Path, progress: &mut Progress) -> Result<PathBuf> {
        let file = self.save_weights(folder, progress)?;
        let header = Header {
            version: VERSION,
            position: progress.at,
            batches_seen: self.batches_seen,
            updates: self.step.updates(),
            accumulated: self.step.accumulated(),
            rendered: progress.rendered,
            options: progress.options.clone(),
        };
        TrainingState::write(&header, self.step.named_state()?, folder)?;
        progress.saved = progress.at.iteration;
        Ok(file)
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

/// Puts the state of an earlier training aside, if there is one, and says so.
fn put_aside(folder: &Path, reporter: &mut dyn Reporter) -> Result<()> {
    earlier::put_aside(folder)?;
    if earlier::is_in(folder) {
        reporter.warning(&format!(
            "{} has the state of an earlier training, and this one begins anew: the state is now \
             {EARLIER_FILE}, and goes at the first planned save. To go on with the earlier training, \
             stop this one before, and use --resume (in Python resume=True)",
            folder.display()
        ));
    }
    Ok(())
}

/// Gives an earlier training its place in `folder` back, if the one that has ended saved nothing
/// and so is still `fresh`; else says what has become of it.
fn tell_of_earlier(folder: &Path, fresh: bool, reporter: &mut dyn Reporter) {
    if !fresh && earlier::is_in(folder) {
        reporter.warning(&format!(
            "What an earlier training has left is kept in {}, in files that begin with earlier_, \
             until the next planned save. To go back to it, take that off their names",
            folder.display()
        ));
    } else if fresh {
        match earlier::bring_back(folder) {
            Ok(false) => {}
            Ok(true) => reporter.message(&format!(
                "Nothing of this training is saved; {STATE_FILE} is the earlier one's again"
            )),
            Err(error) => reporter.warning(&format!("{EARLIER_FILE} keeps its name: {error}")),
        }
    }
}

fn interrupted_after(iteration: u64, folder: Option<&Path>) -> Error {
    Error::Interrupted(match folder {
        _ if iteration == 0 => "stopped before the first iteration; nothing was trained".into(),
        Some(folder) => format!(
            "stopped after iteration {iteration}; all is saved in {}. The same command with --resume \
             goes on, as Trainer.fit with resume=True does",
            folder.display()
        ),
        None => format!("stopped after iteration {iteration}; the model has the weights reached"),
    })
}
