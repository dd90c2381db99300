//! A cache of every token in few bits.

use mlx_graft::ops::QuantizeOptions;
use mlx_graft::{Array, ops};

use super::{KvCache, STEP, first, grow, write};
use crate::nn::{KeysValues, Quantization, QuantizedRows};
use crate::{Error, Result};

/// How keys and values are quantized, and from which token on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvQuantization {
    /// Bits per element: 2, 3, 4, 5, 6 or 8.
    pub bits: i32,
    /// Elements that share a scale and a bias: 32, 64 or 128.
    pub group_size: i32,
    /// The number of tokens from which on the cache is quantized.
    pub start: i32,
}

impl KvQuantization {
    /// Checks that MLX can quantize so.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the flag.
    pub fn new(bits: i32, group_size: i32, start: i32) -> Result<Self> {
        let wanted = |flag: &str, known: &[i32], found: i32| {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            Error::Usage(format!("--{flag} {found}: wanted one of {}", known.join(", ")))
        };
        let (all_bits, groups) = ([2, 3, 4, 5, 6, 8], [32, 64, 128]);
        if !all_bits.contains(&bits) {
            return Err(wanted("kv-bits", &all_bits, bits));
        }
        if !groups.contains(&group_size) {
            return Err(wanted("kv-group-size", &groups, group_size));
        }
        Ok(Self { bits, group_size, start })
    }
}

/// mlx-lm's `QuantizedKVCache`.
#[derive(Debug)]
pub struct QuantizedKvCache {
    buffers: Option<[QuantizedRows; 2]>,
    quantization: Quantization,
    offset: i32,
}

impl QuantizedKvCache {
    /// A cache that holds what `cache` does.
    ///
    /// # Errors
    /// [`Error::Usage`] for a head that does not divide into groups.
    pub fn from_dense(cache: &KvCache, quantization: KvQuantization) -> Result<Self> {
        let KvQuantization { bits, group_size, .. } = quantization;
        let quantization = Quantization { group_size, bits, mode: "affine".into() };
        let mut this = Self { buffers: None, quantization, offset: 0 };
        if let Some((keys, values)) = cache.held()? {
            this.update(&keys, &values)?;
        }
        Ok(this)
    }

    /// The number of tokens held.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// The buffers, for evaluation.
    pub fn state(&self) -> Vec<Array> {
        let arrays = |rows: &QuantizedRows| rows.arrays().map(Array::clone);
        self.buffers.iter().flatten().flat_map(arrays).collect()
    }

    /// Appends keys and values of shape `(B, K, T, D)` and returns all, quantized.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<KeysValues> {
        let start = self.offset;
        let end = start + keys.dim(2)?;
        let new = [self.quantize(keys)?, self.quantize(values)?];
        let fits = |[k, _]: &[QuantizedRows; 2]| k.weight.dim(2).is_ok_and(|room| room >= end);
        let capacity = (end + STEP - 1) / STEP * STEP;
        let grown;
        let buffers = match &self.buffers {
            Some(buffers) if fits(buffers) => buffers,
            buffers => {
                let room = |at: usize| {
                    let old = buffers.as_ref().map(|buffers| buffers[at].arrays());
                    new[at].map_with_index(|i, part| {
                        grow(old.map(|parts| parts[i]), part.shape(), part.dtype(), start, capacity)
                    })
                };
                grown = [room(0)?, room(1)?];
                &grown
            }
        };
        let written = |buffer: &QuantizedRows, new: &QuantizedRows| {
            let parts = new.arrays();
            buffer.map_with_index(|i, buffer| write(buffer, parts[i], start))
        };
        let buffers = [written(&buffers[0], &new[0])?, written(&buffers[1], &new[1])?];
        let held = |rows: &QuantizedRows| rows.map_with_index(|_, part| first(part, end));
        let out = KeysValues::Quantized(held(&buffers[0])?, held(&buffers[1])?);
        self.buffers = Some(buffers);
        self.offset = end;
        Ok(out)
    }

    fn quantize(&self, x: &Array) -> Result<QuantizedRows> {
        let Quantization { group_size, bits, mode } = &self.quantization;
        check_groups(*group_size, x.dim(-1)?)?;
        let options = QuantizeOptions::default().group_size(*group_size).bits(*bits).mode(mode);
        let mut parts = ops::quantize(x, &options)?.into_iter();
        let mut next = || parts.next().expect("affine quantization gives three arrays");
        Ok(QuantizedRows {
            weight: next(),
            scales: next(),
            biases: next(),
            quantization: self.quantization.clone(),
        })
    }
}

/// Fails if heads of `dim` features do not divide into groups.
pub(super) fn check_groups(group_size: i32, dim: i32) -> Result<()> {
    if dim % group_size == 0 {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--kv-group-size {group_size}: the heads of this model have {dim} features, which do not \
         divide into such groups; use a group size that divides {dim}"
    )))
}
