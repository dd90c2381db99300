//! `metrics.jsonl`: one line for each report of a training.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

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
    /// Opens the file in `folder`, which must exist; lines of earlier runs stay, but for a part of
    /// one at the end, as a crash leaves it.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(METRICS_FILE);
        let mut options = File::options();
        let mut file =
            options.read(true).append(true).create(true).open(&path).map_err(Error::io(&path))?;
        end_last_line(&mut file).map_err(Error::io(&path))?;
        Ok(Self { file, path })
    }

    /// Appends one line, in a single write, so that a reader never sees a part of it.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file, for example when the disk is full; the file is then as it was.
    pub fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let mut line = serde_json::to_vec(metrics)
            .map_err(|error| Error::invalid(&self.path, error.to_string()))?;
        line.push(b'\n');
        let before = self.file.metadata().map_err(Error::io(&self.path))?.len();
        self.file.write_all(&line).map_err(|source| {
            // What fitted in would be the beginning of the next line. Whatever comes of this, the
            // first error is what the user has to mend.
            let _ = self.file.set_len(before);
            Error::io(&self.path)(source)
        })
    }
}

/// Sees to it that the next line begins on its own: what stands behind the last line is a line
/// without its end, which an editor may have left, or a part of one, which goes.
fn end_last_line(file: &mut File) -> std::io::Result<()> {
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let rest = &bytes[whole..];
    if rest.is_empty() {
        Ok(())
    } else if serde_json::from_slice::<Value>(rest).is_ok_and(|value| value.is_object()) {
        file.write_all(b"\n")
    } else {
        file.set_len(whole as u64)
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

    #[test]
    fn a_line_without_its_end_does_not_run_into_the_next() {
        for (left, kept) in [
            ("", ""),
            ("{\"step\": 1}\n", "{\"step\": 1}\n"),
            ("{\"step\": 1}\n{\"step\": 2, \"trai", "{\"step\": 1}\n"),
            ("{\"st", ""),
            ("{\"step\": 1}\n{\"step\": 2}", "{\"step\": 1}\n{\"step\": 2}\n"),
            ("{\"step\": 1}\n2", "{\"step\": 1}\n"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(METRICS_FILE);
            fs::write(&path, left).unwrap();
            let mut writer = MetricsWriter::open(folder.path()).unwrap();
            writer.write(&metrics(Loss::Train(1.0))).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let line = text.strip_prefix(kept).unwrap();
            assert!(line.starts_with("{\"step\":10,") && line.ends_with("}\n"), "{text}");
            assert_eq!(line.lines().count(), 1, "{text}");
        }
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
