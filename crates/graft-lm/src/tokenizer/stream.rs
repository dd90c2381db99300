//! Text from ids that come one at a time.

use std::ops::Deref;

use super::Tokenizer;
use crate::Result;

/// The most ids held back for a character that is not complete. A character has at most four
/// bytes, and a token at least one, so that a longer wait is for bytes that are no text.
const HELD_BACK: usize = 16;

/// Turns ids into text as they come, in whole characters only.
///
/// Each id is decoded together with the few before it, as a decoder may treat a token differently
/// at the start of a text; so the cost of a text is linear in its length.
#[derive(Debug)]
pub struct StreamingDetokenizer<T> {
    tokenizer: T,
    ids: Vec<u32>,
    /// How many of `ids` have been told; those before serve as context only.
    told: usize,
}

impl<T: Deref<Target = Tokenizer>> StreamingDetokenizer<T> {
    /// Starts a text of `tokenizer`, borrowed or shared.
    pub fn new(tokenizer: T) -> Self {
        Self { tokenizer, ids: Vec::new(), told: 0 }
    }

    /// The text that `id` completes, empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn add(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let all = self.tokenizer.decode(&self.ids, false)?;
        let incomplete = all.ends_with(char::REPLACEMENT_CHARACTER);
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

    fn tell(&mut self, all: &str) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.told], false)?;
        let common = before.chars().zip(all.chars()).take_while(|(old, new)| old == new);
        let text = all[common.map(|(old, _)| old.len_utf8()).sum()..].to_owned();
        // What was told now is the context of what comes next, unless it is empty by itself, as a
        // leading space is to some decoders.
        if !text.is_empty() {
            self.ids.drain(..self.told);
            self.told = self.ids.len();
        }
        Ok(text)
    }
}
