//! A cache of the latest tokens.

use mlx_graft::{Array, ops};

use super::{STEP, first, grow, range, write};
use crate::Result;
use crate::nn::KeysValues;

/// mlx-lm's `RotatingKVCache`: at most `max_size` tokens are held, the first `keep` of them for
/// ever; a new token takes the place of the oldest other one.
#[derive(Debug)]
pub struct RotatingKvCache {
    buffers: Option<(Array, Array)>,
    /// Tokens seen.
    offset: i32,
    /// Where the next token is written.
    index: i32,
    max_size: i32,
    keep: i32,
}

impl RotatingKvCache {
    /// An empty cache.
    pub fn new(max_size: i32, keep: i32) -> Self {
        Self { buffers: None, offset: 0, index: 0, max_size, keep: keep.min(max_size - 1) }
    }

    /// The number of tokens seen.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// The most tokens held when single tokens are appended.
    pub fn max_size(&self) -> i32 {
        self.max_size
    }

    /// The buffers, for evaluation.
    pub fn state(&self) -> Vec<Array> {
        self.buffers.iter().flat_map(|(k, v)| [k.clone(), v.clone()]).collect()
    }

    /// Appends keys and values of shape `(B, K, T, D)` and returns those held, of shape
    /// `(B, K, S, D)`: in the order of their positions if `T` is not 1.
    ///
    /// Every one of several tokens sees `max_size` tokens back, so `S` may be up to
    /// `max_size - 1 + T`.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<KeysValues> {
        let length = keys.dim(2)?;
        let (k, v, index) =
            if length == 1 { self.write_one(keys, values)? } else { self.append(keys, values)? };
        let offset = self.offset + length;
        let held = k.dim(2)?.min(offset);
        let out = KeysValues::Dense(first(&k, held)?, first(&v, held)?);
        // Only what succeeded as a whole changes the cache.
        (self.buffers, self.offset, self.index) = (Some((k, v)), offset, index);
        Ok(out)
    }

    /// The buffers with new tokens, and where the next one is written.
    fn append(&self, keys: &Array, values: &Array) -> Result<(Array, Array, i32)> {
        let Some((k, v)) = &self.buffers else {
            return Ok((keys.clone(), values.clone(), keys.dim(2)?));
        };
        let (k, v) = (self.in_order(k)?, self.in_order(v)?);
        // The last new token sees itself and `max_size - 1` earlier ones.
        let surplus = k.dim(2)? - self.max_size + 1;
        let join = |held: &Array, new: &Array| -> Result<Array> {
            Ok(ops::concatenate_axis(&[&self.without_oldest(held, surplus)?, new], 2)?)
        };
        let (k, v) = (join(&k, keys)?, join(&v, values)?);
        let index = k.dim(2)?;
        Ok((k, v, index))
    }

    /// The buffers with a new token, and where the next one is written.
    fn write_one(&self, keys: &Array, values: &Array) -> Result<(Array, Array, i32)> {
        let (k, v, mut index) = match &self.buffers {
            Some((k, v)) if k.dim(2)? > self.offset || k.dim(2)? >= self.max_size => {
                let surplus = k.dim(2)? - self.max_size;
                let index = if surplus > 0 { self.max_size } else { self.index };
                (self.without_oldest(k, surplus)?, self.without_oldest(v, surplus)?, index)
            }
            buffers => {
                let used = self.offset;
                let capacity = (used + STEP).min(self.max_size);
                let (k, v) = buffers.as_ref().map(|(k, v)| (k, v)).unzip();
                let grown = |buffer: Option<&Array>, like: &Array| {
                    grow(buffer, like.shape(), like.dtype(), used, capacity)
                };
                (grown(k, keys)?, grown(v, values)?, used)
            }
        };
        if index == self.max_size {
            index = self.keep;
        }
        Ok((write(&k, keys, index)?, write(&v, values, index)?, index + 1))
    }

    /// The tokens held in the order of their positions.
    fn in_order(&self, buffer: &Array) -> Result<Array> {
        let length = buffer.dim(2)?;
        if self.index == length {
            return Ok(buffer.clone());
        }
        if self.index >= self.offset {
            return first(buffer, self.index);
        }
        let parts = [
            first(buffer, self.keep)?,
            range(buffer, self.index, length)?,
            range(buffer, self.keep, self.index)?,
        ];
        Ok(ops::concatenate_axis(&parts, 2)?)
    }

    /// Tokens in the order of their positions without the `count` oldest that may go.
    fn without_oldest(&self, buffer: &Array, count: i32) -> Result<Array> {
        if count <= 0 {
            return Ok(buffer.clone());
        }
        let rest = range(buffer, self.keep + count, buffer.dim(2)?)?;
        Ok(ops::concatenate_axis(&[&first(buffer, self.keep)?, &rest], 2)?)
    }
}
