//! `metrics.jsonl`: one line for each report of a training.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Result};

/// The name of the file, in the folder of the adapters.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// The loss that a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Loss {
    /// The mean loss of the iterations since the last report.
    #[serde(rename = "train_loss")]
    Train(f64),
    /// The mean loss of a token of the validation set.
    #[serde(rename = "val_loss")]
    Val(f64),
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Metrics {
    /// The iteration, counted from 1.
    pub step: u64,
    /// The loss.
    #[serde(flatten)]
    pub loss: Loss,
    /// The learning rate of the latest update.
    pub learning_rate: f64,
    /// Tokens trained on since the start.
    pub tokens: u64,
    /// Tokens per second since the last report.
    pub tokens_per_second: f64,
    /// Iterations per second since the last report.
    pub iterations_per_second: f64,
    /// The most memory MLX held, in bytes.
    pub peak_memory_bytes: u64,
    /// The memory of live arrays, in bytes.
    pub active_memory_bytes: u64,
    /// The memory kept for reuse, in bytes.
    pub cache_memory_bytes: u64,
}

/// Appends to a `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
}

impl MetricsWriter {
    /// Opens the file in `folder`, which must exist; lines of earlier runs stay.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(METRICS_FILE);
        let file =
            File::options().append(true).create(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self { file, path })
    }

    /// Appends one line, in a single write, so that a reader never sees a part of it.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, for example when the disk is full.
    pub fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let mut line = serde_json::to_vec(metrics)
            .map_err(|error| Error::invalid(&self.path, error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::{Loss, METRICS_FILE, Metrics, MetricsWriter};

    fn metrics(loss: Loss) -> Metrics {
        Metrics {
            step: 10,
            loss,
            learning_rate: 1e-5,
            tokens: 890,
            tokens_per_second: 567.5,
            iterations_per_second: 1.25,
            peak_memory_bytes: 3,
            active_memory_bytes: 2,
            cache_memory_bytes: 1,
        }
    }

    #[test]
    fn appends_one_object_per_line() {
        let folder = tempfile::tempdir().unwrap();
        for loss in [Loss::Train(3.5), Loss::Val(2.5)] {
            MetricsWriter::open(folder.path()).unwrap().write(&metrics(loss)).unwrap();
        }
        let text = fs::read_to_string(folder.path().join(METRICS_FILE)).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let wanted = json!({
            "step": 10, "train_loss": 3.5, "learning_rate": 1e-5, "tokens": 890,
            "tokens_per_second": 567.5, "iterations_per_second": 1.25, "peak_memory_bytes": 3,
            "active_memory_bytes": 2, "cache_memory_bytes": 1
        });
        assert_eq!(lines[0], wanted);
        assert_eq!(lines[1]["val_loss"], json!(2.5));
        assert!(lines[1].get("train_loss").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut writer = MetricsWriter::open(folder.path()).unwrap();
        let message = writer.write(&metrics(Loss::Train(1.0))).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
        assert!(message.contains("No space left"), "{message}");
    }
}
