//! Plain lines, for files and pipes.

use std::io::Write;
use std::path::Path;

use super::{Reporter, TrainReport, ValReport};

/// Writes each report as a line, flushed at once.
pub struct LineReporter<W> {
    output: W,
}

impl<W: Write> LineReporter<W> {
    /// Writes to `output`.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.output
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A closed pipe must not end the training: the metrics and the adapters are files.
        let _ = writeln!(self.output, "{line}").and_then(|()| self.output.flush());
    }
}

impl<W: Write> Reporter for LineReporter<W> {
    fn start(&mut self, iters: u64, done: u64) {
        match done {
            0 => self.line(format_args!("Starting training..., iters: {iters}")),
            _ => self.line(format_args!("Going on after iteration {done}, iters: {iters}")),
        }
    }

    fn train(&mut self, report: &TrainReport) {
        self.line(format_args!("{report}"));
    }

    fn val(&mut self, report: &ValReport) {
        self.line(format_args!("{report}"));
    }

    fn save(&mut self, path: &Path) {
        self.line(format_args!("Saved weights to {}.", path.display()));
    }

    fn message(&mut self, text: &str) {
        self.line(format_args!("{text}"));
    }

    fn warning(&mut self, text: &str) {
        self.line(format_args!("[WARNING] {text}"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{LineReporter, Reporter, ValReport};

    #[test]
    fn writes_a_line_for_each_report() {
        let mut reporter = LineReporter::new(Vec::new());
        reporter.start(3, 0);
        reporter.start(3, 2);
        reporter.advance();
        reporter.val(&ValReport { iteration: 1, val_loss: 2.0, seconds: 0.5 });
        reporter.save(Path::new("a/adapters.safetensors"));
        reporter.warning("a row is long");
        reporter.done();
        let text = String::from_utf8(reporter.into_inner()).unwrap();
        assert_eq!(
            text,
            "Starting training..., iters: 3\nGoing on after iteration 2, iters: 3\n\
             Iter 1: Val loss 2.000, Val took 0.500s\n\
             Saved weights to a/adapters.safetensors.\n[WARNING] a row is long\n"
        );
    }
}
