//! Text from ids that come one at a time.

use std::ops::Deref;

use serde_json::{Value, json};

use super::Tokenizer;
use crate::Result;

/// The most ids held back for a character that is not complete. A character has at most four
/// bytes, and a token at least one, so that a longer wait is for bytes that are no text.
const HELD_BACK: usize = 16;

/// The token of a single space in byte-level vocabularies.
const SPACE: &str = "Ġ";

/// What mlx-lm's streaming detokenizers do to a text beside decoding it. It chooses one by the
/// decoder in tokenizer.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streaming {
    /// `NaiveStreamingDetokenizer`, and `SPMStreamingDetokenizer` without `trim_space`: nothing.
    Plain,
    /// `BPEStreamingDetokenizer`: a space at the start is left out, and a token that is a single
    /// space comes with the next one.
    Bytes,
    /// `SPMStreamingDetokenizer`: while there is no text, a space at the start of a token is left
    /// out. Of the first token, the decoder itself does so.
    Words,
}

impl Streaming {
    /// Source: `_is_spm_decoder` and `_is_bpe_decoder` of mlx-lm's `tokenizer_utils.py`.
    pub(super) fn of(decoder: &Value) -> Self {
        let words = json!({
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        });
        if *decoder == words {
            Self::Words
        } else if decoder["type"] == "ByteLevel" {
            Self::Bytes
        } else {
            Self::Plain
        }
    }
}

/// Turns ids into text as they come, in whole characters only.
///
/// Each id is decoded together with the few before it, as a decoder may treat a token differently
/// at the start of a text; so the cost of a text is linear in its length. As in mlx-lm, the text has
/// no space at its start where the tokenizer puts one before each word.
#[derive(Debug)]
pub struct StreamingDetokenizer<T> {
    tokenizer: T,
    ids: Vec<u32>,
    /// How many of `ids` have been told; those before serve as context only.
    told: usize,
    /// Whether ids have been told, and whether they had text.
    began: bool,
    has_text: bool,
}

impl<T: Deref<Target = Tokenizer>> StreamingDetokenizer<T> {
    /// Starts a text of `tokenizer`, borrowed or shared.
    pub fn new(tokenizer: T) -> Self {
        Self { tokenizer, ids: Vec::new(), told: 0, began: false, has_text: false }
    }

    /// The text that `id` completes, empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn add(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let all = self.tokenizer.decode(&self.ids, false)?;
        let incomplete = all.ends_with(char::REPLACEMENT_CHARACTER) || self.is_space(id);
        if incomplete && self.ids.len() - self.told < HELD_BACK {
            return Ok(String::new());
        }
        self.tell(&all)
    }

    /// The text of what is held back at the end.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let all = self.tokenizer.decode(&self.ids, false)?;
        self.tell(&all)
    }

    /// Whether mlx-lm holds a token back, as it may be the space before the first word.
    fn is_space(&self, id: u32) -> bool {
        self.tokenizer.streaming == Streaming::Bytes
            && self.tokenizer.inner.id_to_token(id).is_some_and(|token| token == SPACE)
    }

    fn tell(&mut self, all: &str) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.told], false)?;
        let common = before.chars().zip(all.chars()).take_while(|(old, new)| old == new);
        let mut text = &all[common.map(|(old, _)| old.len_utf8()).sum()..];
        // What was told now is the context of what comes next, unless it is empty by itself, as a
        // leading space is to some decoders.
        if !text.is_empty() {
            self.ids.drain(..self.told);
            self.told = self.ids.len();
        }
        let trims = match self.tokenizer.streaming {
            Streaming::Plain => false,
            Streaming::Bytes => !self.has_text,
            Streaming::Words => !self.has_text && self.began,
        };
        if trims {
            text = text.strip_prefix(' ').unwrap_or(text);
        }
        self.began = true;
        self.has_text |= !text.is_empty();
        Ok(text.to_owned())
    }
}
