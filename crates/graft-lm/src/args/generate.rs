//! The options of generation.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::keys::{Keys, Origins};
use crate::generate::Accepted;
use crate::models::KvQuantization;
use crate::{Error, Result};

/// The options of generation: the flags of `mlx_lm.generate`.
///
/// Source: `setup_arg_parser` of mlx-lm's `generate.py`.
#[derive(Debug, Clone)]
pub struct GenerateArgs {
    /// A model folder, or the name of a Hugging Face repository in the local cache.
    pub model: String,
    /// A folder of adapters.
    pub adapter_path: Option<PathBuf>,
    /// More tokens that end the text, as tokens or as ids.
    pub extra_eos_token: Vec<String>,
    /// The system message of the chat.
    pub system_prompt: Option<String>,
    /// The prompt, with `\n` and `\t` written out replaced; `-` stands for standard input.
    pub prompt: String,
    /// The beginning of the answer, which the model goes on from.
    pub prefill_response: Option<String>,
    /// The most tokens to generate, -1 for no limit.
    pub max_tokens: i64,
    /// The temperature; 0 takes the likeliest token.
    pub temp: f64,
    /// Sample from the likeliest tokens that hold this much probability; 0 and 1 mean all.
    pub top_p: f64,
    /// Drop tokens less likely than this share of the likeliest.
    pub min_p: f64,
    /// Sample from this many likeliest tokens; 0 means all.
    pub top_k: usize,
    /// The chance that XTC sampling happens at a token.
    pub xtc_probability: f64,
    /// The probability above which XTC drops a token, at most 0.5.
    pub xtc_threshold: f64,
    /// How many tokens `min_p` leaves at least.
    pub min_tokens_to_keep: usize,
    /// The seed of sampling.
    pub seed: Option<u64>,
    /// Whether the prompt goes to the model as it is, without the chat template.
    pub ignore_chat_template: bool,
    /// Further variables of the chat template.
    pub chat_template_config: Map<String, Value>,
    /// Whether speeds and memory are printed beside the text.
    pub verbose: bool,
    /// The most tokens whose keys and values are held.
    pub max_kv_size: Option<i32>,
    /// How keys and values are quantized.
    pub kv_quantization: Option<KvQuantization>,
    /// How many tokens of the prompt are processed at a time.
    pub prefill_step_size: usize,
}

impl GenerateArgs {
    pub(crate) fn read(values: Map<String, Value>, origins: &Origins) -> Result<Self> {
        let mut keys = Keys::new(values, "", origins);
        refuse_unsupported(&mut keys)?;
        // Upstream parses the flag and, as transformers dropped default templates, ignores it.
        keys.boolean("use_default_chat_template", false)?;
        let number = |keys: &mut Keys, key, default, accepted: Accepted| {
            keys.number(key, default, accepted.words, |number| accepted.has(number))
        };
        let prompt = keys.text("prompt")?.unwrap_or_else(|| "hello".to_owned());
        let args = Self {
            model: keys
                .text("model")?
                .unwrap_or_else(|| "mlx-community/Llama-3.2-3B-Instruct-4bit".to_owned()),
            adapter_path: keys.text("adapter_path")?.map(PathBuf::from),
            extra_eos_token: keys.texts("extra_eos_token")?.unwrap_or_default(),
            system_prompt: keys.text("system_prompt")?,
            prompt: prompt.replace("\\n", "\n").replace("\\t", "\t"),
            prefill_response: keys.text("prefill_response")?,
            max_tokens: keys.integer("max_tokens", 100, -1..=i64::MAX)?,
            temp: number(&mut keys, "temp", 0.0, Accepted::TEMP)?,
            top_p: number(&mut keys, "top_p", 1.0, Accepted::SHARE)?,
            min_p: number(&mut keys, "min_p", 0.0, Accepted::SHARE)?,
            top_k: keys.integer("top_k", 0, 0..=i64::MAX)?,
            xtc_probability: number(&mut keys, "xtc_probability", 0.0, Accepted::SHARE)?,
            xtc_threshold: number(&mut keys, "xtc_threshold", 0.1, Accepted::XTC_THRESHOLD)?,
            min_tokens_to_keep: keys.integer("min_tokens_to_keep", 1, 1..=i64::MAX)?,
            seed: keys.take("seed").and_then(|seed| seed.as_u64()),
            ignore_chat_template: keys.boolean("ignore_chat_template", false)?,
            chat_template_config: chat_template_config(&mut keys)?,
            verbose: keys
                .text("verbose")?
                .is_none_or(|text| !matches!(text.to_lowercase().as_str(), "false" | "f")),
            max_kv_size: match keys.integer("max_kv_size", 0, 1..=i64::from(i32::MAX))? {
                0 => None,
                size => Some(size),
            },
            kv_quantization: kv_quantization(&mut keys)?,
            prefill_step_size: keys.integer("prefill_step_size", 2048, 1..=i64::MAX)?,
        };
        keys.finish()?;
        Ok(args)
    }
}

fn chat_template_config(keys: &mut Keys) -> Result<Map<String, Value>> {
    let Some(text) = keys.text("chat_template_config")? else { return Ok(Map::new()) };
    serde_json::from_str(&text).map_err(|error| {
        let message = format!(
            "not a JSON object: {error}; write for example '{{\"enable_thinking\": false}}'"
        );
        keys.error("chat_template_config", &message)
    })
}

fn kv_quantization(keys: &mut Keys) -> Result<Option<KvQuantization>> {
    let any = i64::from(i32::MIN)..=i64::from(i32::MAX);
    let bits = keys.integer("kv_bits", 0, any.clone())?;
    let group_size = keys.integer("kv_group_size", 64, any)?;
    let start = keys.integer("quantized_kv_start", 5000, 0..=i64::from(i32::MAX))?;
    if bits == 0 { Ok(None) } else { KvQuantization::new(bits, group_size, start).map(Some) }
}

fn refuse_unsupported(keys: &mut Keys) -> Result<()> {
    let refusals = [
        ("trust_remote_code", "models are built in, and no Python of a model repository is run"),
        ("image", "models that see images are not built here; text models are"),
        ("prompt_cache_file", "saved prompt caches are not built here; give the whole prompt"),
        ("quantize_activations", "quantized activations are not built here; quantized weights are"),
        ("draft_model", "speculative decoding is not built here"),
        ("num_draft_tokens", "speculative decoding is not built here"),
    ];
    for (key, reason) in refusals {
        if keys.take(key).is_some() {
            return Err(Error::Unsupported(format!("--{}: {reason}", key.replace('_', "-"))));
        }
    }
    Ok(())
}
