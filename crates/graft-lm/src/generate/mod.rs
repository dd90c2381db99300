//! Generation of text, as mlx-lm's `generate_step` and `stream_generate`.

mod sampler;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mlx_graft::{Array, Dtype, ops, transforms};

pub(crate) use sampler::Accepted;
pub use sampler::SamplerOptions;

use crate::lora::KeySequence;
use crate::models::{Cache, KvQuantization, Model};
use crate::nn::Context;
use crate::tokenizer::{StreamingDetokenizer, Tokenizer};
use crate::{Error, Result};

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// It has as many tokens as asked for.
    Length,
}

impl FinishReason {
    /// The name in mlx-lm: `stop` or `length`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A token with the text that became whole by it: mlx-lm's `GenerationResponse`.
#[derive(Debug, Clone)]
pub struct Generated {
    /// New text, which may be empty until a character is whole.
    pub text: String,
    /// The token.
    pub token: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt per second.
    pub prompt_tps: f64,
    /// Tokens generated so far.
    pub generation_tokens: u64,
    /// Tokens generated per second.
    pub generation_tps: f64,
    /// Set on the last token.
    pub finish_reason: Option<FinishReason>,
}

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// The most tokens; `None` is no limit.
    pub max_tokens: Option<u64>,
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// Tokens of the prompt that are processed at a time.
    pub prefill_step_size: usize,
    /// The most tokens whose keys and values are held; `None` is no limit.
    pub max_kv_size: Option<i32>,
    /// How keys and values are quantized.
    pub kv_quantization: Option<KvQuantization>,
    /// Tokens that end the text.
    pub eos_token_ids: BTreeSet<u32>,
    /// Whether the text goes on behind them.
    pub ignore_eos: bool,
    /// Tokens that XTC sampling spares besides those that end the text.
    pub newline_tokens: Vec<u32>,
}

/// Generates the tokens that follow a prompt, one per call of `next`.
pub struct Generation {
    model: Rc<Model>,
    options: GenerateOptions,
    caches: Vec<Cache>,
    keys: KeySequence,
    special: Vec<i32>,
    detokenizer: StreamingDetokenizer<Arc<Tokenizer>>,
    /// The token that is being computed.
    current: Option<Array>,
    prompt_tokens: usize,
    prompt_tps: f64,
    generated: u64,
    started: Instant,
}

impl Generation {
    /// Processes the prompt and starts on the first token. `interrupted` is asked between parts of
    /// the prompt whether to stop.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty prompt, a token outside the vocabulary or options out of range;
    /// those of [`Cache::check_quantization`]; [`Error::Interrupted`] after a stop was asked for.
    pub fn new(
        model: Rc<Model>,
        tokenizer: Arc<Tokenizer>,
        prompt: &[u32],
        options: GenerateOptions,
        keys: KeySequence,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Self> {
        let vocab = model.decoder.vocab_size();
        options.sampler.check(vocab)?;
        if prompt.is_empty() {
            return Err(Error::Usage("the prompt has no tokens; give some text".into()));
        }
        if let Some(token) = prompt.iter().find(|&&token| i64::from(token) >= i64::from(vocab)) {
            return Err(Error::Usage(format!(
                "token {token} of the prompt is outside the model's vocabulary of {vocab}; is the \
                 tokenizer of this model?"
            )));
        }
        let special = options.eos_token_ids.iter().chain(&options.newline_tokens);
        let special = special.map(|&id| id as i32).collect();
        let caches = model.decoder.make_cache(options.max_kv_size);
        if let Some(quantization) = options.kv_quantization {
            let head_dim = model.decoder.head_dim();
            caches.iter().try_for_each(|cache| cache.check_quantization(quantization, head_dim))?;
        }
        let mut this = Self {
            model,
            options,
            caches,
            keys,
            special,
            detokenizer: StreamingDetokenizer::new(tokenizer),
            current: None,
            prompt_tokens: prompt.len(),
            prompt_tps: 0.0,
            generated: 0,
            started: Instant::now(),
        };
        this.prefill(prompt, interrupted)?;
        Ok(this)
    }

    fn prefill(&mut self, prompt: &[u32], interrupted: &mut dyn FnMut() -> bool) -> Result<()> {
        let prompt: Vec<i32> = prompt.iter().map(|&token| token as i32).collect();
        let (last, rest) = prompt.split_last().expect("the prompt was found not to be empty");
        for part in rest.chunks(self.options.prefill_step_size.max(1)) {
            let tokens = Array::from_slice(part, &[1, part.len() as i32])?;
            self.model.decoder.forward(&tokens, Some(&mut self.caches), &Context::eval())?;
            self.quantize_caches()?;
            let state: Vec<Array> = self.caches.iter().flat_map(Cache::state).collect();
            transforms::eval(&state)?;
            if interrupted() {
                return Err(Error::Interrupted("stopped while the prompt was read".into()));
            }
        }
        let first = self.sample_after(&Array::from_slice(&[*last], &[1])?)?;
        transforms::eval(&[&first])?;
        let seconds = self.started.elapsed().as_secs_f64();
        self.prompt_tps = self.prompt_tokens as f64 / seconds;
        self.started = Instant::now();
        self.current = Some(first);
        Ok(())
    }

    /// The token after `token`, of shape `(1,)`, not evaluated.
    fn sample_after(&mut self, token: &Array) -> Result<Array> {
        let tokens = ops::reshape(&ops::astype(token, Dtype::Int32)?, &[1, 1])?;
        let ctx = Context::eval();
        let logits = self.model.decoder.forward(&tokens, Some(&mut self.caches), &ctx)?;
        self.quantize_caches()?;
        let logits = ops::squeeze_axis(&logits, 1)?; // (1, V)
        let logprobs = ops::subtract(&logits, &graft_kernels::logsumexp(&logits, true)?)?;
        self.options.sampler.sample(&logprobs, &mut self.keys, &self.special)
    }

    fn quantize_caches(&mut self) -> Result<()> {
        let Some(quantization) = self.options.kv_quantization else { return Ok(()) };
        for cache in self.caches.iter_mut().filter(|cache| cache.offset() >= quantization.start) {
            cache.quantize(quantization)?;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Generated>> {
        let Some(current) = self.current.take() else { return Ok(None) };
        if self.options.max_tokens == Some(0) {
            return Ok(None);
        }
        let last = self.options.max_tokens.is_some_and(|max| self.generated + 1 >= max);
        if !last {
            // The next token is computed while this one is decoded and shown.
            let next = self.sample_after(&current)?;
            transforms::async_eval(&[&next])?;
            self.current = Some(next);
        }
        let token: u32 = current.item()?;
        self.generated += 1;
        let ends = !self.options.ignore_eos && self.options.eos_token_ids.contains(&token);
        let finish_reason = if ends {
            Some(FinishReason::Stop)
        } else if last {
            Some(FinishReason::Length)
        } else {
            None
        };
        let mut text = match finish_reason {
            Some(FinishReason::Stop) => String::new(),
            _ => self.detokenizer.add(token)?,
        };
        if finish_reason.is_some() {
            self.current = None;
            text.push_str(&self.detokenizer.finish()?);
        }
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(Some(Generated {
            text,
            token,
            prompt_tokens: self.prompt_tokens,
            prompt_tps: self.prompt_tps,
            generation_tokens: self.generated,
            generation_tps: self.generated as f64 / seconds,
            finish_reason,
        }))
    }
}

impl Iterator for Generation {
    type Item = Result<Generated>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
