//! The keys and values of the tokens so far.

mod growing;
mod quantized;
mod rotating;

use graft_kernels::Projections;
use mlx_graft::{Array, Dtype, ops};

pub use growing::KvCache;
pub use quantized::{KvQuantization, QuantizedKvCache};
pub use rotating::RotatingKvCache;

use crate::nn::{Mask, Rope, rope_attention, window_start};
use crate::{Error, Result};

/// Tokens by which buffers grow.
const STEP: i32 = 256;

/// The cache of one block.
#[derive(Debug)]
pub enum Cache {
    /// Holds every token.
    Growing(KvCache),
    /// Holds the latest tokens.
    Rotating(RotatingKvCache),
    /// Holds every token in few bits.
    Quantized(QuantizedKvCache),
}

impl Cache {
    /// An empty cache of a block that sees `window` tokens back, `None` for all, and may hold
    /// `max_kv_size` tokens.
    ///
    /// A cache bound by `max_kv_size` always keeps the first four tokens, as mlx-lm does: much
    /// attention goes there (arXiv:2309.17453).
    pub fn new(window: Option<i32>, max_kv_size: Option<i32>) -> Self {
        match (window, max_kv_size) {
            (None, None) => Self::Growing(KvCache::new()),
            (Some(window), max) if max.is_none_or(|max| window <= max) => {
                Self::Rotating(RotatingKvCache::new(window, 0))
            }
            (_, Some(max)) => Self::Rotating(RotatingKvCache::new(max, 4)),
            (Some(_), None) => unreachable!("a window without a limit is its own limit"),
        }
    }

    /// The number of tokens seen, which is the position of the next one.
    pub fn offset(&self) -> i32 {
        match self {
            Self::Growing(cache) => cache.offset(),
            Self::Rotating(cache) => cache.offset(),
            Self::Quantized(cache) => cache.offset(),
        }
    }

    /// The buffers, for evaluation.
    pub fn state(&self) -> Vec<Array> {
        match self {
            Self::Growing(cache) => cache.state(),
            Self::Rotating(cache) => cache.state(),
            Self::Quantized(cache) => cache.state(),
        }
    }

    /// The mask for `length` tokens that are appended next.
    pub fn mask(&self, length: i32) -> Result<Mask> {
        match self {
            _ if length == 1 => Ok(Mask::None),
            Self::Rotating(cache) => {
                let held = cache.offset().min(cache.max_size() - 1);
                if held + length <= cache.max_size() {
                    return Ok(Mask::Causal);
                }
                Ok(Mask::From(window_start(length, held, cache.max_size())?))
            }
            Self::Growing(_) | Self::Quantized(_) => Ok(Mask::Causal),
        }
    }

    /// Appends keys and values, and attends to what is held then: `(B, T, H * E)`. `mask` is that of
    /// [`mask`](Self::mask).
    pub fn attend(
        &mut self,
        new: Projections<'_>,
        rope: &Rope,
        mask: &Mask,
        scale: f32,
    ) -> Result<Array> {
        let offset = self.offset();
        match self {
            Self::Growing(cache) => cache.attend(new, rope, scale),
            Self::Rotating(cache) => {
                rope_attention(new, rope, offset, mask, scale, |k, v| cache.update(&k, &v))
            }
            Self::Quantized(cache) => {
                rope_attention(new, rope, offset, mask, scale, |k, v| cache.update(&k, &v))
            }
        }
    }

    /// Quantizes what the cache holds from now on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a cache that forgets tokens, which mlx-lm does not quantize
    /// either; [`Error::Usage`] for a head that does not divide into groups.
    pub fn quantize(&mut self, quantization: KvQuantization) -> Result<()> {
        match self {
            Self::Growing(cache) => {
                *self = Self::Quantized(QuantizedKvCache::from_dense(cache, quantization)?);
                Ok(())
            }
            Self::Rotating(_) => Err(forgets()),
            Self::Quantized(_) => Ok(()),
        }
    }

    /// Fails where [`quantize`](Self::quantize) would once there are tokens, of heads with
    /// `head_dim` features.
    ///
    /// # Errors
    /// Those of [`quantize`](Self::quantize).
    pub fn check_quantization(&self, quantization: KvQuantization, head_dim: i32) -> Result<()> {
        match self {
            Self::Rotating(_) => Err(forgets()),
            Self::Growing(_) | Self::Quantized(_) => {
                quantized::check_groups(quantization.group_size, head_dim)
            }
        }
    }
}

