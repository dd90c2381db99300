//! Typed reading of named values, with errors that say where a value came from.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Where each key was given, so that an error can point there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins {
    /// The YAML file, and the line of each key path in it.
    pub file: Option<(PathBuf, HashMap<String, usize>)>,
    /// The top-level keys given as flags, which win over the file.
    pub flags: HashSet<String>,
}

impl Origins {
    /// An error about `path`, such as `lora_parameters.rank`, at the place it was given.
    pub fn error(&self, path: &str, message: &str) -> Error {
        if self.flags.contains(path) {
            return Error::Usage(format!("--{}: {message}", path.replace('_', "-")));
        }
        match &self.file {
            Some((file, lines)) if lines.contains_key(path) => Error::Invalid {
                path: file.clone(),
                line: lines.get(path).copied(),
                message: format!("`{path}`: {message}"),
            },
            _ => Error::Usage(format!("`{path}`: {message}")),
        }
    }
}

/// A mapping whose values are taken one by one; what is left at the end is unknown.
pub(crate) struct Keys<'a> {
    values: Map<String, Value>,
    known: Vec<&'static str>,
    section: String,
    origins: &'a Origins,
}

impl<'a> Keys<'a> {
    /// The keys of `values`; `section` is the path of the mapping, empty at the top.
    pub fn new(values: Map<String, Value>, section: &str, origins: &'a Origins) -> Self {
        Self { values, known: Vec::new(), section: section.to_owned(), origins }
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, message: &str) -> Error {
        self.origins.error(&self.path(key), message)
    }

    /// Takes `key`; a null counts as absent, as upstream's merge has it.
    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.values.shift_remove(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there to be taken.
    pub fn has(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| !value.is_null())
    }

    /// Drops `key`, which is known and means nothing; whether it was there.
    pub fn ignore(&mut self, key: &str) -> bool {
        self.values.shift_remove(key).is_some()
    }

    /// Takes a boolean.
    pub fn boolean(&mut self, key: &'static str, default: bool) -> Result<bool> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(self.mismatch(key, &other, "true or false")),
        }
    }

    /// Takes an integer within `range`.
    pub fn integer<T: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<i64>,
    ) -> Result<T> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let found = value.as_i64().filter(|found| range.contains(found));
        found.and_then(|found| T::try_from(found).ok()).ok_or_else(|| {
            let wanted = match (*range.start(), *range.end()) {
                (start, i64::MAX) => format!("an integer of at least {start}"),
                (start, end) => format!("an integer from {start} to {end}"),
            };
            self.mismatch(key, &value, &wanted)
        })
    }

    /// Takes a finite number that `accept`s; `wanted` describes those accepted.
    pub fn number(
        &mut self,
        key: &'static str,
        default: f64,
        wanted: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<f64> {
        let Some(value) = self.take(key) else { return Ok(default) };
        value
            .as_f64()
            .filter(|found| found.is_finite() && accept(*found))
            .ok_or_else(|| self.mismatch(key, &value, wanted))
    }

    /// Takes a text.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.mismatch(key, &other, "a text")),
        }
    }

    /// Takes one of `choices`, which are pairs of the name and its meaning.
    pub fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> Result<T> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let found = choices.iter().find(|(name, _)| value.as_str() == Some(name));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.mismatch(key, &value, &format!("one of {}", names.join(", ")))
        })
    }

    /// Takes a mapping; absent is `None`.
    pub fn mapping(&mut self, key: &'static str) -> Result<Option<Map<String, Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(value)) => Ok(Some(value)),
            Some(other) => Err(self.mismatch(key, &other, "a mapping")),
        }
    }

    /// Takes a list of texts; absent is `None`.
    pub fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let texts = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.map(Some).ok_or_else(|| self.mismatch(key, &value, "a list of texts"))
    }

    /// Takes a list of numbers; absent is `None`.
    pub fn numbers(&mut self, key: &'static str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let numbers = value
            .as_array()
            .and_then(|items| items.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        numbers.map(Some).ok_or_else(|| self.mismatch(key, &value, "a list of numbers"))
    }

    /// Takes a size of memory, a number of bytes or a text such as `8GB`; absent is `None`.
    pub fn size(&mut self, key: &'static str) -> Result<Option<u64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let bytes = match &value {
            Value::String(text) => super::size::parse_size(text).ok(),
            other => other.as_u64(),
        };
        bytes.map(Some).ok_or_else(|| self.mismatch(key, &value, super::size::WANTED))
    }

    /// An error when a key was never asked for: it names the nearest known one.
    pub fn finish(mut self) -> Result<()> {
        let Some(unknown) = self.values.keys().next().cloned() else { return Ok(()) };
        self.known.sort_unstable();
        let hint = match nearest(&unknown, &self.known) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("the known keys are {}", self.known.join(", ")),
        };
        Err(self.error(&unknown, &format!("unknown key; {hint}")))
    }

    fn path(&self, key: &str) -> String {
        if self.section.is_empty() { key.to_owned() } else { format!("{}.{key}", self.section) }
    }

    fn mismatch(&self, key: &str, found: &Value, wanted: &str) -> Error {
        self.error(key, &format!("found {}, wanted {wanted}", describe(found)))
    }
}

/// A value as an error message names it: its kind, and its content when that is short.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) if value.chars().count() <= 40 => format!("the text {value:?}"),
        Value::String(_) => "a long text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// The candidate that `name` is most likely a misspelling of.
pub(crate) fn nearest<'c>(name: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let name = name.replace('-', "_");
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
