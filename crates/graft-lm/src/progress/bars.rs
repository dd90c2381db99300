//! Progress bars, for a terminal.

use std::path::Path;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Reporter, TrainReport, ValReport};

/// A bar of the training, one of the validation under it while that runs, and the reports as
/// lines above them.
pub struct BarReporter {
    bars: MultiProgress,
    train: Option<ProgressBar>,
    val: Option<ProgressBar>,
}

impl BarReporter {
    /// Draws on `target`.
    pub fn new(target: ProgressDrawTarget) -> Self {
        Self { bars: MultiProgress::with_draw_target(target), train: None, val: None }
    }

    fn line(&self, line: &str) {
        // A terminal that went away must not end the training.
        let _ = self.bars.println(line);
    }

    fn bar(&self, label: &'static str, total: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{prefix:>5} {bar:30.blue} {percent:>3}% · {human_pos}/{human_len} · {elapsed} < {eta} {msg}",
        );
        let bar = self.bars.add(ProgressBar::new(total)).with_prefix(label);
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏░"));
        }
        bar
    }
}

impl Reporter for BarReporter {
    fn start(&mut self, iters: u64, done: u64) {
        let bar = self.bar("train", iters);
        bar.set_position(done);
        // Else the time that is left counts these as done in no time.
        bar.reset_eta();
        self.train = Some(bar);
    }

    fn advance(&mut self) {
        if let Some(bar) = &self.train {
            bar.inc(1);
        }
    }

    fn train(&mut self, report: &TrainReport) {
        if let Some(bar) = &self.train {
            bar.set_message(format!("· loss {:.3}", report.train_loss));
        }
        self.line(&report.to_string());
    }

    fn val_start(&mut self, batches: u64) {
        self.val = Some(self.bar("val", batches));
    }

    fn val_advance(&mut self) {
        if let Some(bar) = &self.val {
            bar.inc(1);
        }
    }

    fn val(&mut self, report: &ValReport) {
        if let Some(bar) = self.val.take() {
            bar.finish_and_clear();
        }
        self.line(&report.to_string());
    }

    fn save(&mut self, path: &Path) {
        self.line(&format!("Saved weights to {}.", path.display()));
    }

    fn message(&mut self, text: &str) {
        self.line(text);
    }

    fn warning(&mut self, text: &str) {
        self.line(&format!("[WARNING] {text}"));
    }

    fn done(&mut self) {
        if let Some(bar) = self.val.take() {
            bar.finish_and_clear();
        }
        if let Some(bar) = self.train.take() {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::{BarReporter, Reporter, TrainReport, ValReport};

    #[test]
    fn shows_the_reports_above_the_bar() {
        let terminal = InMemoryTerm::new(20, 160);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let mut reporter = BarReporter::new(target);
        reporter.start(4, 1);
        reporter.val_start(2);
        reporter.val_advance();
        reporter.val(&ValReport { iteration: 1, val_loss: 2.5, seconds: 0.5 });
        for _ in 0..2 {
            reporter.advance();
        }
        reporter.train(&TrainReport {
            iteration: 2,
            train_loss: 3.25,
            learning_rate: 1e-4,
            iterations_per_second: 1.0,
            tokens_per_second: 10.0,
            trained_tokens: 20,
            peak_memory_bytes: 0,
        });
        reporter.done();
        let shown = terminal.contents();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "Iter 1: Val loss 2.500, Val took 0.500s");
        assert!(lines[1].starts_with("Iter 2: Train loss 3.250, "), "{shown}");
        assert!(lines[2].starts_with("train ") && lines[2].contains("75% · 3/4"), "{shown}");
        assert_eq!(lines.len(), 3, "the validation's bar is cleared: {shown}");
    }
}
