//! Choosing the next token, as mlx-lm's `make_sampler`.

use mlx_graft::{Array, Dtype, ops, random};

use crate::lora::KeySequence;
use crate::nn::constant;
use crate::{Error, Result};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// The temperature; 0 takes the likeliest token.
    pub temp: f32,
    /// Sample from the likeliest tokens that hold this much probability; 0 and 1 mean all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest; 0 drops none.
    pub min_p: f32,
    /// How many tokens `min_p` leaves at least.
    pub min_tokens_to_keep: i32,
    /// Sample from this many likeliest tokens; 0 means all.
    pub top_k: i32,
    /// The chance that XTC sampling happens at a token.
    pub xtc_probability: f32,
    /// The probability above which XTC drops all tokens but the least likely.
    pub xtc_threshold: f32,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temp: 0.0,
            top_p: 0.0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            top_k: 0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
        }
    }
}

impl SamplerOptions {
    /// Checks the options for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option, what was found and what is wanted.
    pub fn check(&self, vocab: i32) -> Result<()> {
        let bad = |name: &str, found: String, wanted: &str| {
            Err(Error::Usage(format!("{name}: found {found}, wanted {wanted}")))
        };
        if self.temp.is_nan() || self.temp < 0.0 {
            return bad("temp", self.temp.to_string(), "a number of at least 0");
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return bad("top_p", self.top_p.to_string(), "a number from 0 to 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p.to_string(), "a number from 0 to 1");
        }
        if !(1..=vocab).contains(&self.min_tokens_to_keep) {
            let wanted = format!("from 1 to the {vocab} tokens of the vocabulary");
            return bad("min_tokens_to_keep", self.min_tokens_to_keep.to_string(), &wanted);
        }
        if self.top_k < 0 || self.top_k >= vocab {
            let wanted = format!("0, or less than the {vocab} tokens of the vocabulary");
            return bad("top_k", self.top_k.to_string(), &wanted);
        }
        if !(0.0..=1.0).contains(&self.xtc_probability) {
            let found = self.xtc_probability.to_string();
            return bad("xtc_probability", found, "a number from 0 to 1");
        }
        if !(0.0..=0.5).contains(&self.xtc_threshold) {
            return bad("xtc_threshold", self.xtc_threshold.to_string(), "a number from 0 to 0.5");
        }
        Ok(())
    }

    /// Chooses a token for each row of `logprobs`: `(B, V)` to `(B,)`, uint32.
    ///
    /// `special` tokens are spared by XTC.
    pub fn sample(
        &self,
        logprobs: &Array,
        keys: &mut KeySequence,
        special: &[i32],
    ) -> Result<Array> {
        if self.temp == 0.0 {
            return Ok(ops::argmax_axis(logprobs, -1, false)?);
        }
        let mut logprobs = logprobs.clone();
        if self.top_p > 0.0 && self.top_p < 1.0 {
            logprobs = top_p(&logprobs, self.top_p)?;
        }
        if self.min_p > 0.0 {
            logprobs = min_p(&logprobs, self.min_p, self.min_tokens_to_keep)?;
        }
        if self.xtc_probability > 0.0 {
            logprobs = self.xtc(&logprobs, &keys.next_key()?, special)?;
        }
        if self.top_k > 0 {
            logprobs = top_k(&logprobs, self.top_k)?;
        }
        let scaled = ops::multiply(&logprobs, &constant(1.0 / self.temp, logprobs.dtype())?)?;
        Ok(random::categorical(&scaled, -1, Some(&keys.next_key()?))?)
    }

    fn xtc(&self, logprobs: &Array, key: &Array, special: &[i32]) -> Result<Array> {
        let probs = graft_kernels::softmax(logprobs)?;
        let threshold = constant(self.xtc_threshold, probs.dtype())?;
        let above = ops::greater(&probs, &threshold)?;
        let infinite = constant(f32::INFINITY, probs.dtype())?;
        let least = ops::min_axis(&ops::where_(&above, &probs, &infinite)?, -1, true)?;
        let mut mask = ops::greater(&probs, &least)?;
        if !special.is_empty() {
            let spared = Array::from_slice(special, &[1, special.len() as i32])?;
            mask = ops::put_along_axis(&mask, &spared, &Array::scalar(false)?, -1)?;
        }
        let draw = random::uniform(&[], &random::UniformOptions::default().key(key))?;
        let skip = ops::greater(&draw, &Array::scalar(self.xtc_probability)?)?;
        let hidden = hide(logprobs, &mask)?;
        Ok(ops::where_(&skip, logprobs, &hidden)?)
    }
}

/// `logprobs` with minus infinity where `mask` is true.
fn hide(logprobs: &Array, mask: &Array) -> Result<Array> {
    let lowest = constant(f32::NEG_INFINITY, logprobs.dtype())?;
    Ok(ops::where_(mask, &lowest, logprobs)?)
}

fn top_p(logprobs: &Array, top_p: f32) -> Result<Array> {
    let sorted = ops::sort_axis(logprobs, -1)?;
    let probs = ops::exp(&ops::astype(&sorted, Dtype::Float32)?)?;
    let from_end = ops::CumulativeOptions::default().reverse(true).inclusive(false);
    let above = ops::cumsum_axis(&probs, -1, &from_end)?;
    let first = |x: &Array| -> Result<Array> {
        let stop: Vec<i32> = [&x.shape()[..x.ndim() - 1], &[1]].concat();
        Ok(ops::slice(x, &vec![0; x.ndim()], &stop, &vec![1; x.ndim()])?)
    };
    let total = ops::add(&first(&above)?, &first(&probs)?)?;
    let bound = ops::multiply(&Array::scalar(top_p)?, &total)?;
    let dropped = ops::sum_axis(&ops::greater_equal(&above, &bound)?, -1, true)?;
    let threshold = ops::take_along_axis(&sorted, &dropped, -1)?;
    hide(logprobs, &ops::less(logprobs, &threshold)?)
}

fn min_p(logprobs: &Array, min_p: f32, keep: i32) -> Result<Array> {
    let top = ops::max_axis(logprobs, -1, true)?;
    let bound = ops::add(&top, &constant(min_p.ln(), logprobs.dtype())?)?;
    let mut remove = ops::less(logprobs, &bound)?;
    if keep > 1 {
        let order = ops::argpartition_axis(logprobs, -keep, -1)?;
        let count = order.dim(-1)?;
        let indices = ops::arange(f64::from(count - keep), f64::from(count), 1.0, Dtype::Int32)?;
        let kept = ops::take_axis(&order, &indices, -1)?;
        remove = ops::put_along_axis(&remove, &kept, &Array::scalar(false)?, -1)?;
    }
    hide(logprobs, &remove)
}

fn top_k(logprobs: &Array, top_k: i32) -> Result<Array> {
    let order = ops::argpartition_axis(&ops::negative(logprobs)?, top_k - 1, -1)?;
    let count = order.dim(-1)?;
    let indices = ops::arange(f64::from(top_k), f64::from(count), 1.0, Dtype::Int32)?;
    let rest = ops::take_axis(&order, &indices, -1)?;
    let lowest = constant(f32::NEG_INFINITY, logprobs.dtype())?;
    Ok(ops::put_along_axis(logprobs, &rest, &lowest, -1)?)
}
