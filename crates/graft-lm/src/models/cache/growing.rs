//! A cache of every token.

use mlx_graft::Array;

use super::{STEP, first, grow, write};
use crate::Result;
use crate::nn::KeysValues;

/// mlx-lm's `KVCache`: buffers that grow by a fixed step, so that a token is written in place.
#[derive(Debug, Default)]
pub struct KvCache {
    buffers: Option<(Array, Array)>,
    offset: i32,
}

impl KvCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of tokens held.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// The buffers, for evaluation.
    pub fn state(&self) -> Vec<Array> {
        self.buffers.iter().flat_map(|(k, v)| [k.clone(), v.clone()]).collect()
    }

    /// The keys and values of the tokens held, of shape `(B, K, S, D)`; `None` before the first.
    pub fn held(&self) -> Result<Option<(Array, Array)>> {
        let held = |(k, v): &(Array, Array)| Ok((first(k, self.offset)?, first(v, self.offset)?));
        self.buffers.as_ref().map(held).transpose()
    }

    /// Appends keys and values of shape `(B, K, T, D)` and returns all, of shape `(B, K, S, D)`.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<KeysValues> {
        let start = self.offset;
        let end = start + keys.dim(2)?;
        let (key_buffer, value_buffer) = match self.buffers.take() {
            Some((k, v)) if k.dim(2)? >= end => (k, v),
            buffers => {
                let capacity = (end + STEP - 1) / STEP * STEP;
                let (k, v) = buffers.unzip();
                (
                    grow(k.as_ref(), keys, start, capacity)?,
                    grow(v.as_ref(), values, start, capacity)?,
                )
            }
        };
        let k = write(&key_buffer, keys, start)?;
        let v = write(&value_buffer, values, start)?;
        let out = KeysValues::Dense(first(&k, end)?, first(&v, end)?);
        self.buffers = Some((k, v));
        self.offset = end;
        Ok(out)
    }
}
