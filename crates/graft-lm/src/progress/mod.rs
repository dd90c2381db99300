//! What a training tells while it runs: bars on a terminal, plain lines elsewhere.

mod bars;
mod lines;

use std::io::{IsTerminal, Write};
use std::path::Path;

use indicatif::ProgressDrawTarget;

pub use bars::BarReporter;
pub use lines::LineReporter;

use crate::floats::scientific;

/// A report of the training loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainReport {
    /// The iteration, counted from 1.
    pub iteration: u64,
    /// The mean loss of the iterations since the last report.
    pub train_loss: f64,
    /// The learning rate of the latest update.
    pub learning_rate: f64,
    /// Iterations per second since the last report.
    pub iterations_per_second: f64,
    /// Tokens per second since the last report.
    pub tokens_per_second: f64,
    /// Tokens trained on since the start.
    pub trained_tokens: u64,
    /// The most memory MLX held, in bytes.
    pub peak_memory_bytes: u64,
}

/// A report of the validation loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValReport {
    /// The iteration, counted from 1.
    pub iteration: u64,
    /// The mean loss of a token.
    pub val_loss: f64,
    /// How long it took.
    pub seconds: f64,
}

/// A listener to the events of a training; each has an empty body unless overridden.
pub trait Reporter {
    /// The training begins: of its `iters` iterations, `done` are done already.
    fn start(&mut self, iters: u64, done: u64) {
        let _ = (iters, done);
    }
    /// An iteration is done.
    fn advance(&mut self) {}
    /// The training loss is known.
    fn train(&mut self, report: &TrainReport) {
        let _ = report;
    }
    /// A validation of `batches` batches begins.
    fn val_start(&mut self, batches: u64) {
        let _ = batches;
    }
    /// A batch of the validation is done.
    fn val_advance(&mut self) {}
    /// The validation is done.
    fn val(&mut self, report: &ValReport) {
        let _ = report;
    }
    /// Weights were saved as `path`.
    fn save(&mut self, path: &Path) {
        let _ = path;
    }
    /// A line to show as it is, such as what is being loaded.
    fn message(&mut self, text: &str) {
        let _ = text;
    }
    /// Something the user should know, though the training goes on.
    fn warning(&mut self, text: &str) {
        let _ = text;
    }
    /// The training has ended, by itself or because it was stopped.
    fn done(&mut self) {}
}

/// A reporter that says nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Reporter for Silent {}

/// The reporter that fits: bars if standard output and standard error are terminals that can draw,
/// else plain lines on standard output, as mlx-lm prints them.
pub fn default_reporter() -> Box<dyn Reporter + Send> {
    let target = ProgressDrawTarget::stderr();
    if std::io::stdout().is_terminal() && !target.is_hidden() {
        return Box::new(BarReporter::new(target));
    }
    let output: Box<dyn Write + Send> = Box::new(std::io::stdout());
    Box::new(LineReporter::new(output))
}

impl std::fmt::Display for TrainReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Iter {}: Train loss {:.3}, Learning Rate {}, It/sec {:.3}, Tokens/sec {:.3}, \
             Trained Tokens {}, Peak mem {:.3} GB",
            self.iteration,
            self.train_loss,
            scientific(self.learning_rate),
            self.iterations_per_second,
            self.tokens_per_second,
            self.trained_tokens,
            self.peak_memory_bytes as f64 / 1e9,
        )
    }
}

impl std::fmt::Display for ValReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { iteration, val_loss, seconds } = self;
        write!(f, "Iter {iteration}: Val loss {val_loss:.3}, Val took {seconds:.3}s")
    }
}

#[cfg(test)]
mod tests {
    use super::{TrainReport, ValReport};

    #[test]
    fn lines_are_mlx_lms() {
        let report = TrainReport {
            iteration: 10,
            train_loss: 3.1414,
            learning_rate: 1e-5,
            iterations_per_second: 1.2341,
            tokens_per_second: 567.8,
            trained_tokens: 890,
            peak_memory_bytes: 1_234_000_000,
        };
        assert_eq!(
            report.to_string(),
            "Iter 10: Train loss 3.141, Learning Rate 1.000e-05, It/sec 1.234, Tokens/sec \
             567.800, Trained Tokens 890, Peak mem 1.234 GB"
        );
        let report = ValReport { iteration: 1, val_loss: 2.86, seconds: 1.234 };
        assert_eq!(report.to_string(), "Iter 1: Val loss 2.860, Val took 1.234s");
    }
}
