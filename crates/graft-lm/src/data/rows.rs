//! Rows of JSON: `text`, `prompt` and `completion`, or `messages`, tokenized.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::args::TrainArgs;
use crate::args::keys::{Keys, Origins, describe};
use crate::chat_template::{ChatOptions, Time};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// A tokenized row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The ids.
    pub tokens: Vec<i32>,
    /// How many ids at the start belong to a prompt that the loss leaves out.
    pub offset: usize,
    /// What the rows are sorted by before they are grouped into batches.
    ///
    /// mlx-lm sorts by `CacheDataset.itemlen`, which is the number of keys in the row's JSON object
    /// and not of its tokens; so do rows that come from JSON, for the same batches.
    pub sort_key: usize,
}

/// How rows are read: the names of their keys, and whether the prompt counts.
#[derive(Debug, Clone)]
pub struct DatasetOptions {
    /// The key of the prompt.
    pub prompt_feature: String,
    /// The key of the completion.
    pub completion_feature: String,
    /// The key of the text.
    pub text_feature: String,
    /// The key of the chat.
    pub chat_feature: String,
    /// Whether the loss leaves out the prompt.
    pub mask_prompt: bool,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self::from(&TrainArgs::default())
    }
}

impl From<&TrainArgs> for DatasetOptions {
    fn from(args: &TrainArgs) -> Self {
        let name = |given: &Option<String>, default: &str| {
            given.clone().unwrap_or_else(|| default.to_owned())
        };
        Self {
            prompt_feature: name(&args.prompt_feature, "prompt"),
            completion_feature: name(&args.completion_feature, "completion"),
            text_feature: name(&args.text_feature, "text"),
            chat_feature: name(&args.chat_feature, "messages"),
            mask_prompt: args.mask_prompt,
        }
    }
}

impl DatasetOptions {
    /// The options in `values`, keyed as in a YAML file; what is absent gets its default.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown key, naming the nearest or those known, and for a wrong type.
    pub fn from_map(values: Map<String, Value>) -> Result<Self> {
        let origins = Origins::default();
        let mut keys = Keys::new(values, "", &origins);
        let args = TrainArgs {
            prompt_feature: keys.text("prompt_feature")?,
            completion_feature: keys.text("completion_feature")?,
            text_feature: keys.text("text_feature")?,
            chat_feature: keys.text("chat_feature")?,
            mask_prompt: keys.boolean("mask_prompt", false)?,
            ..TrainArgs::default()
        };
        keys.finish()?;
        Ok(Self::from(&args))
    }
}

/// Tokenized rows, in the order of their file.
#[derive(Debug, Clone)]
pub struct Dataset {
    rows: Vec<Row>,
    source: PathBuf,
    rendered: Option<Time>,
}

impl Dataset {
    /// A dataset of `rows` that are tokenized already; `source` names it in errors.
    pub fn new(rows: Vec<Row>, source: impl Into<PathBuf>) -> Self {
        Self { rows, source: source.into(), rendered: None }
    }

    /// Reads and tokenizes a file of one JSON object per line. The first row decides the format,
    /// as in mlx-lm; blank lines at the end are no rows.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the file; [`Error::Invalid`] with the line for what is not
    /// UTF-8, not JSON, not an object, lacks the wanted keys or has them of another type, for what
    /// the chat template refuses, and for a file without rows.
    pub fn load(path: &Path, tokenizer: &Tokenizer, options: &DatasetOptions) -> Result<Self> {
        let rows = read_json_lines(path)?;
        Self::from_json(&rows, path, tokenizer, options)
    }

