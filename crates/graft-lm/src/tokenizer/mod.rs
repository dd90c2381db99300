//! Tokenizers: text to ids and back, and chats to text.

mod family;
mod files;
mod stream;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::chat_template::{ChatOptions, ChatTemplate, Time};
use crate::{Error, Result};

use files::Templates;
use stream::Streaming;
pub use stream::StreamingDetokenizer;

/// The tokenizer of a model folder, with the ids that transformers' `AutoTokenizer` gives.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    folder: PathBuf,
    /// The named special tokens (`bos_token`, ...), which are variables of the chat template.
    special_tokens: Map<String, Value>,
    eos_token_ids: BTreeSet<u32>,
    templates: Templates,
    has_thinking: bool,
    streaming: Streaming,
}

impl Tokenizer {
    /// Loads the tokenizer in `folder`: `tokenizer.json`, with what `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`, `config.json` and
    /// `generation_config.json` add, where they exist.
    ///
    /// # Errors
    /// [`Error::NotFound`] without `tokenizer.json`, naming what is there instead;
    /// [`Error::Invalid`] for a file that can't be read as what it should be.
    pub fn load(folder: &Path) -> Result<Self> {
        let files = files::read(folder)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&files.tokenizer).map_err(|error| {
            Error::invalid(
                folder.join(files::TOKENIZER),
                format!("not a tokenizer that the `tokenizers` library {error}"),
            )
        })?;
        // As transformers on each call: rows are neither cut nor padded here.
        inner.with_padding(None);
        let invalid = |error: tokenizers::Error| {
            Error::invalid(folder.join(files::TOKENIZER), error.to_string())
        };
        inner.with_truncation(None).map_err(invalid)?;
        inner.add_tokens(files.added_tokens).map_err(invalid)?;
        inner.add_special_tokens(files.special_tokens).map_err(invalid)?;
        let mut eos_token_ids: BTreeSet<u32> = files.eos_token_ids.into_iter().collect();
        let eos = files.named_tokens.get("eos_token").and_then(Value::as_str);
        eos_token_ids.extend(eos.and_then(|token| inner.token_to_id(token)));
        let has_thinking = has_thinking(&inner);
        Ok(Self {
            inner,
            folder: folder.to_path_buf(),
            special_tokens: files.named_tokens,
            eos_token_ids,
            templates: files.templates,
            has_thinking,
            streaming: files.streaming,
        })
    }

    /// The ids of `text`, with those that the tokenizer puts around it (such as the beginning of
    /// the text) if `add_special_tokens`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer can't represent the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(|error| Error::Usage(format!("a text can't be tokenized: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`; ids beyond the vocabulary are left out.
    ///
    /// # Errors
    /// [`Error::Usage`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|error| Error::Usage(format!("ids can't be decoded: {error}")))
    }

    /// A detokenizer for ids that come one at a time.
    pub fn detokenizer(&self) -> StreamingDetokenizer<&Self> {
        StreamingDetokenizer::new(self)
    }

    /// The text of a chat. As in mlx-lm, `enable_thinking` tells whether the vocabulary has
    /// tokens for thinking, unless `options` set it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if neither the folder nor `options` have a chat template, with the
    /// remedy; [`Error::Usage`] if it is broken or refuses the messages.
    pub fn apply_chat_template(&self, messages: &Value, options: &ChatOptions) -> Result<String> {
        let compile = |source| ChatTemplate::at(source, self.templates.time());
        let given = options.chat_template.as_deref().map(compile).transpose()?;
        let template = match &given {
            Some(template) => template,
            None => self.template(options.tools.is_some())?,
        };
        let mut options = options.clone();
        options.variables.entry("enable_thinking").or_insert(self.has_thinking.into());
        template.render(messages, &options, &self.special_tokens)
    }

    /// The ids of a chat: its text, encoded without further special tokens, as the template
    /// writes them itself.
    ///
    /// # Errors
    /// As [`Tokenizer::apply_chat_template`].
    pub fn encode_chat(&self, messages: &Value, options: &ChatOptions) -> Result<Vec<u32>> {
        self.encode(&self.apply_chat_template(messages, options)?, false)
    }

    /// The chat template's text, if there is one.
    pub fn chat_template(&self) -> Option<&str> {
        self.templates.default.as_ref().map(|(_, source)| source.as_str())
    }

    /// Has chat templates print this time where they print the present (`strftime_now`).
    pub fn set_time(&mut self, time: Time) {
        self.templates.set_time(time);
    }

    /// The time that the tokenizer's chat templates print: the one that was set, or the present;
    /// `None` if they print none.
    pub fn printed_time(&self) -> Option<Time> {
        let time = || self.templates.time().unwrap_or_else(Time::now);
        self.templates.print_time().then(time)
    }

    /// Whether the vocabulary has tokens around a model's thinking.
    pub fn has_thinking(&self) -> bool {
        self.has_thinking
    }

    /// The ids that end a text: those of `generation_config.json` or `config.json`, and the
    /// tokenizer's own.
    pub fn eos_token_ids(&self) -> &BTreeSet<u32> {
        &self.eos_token_ids
    }

    /// Adds an id that ends a text, given as a token or as an id.
    ///
    /// # Errors
    /// [`Error::Usage`] if `token` is neither.
    pub fn add_eos_token(&mut self, token: &str) -> Result<()> {
        let id = token.parse().ok().or_else(|| self.inner.token_to_id(token));
        let id = id.ok_or_else(|| {
            Error::Usage(format!("{token:?} is no token of the tokenizer in {}", self.name()))
        })?;
        self.eos_token_ids.insert(id);
        Ok(())
    }

    /// The id of the token that begins a text.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.named_id("bos_token")
    }

    /// The id of the tokenizer's own token that ends a text.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.named_id("eos_token")
    }

    /// The id of the token that fills up a row.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.named_id("pad_token")
    }

    /// The number of tokens, without those added to the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(false)
    }

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    fn named_id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(self.special_tokens.get(name)?.as_str()?)
    }

    fn name(&self) -> std::path::Display<'_> {
        self.folder.display()
    }

    fn template(&self, with_tools: bool) -> Result<&ChatTemplate> {
        self.templates.get(with_tools).unwrap_or_else(|| {
            Err(Error::not_found(
                &self.folder,
                "the tokenizer has no chat template (chat_template.jinja, or `chat_template` in \
                 tokenizer_config.json); take the one of the instruction-tuned model, or use \
                 `text` rows for training and --ignore-chat-template for generation",
            ))
        })
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("folder", &self.folder)
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

/// Source: `_infer_thinking` of mlx-lm's `tokenizer_utils.py`.
fn has_thinking(inner: &tokenizers::Tokenizer) -> bool {
    let knows = |token: &&str| inner.token_to_id(token).is_some();
    [
        &["<think>", "</think>"][..],
        &["<longcat_think>", "</longcat_think>"],
        &["<|think:start|>", "<|think:end|>"],
        &["<|channel>", "<channel|>"],
        &["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"],
    ]
    .iter()
    .any(|tokens| tokens.iter().all(knows))
}

#[cfg(test)]
mod tests;
