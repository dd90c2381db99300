//! `training_state.safetensors`: all that a training that was stopped goes on from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_graft::Array;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::save;
use crate::chat_template::Time;
use crate::data::{BatchPosition, RngPosition};
use crate::models::read_all;
use crate::{Error, Result};

/// The name of the file, in the folder of the adapters.
pub const STATE_FILE: &str = "training_state.safetensors";

/// The key of the header in the metadata of the file.
const HEADER: &str = "training_state";

/// The version of the header.
pub(super) const VERSION: u64 = 2;

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Iterations done.
    pub iteration: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Where the order of batches stands.
    pub batches: BatchPosition,
    /// Where the generator of later orders stands.
    pub rng: RngPosition,
}

/// What the metadata tells beside the tensors, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub version: u64,
    pub position: Position,
    /// Batches trained on.
    pub batches_seen: u64,
    /// Updates made.
    pub updates: u64,
    /// Batches since the last update.
    pub accumulated: u64,
    /// The time that the chat template has printed into the rows, if it prints one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<Time>,
    /// The options, data and weights that the rest means nothing without.
    pub options: Map<String, Value>,
}

/// The option by which the rows are known.
pub(super) const ROWS: &str = "training rows";

/// The state of a training, as it was saved.
#[derive(Debug)]
pub struct TrainingState {
    pub(super) file: PathBuf,
    pub(super) header: Header,
    /// Lazy: read when they are evaluated.
    pub(super) tensors: BTreeMap<String, Array>,
}

impl TrainingState {
    /// Reads the state that a training left in `folder`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses, [`Error::Invalid`] for a file that is truncated, no
    /// state of a training, or of another version.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(STATE_FILE);
        if !file.exists() {
            return Ok(None);
        }
        let loaded = read_all(&file, "remove it to start from the beginning")?;
        let header = loaded.metadata.get(HEADER).ok_or_else(|| {
            Error::invalid(&file, format!("no {HEADER:?} in its metadata; it is no such file"))
        })?;
        let header = parse(header).map_err(|message| Error::invalid(&file, message))?;
        Ok(Some(Self { file, header, tensors: loaded.arrays }))
    }

    /// Writes a state into `folder`, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses; an old file is then as it was.
    pub(super) fn write(
        header: &Header,
        tensors: Vec<(String, Array)>,
        folder: &Path,
    ) -> Result<()> {
        let file = folder.join(STATE_FILE);
        let header = serde_json::to_string(header)
            .map_err(|error| Error::invalid(&file, error.to_string()))?;
        save(tensors, &[(HEADER, &header)], &file)
    }

    /// The time that the chat template has printed into the rows, if it prints one.
    pub fn rendered(&self) -> Option<Time> {
        self.header.rendered
    }

    /// Fails if an option is another one than in the run that left the state. The time `rendered` is
    /// that of the rows given now.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the file, the option and both values.
    pub(super) fn check_options(
        &self,
        options: &Map<String, Value>,
        rendered: Option<Time>,
    ) -> Result<()> {
        for (name, now) in options {
            let then = self.header.options.get(name).unwrap_or(&Value::Null);
            if then != now {
                return Err(Error::Usage(format!(
                    "{}: the training that is to go on has {name} {then}, and now it is {now}. Give \
                     it the same, or begin a new training from its weights with \
                     --resume-adapter-file{}",
                    self.file.display(),
                    if name == ROWS { self.other_time(rendered) } else { String::new() }
                )));
            }
        }
        Ok(())
    }

    /// What to say of rows that differ if a chat template has printed different times into them.
    fn other_time(&self, now: Option<Time>) -> String {
        match (self.rendered(), now) {
            (then, now) if then == now => String::new(),
            (Some(then), Some(now)) => format!(
                ". The chat template prints the time: {then} when the training began, and {now} \
                 into these rows; the command `graft train` prints the first again when it resumes"
            ),
            (then, now) => {
                let time = then.or(now).map(|time| time.to_string()).unwrap_or_default();
                format!(
                    ". The chat template prints the time, {time}: rows of another day are others"
                )
            }
        }
    }
}