    /// Tokenizes rows of JSON; `source` and the position name a row in errors.
    ///
    /// # Errors
    /// As [`Dataset::load`].
    pub fn from_json(
        rows: &[Map<String, Value>],
        source: &Path,
        tokenizer: &Tokenizer,
        options: &DatasetOptions,
    ) -> Result<Self> {
        let Some(first) = rows.first() else {
            return Err(Error::invalid(source, "no rows; wanted one JSON object per line"));
        };
        let at = |line: usize| {
            move |message: String| Error::Invalid {
                path: source.to_path_buf(),
                line: Some(line),
                message,
            }
        };
        let format = Format::of(first, options).map_err(at(1))?;
        let rendered = tokenizer.printed_time().filter(|_| format != Format::Text);
        let reader = Reader { format, tokenizer, options };
        // Collected one by one, so that the error is the first in the file.
        let tokenized: Vec<Result<Row>> = rows
            .par_iter()
            .enumerate()
            .map(|(index, row)| {
                reader.row(row).map_err(|failure| match failure {
                    Failure::Row(message) | Failure::Other(Error::Usage(message)) => {
                        at(index + 1)(message)
                    }
                    Failure::Other(other) => other,
                })
            })
            .collect();
        let rows = tokenized.into_iter().collect::<Result<Vec<Row>>>()?;
        Ok(Self { rows, source: source.to_path_buf(), rendered })
    }

    /// A checksum of all rows.
    pub(crate) fn checksum(&self) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        for row in &self.rows {
            let numbers = [row.tokens.len(), row.offset, row.sort_key];
            for number in numbers {
                checksum.update(&(number as u64).to_le_bytes());
            }
            let bytes: Vec<u8> = row.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
            checksum.update(&bytes);
        }
        checksum.finalize()
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The time that the chat template has printed into the rows, if it prints one.
    pub fn rendered(&self) -> Option<Time> {
        self.rendered
    }

    /// Where the rows come from.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Completions,
    Chat,
    Text,
}

impl Format {
    /// Source: `create_dataset` of mlx-lm's `tuner/datasets.py`.
    fn of(row: &Map<String, Value>, options: &DatasetOptions) -> Result<Self, String> {
        let has = |key: &str| row.contains_key(key);
        if has(&options.prompt_feature) && has(&options.completion_feature) {
            Ok(Self::Completions)
        } else if has(&options.chat_feature) {
            Ok(Self::Chat)
        } else if !has(&options.text_feature) {
            Err(format!(
                "found the keys {}; wanted `{}`, or `{}` and `{}`, or `{}`",
                names(row),
                options.text_feature,
                options.prompt_feature,
                options.completion_feature,
                options.chat_feature
            ))
        } else if options.mask_prompt {
            Err(format!(
                "rows of `{}` have no prompt to mask; leave out mask_prompt, or use `{}` and \
                 `{}`, or `{}`",
                options.text_feature,
                options.prompt_feature,
                options.completion_feature,
                options.chat_feature
            ))
        } else {
            Ok(Self::Text)
        }
    }
}

fn names(row: &Map<String, Value>) -> String {
    if row.is_empty() {
        return "(none)".to_owned();
    }
    row.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

/// Why a row can't be read: its own content, or something that concerns them all.
enum Failure {
    Row(String),
    Other(Error),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Row(message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

struct Reader<'a> {
    format: Format,
    tokenizer: &'a Tokenizer,
    options: &'a DatasetOptions,
}

impl Reader<'_> {
    /// Source: `process` of `TextDataset`, `ChatDataset` and `CompletionsDataset` in mlx-lm.
    fn row(&self, row: &Map<String, Value>) -> Result<Row, Failure> {
        let options = self.options;
        let (tokens, offset) = match self.format {
            Format::Text => (self.text(text(row, &options.text_feature)?)?, 0),
            Format::Completions => {
                let prompt = text(row, &options.prompt_feature)?;
                let completion = text(row, &options.completion_feature)?;
                let messages = json!([
                    {"role": "user", "content": prompt},
                    {"role": "assistant", "content": completion},
                ]);
                self.chat(&messages, tools(row)?)?
            }
            Format::Chat => {
                let messages = field(row, &options.chat_feature)?;
                check_messages(messages, &options.chat_feature)?;
                self.chat(messages, tools(row)?)?
            }
        };
        let tokens = tokens.into_iter().map(u32::cast_signed).collect();
        Ok(Row { tokens, offset, sort_key: row.len() })
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(text, true)?;
        let Some(eos) = self.tokenizer.eos_token_id() else {
            return Err(Error::Usage(
                "the tokenizer has no token that ends a text; set `eos_token` in \
                 tokenizer_config.json"
                    .to_owned(),
            ));
        };
        if tokens.last() != Some(&eos) {
            tokens.push(eos);
        }
        Ok(tokens)
    }

    fn chat(&self, messages: &Value, tools: Option<Value>) -> Result<(Vec<u32>, usize), Failure> {
        let mut options = ChatOptions { tools, ..ChatOptions::default() };
        let tokens = self.tokenizer.encode_chat(messages, &options)?;
        let mut offset = 0;
        if let (true, Some([prompt @ .., answer])) =
            (self.options.mask_prompt, messages.as_array().map(Vec::as_slice))
        {
            if prompt.is_empty() {
                return Err(Failure::Row(format!(
                    "`{}`: nothing is before the last message, so that mask_prompt has nothing to \
                     mask; add the message that it answers, or leave out mask_prompt",
                    self.options.chat_feature
                )));
            }
            options.add_generation_prompt = answer["role"] == "assistant";
            offset = self.tokenizer.encode_chat(&json!(prompt), &options)?.len();
        }
        Ok((tokens, offset))
    }
}

fn field<'r>(row: &'r Map<String, Value>, key: &str) -> Result<&'r Value, String> {
    row.get(key).ok_or_else(|| {
        format!("found the keys {}; wanted `{key}`, as in the first row", names(row))
    })
}

