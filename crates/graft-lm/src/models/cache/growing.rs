//! A cache of every token.

use graft_kernels::{Projections, cached_attention};
use mlx_graft::Array;

use super::{STEP, first, grow};
use crate::Result;
use crate::nn::Rope;

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

    /// Appends keys and values and attends to all, each query to its own token and those before:
    /// `(B, T, H * E)`.
    pub fn attend(&mut self, new: Projections<'_>, rope: &Rope, scale: f32) -> Result<Array> {
        let (start, length) = (self.offset, new.queries.dim(1)?);
        let (queries, keys) = (rope.scaled(new.queries)?, rope.scaled(new.keys)?);
        let new = Projections { queries: &queries, keys: &keys, ..new };
        let tokens = start + length;
        let grown;
        let (held_keys, held_values) = match &self.buffers {
            Some((k, v)) if k.dim(2)? >= tokens => (k, v),
            _ => {
                grown = self.grown(new, tokens)?;
                (&grown.0, &grown.1)
            }
        };
        let (rotation, freqs) = (rope.rotation(length, start), rope.freqs());
        let attended = cached_attention(new, (held_keys, held_values), rotation, freqs, scale)?;
        // Nothing holds the old buffers when this is evaluated, so that it writes in place.
        self.buffers = Some((attended.keys, attended.values));
        self.offset = start + length;
        Ok(attended.out)
    }

    /// Buffers of the tokens held with room for so many.
    fn grown(&self, new: Projections<'_>, tokens: i32) -> Result<(Array, Array)> {
        let capacity = (tokens + STEP - 1) / STEP * STEP;
        let (k, v) = self.buffers.as_ref().map(|(k, v)| (k, v)).unzip();
        let grown = |buffer: Option<&Array>, like: &Array| {
            let shape = [like.dim(0)?, new.kv_heads, capacity, like.dim(2)? / new.kv_heads];
            grow(buffer, &shape, like.dtype(), self.offset, capacity)
        };
        Ok((grown(k, new.keys)?, grown(v, new.values)?))
    }
}