fn parse(text: &str) -> Result<Header, String> {
    let broken = |error: serde_json::Error| format!("its header is broken: {error}");
    let value: Value = serde_json::from_str(text).map_err(broken)?;
    match value.get("version").and_then(Value::as_u64) {
        Some(VERSION) => serde_json::from_value(value).map_err(broken),
        version => Err(format!(
            "found version {}, wanted {VERSION}; it was written by another version of this program",
            version.map_or("none".to_owned(), |version| version.to_string())
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn header() -> Header {
        let rng = RngPosition { seed: 3, drawn: 70 };
        let position = Position {
            iteration: 20,
            tokens: 4000,
            batches: BatchPosition { per_epoch: 8, epoch: Some(rng), given: 4 },
            rng: RngPosition { seed: 3, drawn: 90 },
        };
        let Value::Object(options) = json!({"batch_size": 4, "lora_parameters": {"scale": 0.1}})
        else {
            unreachable!("an object")
        };
        Header {
            version: VERSION,
            position,
            batches_seen: 20,
            updates: 10,
            accumulated: 0,
            rendered: None,
            options,
        }
    }

    fn tensors() -> Vec<(String, Array)> {
        vec![("m.w".to_owned(), Array::from_slice(&[1.0_f32, -2.5], &[2]).unwrap())]
    }

    #[test]
    fn comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(TrainingState::read(folder.path()).unwrap().is_none());
        TrainingState::write(&header(), tensors(), folder.path()).unwrap();
        let state = TrainingState::read(folder.path()).unwrap().unwrap();
        assert_eq!(state.header, header());
        assert_eq!(state.tensors["m.w"].to_vec::<f32>().unwrap(), [1.0, -2.5]);
        assert_eq!(state.file, folder.path().join(STATE_FILE));
    }

    #[test]
    fn other_options_are_named() {
        let folder = tempfile::tempdir().unwrap();
        TrainingState::write(&header(), tensors(), folder.path()).unwrap();
        let state = TrainingState::read(folder.path()).unwrap().unwrap();
        let mut options = header().options;
        state.check_options(&options, None).unwrap();
        options["lora_parameters"]["scale"] = json!(0.2);
        let message = state.check_options(&options, None).unwrap_err().to_string();
        let wanted = "training_state.safetensors: the training that is to go on has \
                      lora_parameters {\"scale\":0.1}, and now it is {\"scale\":0.2}. ";
        assert!(message.contains(wanted), "{message}");
    }

    #[test]
    fn rows_with_another_time_are_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let time = |text: &str| Some(serde_json::from_value(json!(text)).unwrap());
        let (then, now) = (time("2026-11-30T23:59:10+01:00"), time("2026-12-01T08:00:00+01:00"));
        let message = |then: Option<Time>, now: Option<Time>| {
            let mut header = Header { rendered: then, ..header() };
            header.options.insert(ROWS.to_owned(), json!("of checksum 1"));
            TrainingState::write(&header, tensors(), folder.path()).unwrap();
            let state = TrainingState::read(folder.path()).unwrap().unwrap();
            assert_eq!(state.rendered(), then);
            header.options.insert(ROWS.to_owned(), json!("of checksum 2"));
            state.check_options(&header.options, now).unwrap_err().to_string()
        };
        let found = message(then, now);
        assert!(found.contains("training rows \"of checksum 1\""), "{found}");
        assert!(found.contains("2026-11-30T23:59:10+01:00 when the training began"), "{found}");
        assert!(found.contains("2026-12-01T08:00:00+01:00 into these rows"), "{found}");
        for (then, now) in [(then, None), (None, now)] {
            let found = message(then, now);
            assert!(found.contains("The chat template prints the time, 2026-1"), "{found}");
        }
        for time in [None, now] {
            assert!(!message(time, time).contains("chat template"));
        }
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(STATE_FILE);
        let message = || {
            let message = TrainingState::read(folder.path()).unwrap_err().to_string();
            message.strip_prefix(&format!("{}: ", file.display())).unwrap().to_owned()
        };
        save(tensors(), &[], &file).unwrap();
        assert!(message().starts_with("no \"training_state\" in its metadata"), "{}", message());
        for (header, wanted) in [
            ("{\"version\": 1}", "found version 1, wanted 2"),
            ("[]", "found version none, wanted 2"),
            ("{\"version\": 2}", "its header is broken: missing field"),
            ("{", "its header is broken: EOF"),
        ] {
            save(tensors(), &[(HEADER, header)], &file).unwrap();
            assert!(message().starts_with(wanted), "{}", message());
        }
        std::fs::write(&file, "no tensors").unwrap();
        assert!(message().contains("not a whole safetensors file"), "{}", message());
    }
}