fn text<'r>(row: &'r Map<String, Value>, key: &str) -> Result<&'r str, String> {
    let value = field(row, key)?;
    value.as_str().ok_or_else(|| format!("`{key}`: found {}, wanted a text", describe(value)))
}

fn tools(row: &Map<String, Value>) -> Result<Option<Value>, String> {
    match row.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(tools @ Value::Array(items)) if items.iter().all(Value::is_object) => {
            Ok(Some(tools.clone()))
        }
        Some(other) => Err(format!("`tools`: found {}, wanted a list of objects", describe(other))),
    }
}

fn check_messages(messages: &Value, key: &str) -> Result<(), String> {
    let found = match messages.as_array() {
        None => describe(messages),
        Some(items) if items.is_empty() => "an empty list".to_owned(),
        Some(items) => match items.iter().position(|item| !item["role"].is_string()) {
            None => return Ok(()),
            Some(index) => format!("no text `role` in message {index}"),
        },
    };
    Err(format!("`{key}`: found {found}, wanted a list of objects with `role` and `content`"))
}

fn read_json_lines(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let bytes = fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            Error::not_found(path, "no such file; wanted one JSON object per line")
        }
        _ => Error::Io { path: path.to_path_buf(), source },
    })?;
    // Editors on Windows write it, and it is no part of the text.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = text {
        return Err(Error::invalid(path, "the encoding is UTF-16, wanted UTF-8; save it as that"));
    }
    let rows = text.trim_ascii_end();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    rows.split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(index, line)| {
            let invalid = |message: String| Error::Invalid {
                path: path.to_path_buf(),
                line: Some(index + 1),
                message,
            };
            if line.trim_ascii().is_empty() {
                return Err(invalid("a blank line between rows; remove it".to_owned()));
            }
            let value: Value = serde_json::from_slice(line).map_err(|error| {
                let reason = not_a_number(line, &error).unwrap_or_else(|| reason(&error));
                invalid(format!("not JSON at column {}: {reason}", error.column()))
            })?;
            match value {
                Value::Object(row) => Ok(row),
                other => Err(invalid(format!(
                    "found {}, wanted a JSON object such as {{\"text\": \"...\"}}",
                    describe(&other)
                ))),
            }
        })
        .collect()
}

/// What to say of the numbers that Python's `json` writes and reads, and JSON does not have.
fn not_a_number(line: &[u8], error: &serde_json::Error) -> Option<String> {
    let rest = line.get(error.column().checked_sub(1)?..)?;
    let name = ["NaN", "Infinity"].into_iter().find(|name| rest.starts_with(name.as_bytes()))?;
    Some(format!("{name} is no number of JSON; write null or a number, or leave the key out"))
}

/// What `serde_json` says, without its own line and column: each line is parsed by itself.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
