//! Choosing the next token, as mlx-lm's `make_sampler`.

use mlx_graft::{Array, Dtype, ops, random};

use crate::lora::KeySequence;
use crate::nn::constant;
use crate::{Error, Result};

/// What an option of sampling may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    /// It in words.
    pub words: &'static str,
    /// The largest; the least is 0.
    most: f64,
}

impl Accepted {
    /// Of a temperature.
    pub const TEMP: Self = Self { words: "a number of at least 0", most: f64::INFINITY };
    /// Of a probability or a share.
    pub const SHARE: Self = Self { words: "a number from 0 to 1", most: 1.0 };
    /// Of the threshold of XTC.
    pub const XTC_THRESHOLD: Self = Self { words: "a number from 0 to 0.5", most: 0.5 };

    /// Whether it may be this.
    pub fn has(self, number: f64) -> bool {
        (0.0..=self.most).contains(&number)
    }
}

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
        for (name, number, accepted) in [
            ("temp", self.temp, Accepted::TEMP),
            ("top_p", self.top_p, Accepted::SHARE),
            ("min_p", self.min_p, Accepted::SHARE),
            ("xtc_probability", self.xtc_probability, Accepted::SHARE),
            ("xtc_threshold", self.xtc_threshold, Accepted::XTC_THRESHOLD),
        ] {
            if !accepted.has(f64::from(number)) {
                return bad(name, number.to_string(), accepted.words);
            }
        }
        if !(1..=vocab).contains(&self.min_tokens_to_keep) {
            let wanted = format!("from 1 to the {vocab} tokens of the vocabulary");
            return bad("min_tokens_to_keep", self.min_tokens_to_keep.to_string(), &wanted);
        }
        if self.top_k < 0 || self.top_k >= vocab {
            let wanted = format!("0, or less than the {vocab} tokens of the vocabulary");
            return bad("top_k", self.top_k.to_string(), &wanted);
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
        // A tokenizer may have tokens that the model has not, such as one that ends a text.
        let known = 0..logprobs.dim(-1)?;
        let special: Vec<i32> = special.iter().copied().filter(|id| known.contains(id)).collect();
        if !special.is_empty() {
            let spared = Array::from_slice(&special, &[1, special.len() as i32])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_named() {
        let message = |options: SamplerOptions| options.check(10).unwrap_err().to_string();
        let given = SamplerOptions::default();
        given.check(10).unwrap();
        SamplerOptions { temp: 1e9, top_p: 1.0, xtc_threshold: 0.5, ..given }.check(10).unwrap();
        for (options, wanted) in [
            (SamplerOptions { temp: -0.5, ..given }, "temp: found -0.5, wanted a number of at"),
            (SamplerOptions { temp: f32::NAN, ..given }, "temp: found NaN, wanted a number"),
            (
                SamplerOptions { top_p: 1.5, ..given },
                "top_p: found 1.5, wanted a number from 0 to 1",
            ),
            (SamplerOptions { min_p: -1.0, ..given }, "min_p: found -1, wanted a number from 0 to"),
            (SamplerOptions { xtc_probability: 2.0, ..given }, "xtc_probability: found 2, wanted"),
            (SamplerOptions { xtc_threshold: 0.6, ..given }, "xtc_threshold: found 0.6, wanted"),
            (
                SamplerOptions { top_k: 10, ..given },
                "top_k: found 10, wanted 0, or less than the 10",
            ),
        ] {
            let message = message(options);
            assert!(message.starts_with(wanted), "{message}");
        }
    }

    #[test]
    fn xtc_spares_the_special_tokens_that_the_model_has() -> Result<()> {
        let probs = Array::from_slice(&[0.4_f32, 0.3, 0.2, 0.1], &[1, 4])?;
        let options = SamplerOptions { xtc_probability: 1.0, ..SamplerOptions::default() };
        let kept = |special: &[i32]| -> Result<Vec<bool>> {
            let key = random::key(0)?;
            let logprobs = options.xtc(&ops::log(&probs)?, &key, special)?;
            Ok(logprobs.to_vec::<f32>()?.into_iter().map(f32::is_finite).collect())
        };
        // 0.1 is the threshold, so that 0.2 is the least likely one above.
        assert_eq!(kept(&[])?, [false, false, true, true]);
        assert_eq!(kept(&[0])?, [true, false, true, true]);
        // Of a larger vocabulary: one beyond the end, and one that is negative as an i32.
        assert_eq!(kept(&[4, 0, 7, -1])?, [true, false, true, true]);
        assert_eq!(kept(&[4])?, [false, false, true, true]);
        Ok(())
    }
}
