//! The keys and values of the tokens so far.

use mlx_graft::{Array, ops};

use crate::Result;

/// mlx-lm's `KVCache`: buffers that grow by a fixed step, so that a token is written in place.
#[derive(Debug, Default)]
pub struct KvCache {
    buffers: Option<(Array, Array)>,
    offset: i32,
}

/// Tokens by which the buffers grow.
const STEP: i32 = 256;

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

    /// Appends keys and values of shape `(B, K, T, D)` and returns all, of shape `(B, K, S, D)`.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let start = self.offset;
        let end = start + keys.dim(2)?;
        let (key_buffer, value_buffer) = match self.buffers.take() {
            Some((k, v)) if k.dim(2)? >= end => (k, v),
            buffers => {
                let capacity = (end + STEP - 1) / STEP * STEP;
                let (k, v) = buffers.unzip();
                (grow(k, keys, start, capacity)?, grow(v, values, start, capacity)?)
            }
        };
        let k = write(&key_buffer, keys, start, end)?;
        let v = write(&value_buffer, values, start, end)?;
        let out = (first(&k, end)?, first(&v, end)?);
        self.buffers = Some((k, v));
        self.offset = end;
        Ok(out)
    }
}

fn grow(buffer: Option<Array>, like: &Array, used: i32, capacity: i32) -> Result<Array> {
    let mut shape = like.shape().to_vec();
    shape[2] = capacity - used;
    let fresh = ops::zeros(&shape, like.dtype())?;
    match buffer {
        None => Ok(fresh),
        Some(buffer) => Ok(ops::concatenate_axis(&[&first(&buffer, used)?, &fresh], 2)?),
    }
}

fn write(buffer: &Array, update: &Array, start: i32, end: i32) -> Result<Array> {
    let mut stop = buffer.shape().to_vec();
    stop[2] = end;
    Ok(ops::slice_update(buffer, update, &[0, 0, start, 0], &stop, &[1, 1, 1, 1])?)
}

fn first(buffer: &Array, length: i32) -> Result<Array> {
    let mut stop = buffer.shape().to_vec();
    stop[2] = length;
    Ok(ops::slice(buffer, &[0, 0, 0, 0], &stop, &[1, 1, 1, 1])?)
}