fn forgets() -> Error {
    Error::Unsupported(
        "--kv-bits with a cache that forgets tokens, of --max-kv-size or of a model with a sliding \
         window: leave one of them out"
            .into(),
    )
}

/// The first `length` tokens of a buffer of shape `(B, K, S, ...)`.
fn first(buffer: &Array, length: i32) -> Result<Array> {
    range(buffer, 0, length)
}

/// The tokens from `start` to before `stop` of a buffer of shape `(B, K, S, ...)`.
fn range(buffer: &Array, start: i32, stop: i32) -> Result<Array> {
    let mut end = buffer.shape().to_vec();
    end[2] = stop;
    Ok(ops::slice(buffer, &[0, 0, start, 0], &end, &[1, 1, 1, 1])?)
}

/// The buffer with `update` from token `start` on.
fn write(buffer: &Array, update: &Array, start: i32) -> Result<Array> {
    let mut stop = buffer.shape().to_vec();
    stop[2] = start + update.dim(2)?;
    Ok(ops::slice_update(buffer, update, &[0, 0, start, 0], &stop, &[1, 1, 1, 1])?)
}

/// The first `used` tokens of a buffer, or none, and room for more up to `capacity`: of `shape`, but
/// for the number of tokens.
fn grow(
    buffer: Option<&Array>,
    shape: &[i32],
    dtype: Dtype,
    used: i32,
    capacity: i32,
) -> Result<Array> {
    let mut shape = shape.to_vec();
    shape[2] = capacity - used;
    let fresh = ops::zeros(&shape, dtype)?;
    match buffer {
        None => Ok(fresh),
        Some(buffer) => Ok(ops::concatenate_axis(&[&first(buffer, used)?, &fresh], 2)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appends tokens of one head with `dim` features, which are larger the later.
    fn attend(cache: &mut Cache, tokens: i32, dim: i32) -> Result<Vec<f32>> {
        let rope = Rope::new(32, 1e4, false, None, None)?;
        let x = ops::multiply(
            &ops::ones(&[1, tokens, dim], Dtype::Float32)?,
            &Array::scalar(1.0 + cache.offset() as f32)?,
        )?;
        let new = Projections { queries: &x, keys: &x, values: &x, heads: 1, kv_heads: 1 };
        let mask = cache.mask(tokens)?;
        Ok(cache.attend(new, &rope, &mask, 1.0)?.to_vec::<f32>()?)
    }

    #[test]
    fn a_failed_call_leaves_the_tokens_held() -> Result<()> {
        let quantization = KvQuantization { bits: 8, group_size: 32, start: 0 };
        let caches = || -> Result<[Cache; 4]> {
            let mut quantized = Cache::new(None, None);
            quantized.quantize(quantization)?;
            let rotating = |max| Cache::new(None, Some(max));
            Ok([Cache::new(None, None), rotating(6), rotating(300), quantized])
        };
        for (mut cache, mut other) in caches()?.into_iter().zip(caches()?) {
            for tokens in [3, 1, 1, 2, 1, 1] {
                // Heads of another length fit none of them, whether or not the buffers have room.
                for tokens in [tokens, 300] {
                    let failed = cache.offset() > 0 && attend(&mut cache, tokens, 64).is_err();
                    assert_eq!(failed, cache.offset() > 0, "{cache:?}");
                }
                let found = attend(&mut cache, tokens, 32)?;
                assert_eq!(found, attend(&mut other, tokens, 32)?, "{cache:?}");
                assert_eq!(cache.offset(), other.offset());
            }
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_quantized_is_told_before_there_are_tokens() {
        let quantization = KvQuantization { bits: 4, group_size: 64, start: 9 };
        let message = |cache: Cache| {
            cache.check_quantization(quantization, 96).map_err(|error| error.to_string())
        };
        let found = message(Cache::new(None, Some(16))).unwrap_err();
        assert!(found.contains("--max-kv-size"), "{found}");
        let found = message(Cache::new(None, None)).unwrap_err();
        assert!(found.contains("--kv-group-size 64") && found.contains("96"), "{found}");
        Cache::new(None, None).check_quantization(quantization, 128).unwrap();
    }
}
