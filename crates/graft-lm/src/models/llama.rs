//! Llama, and with it Mistral and `SmolLM`.

use serde::Deserialize;

use super::decoder::DecoderConfig;
use crate::nn::RopeScaling;
use crate::{Error, Result};

/// The keys of config.json.
#[derive(Debug, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // the keys are Hugging Face's
pub(super) struct Config {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    rms_norm_eps: f32,
    vocab_size: i32,
    head_dim: Option<i32>,
    max_position_embeddings: Option<f32>,
    num_key_value_heads: Option<i32>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    rope_theta: Option<f32>,
    #[serde(default)]
    rope_traditional: bool,
    rope_scaling: Option<RopeScaling>,
    rope_parameters: Option<RopeScaling>,
    #[serde(default = "super::yes")]
    tie_word_embeddings: bool,
    layer_types: Option<Vec<String>>,
    sliding_window: Option<i32>,
}

impl TryFrom<Config> for DecoderConfig {
    type Error = Error;

    fn try_from(config: Config) -> Result<Self> {
        let windows = windows(&config)?;
        let nested = config.rope_parameters;
        Ok(Self {
            hidden_size: config.hidden_size,
            num_layers: config.num_hidden_layers,
            intermediate_size: config.intermediate_size,
            num_heads: config.num_attention_heads,
            num_kv_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
            head_dim: config.head_dim.unwrap_or(config.hidden_size / config.num_attention_heads),
            vocab_size: config.vocab_size,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config
                .rope_theta
                .or(nested.as_ref().and_then(|n| n.rope_theta))
                .unwrap_or(10_000.0),
            rope_traditional: config.rope_traditional,
            rope_scaling: config.rope_scaling.or(nested),
            max_position_embeddings: config.max_position_embeddings,
            qkv_bias: config.attention_bias,
            output_bias: config.attention_bias,
            mlp_bias: config.mlp_bias,
            qk_norm: false,
            tie_word_embeddings: config.tie_word_embeddings,
            windows,
        })
    }
}

/// What each block sees. Without `layer_types` a `sliding_window` has no effect, as in mlx-lm.
fn windows(config: &Config) -> Result<Vec<Option<i32>>> {
    let Some(types) = &config.layer_types else {
        return Ok(vec![None; config.num_hidden_layers]);
    };
    if types.len() != config.num_hidden_layers {
        return Err(Error::Usage(format!(
            "config.json: layer_types has {} entries for {} layers",
            types.len(),
            config.num_hidden_layers
        )));
    }
    types
        .iter()
        .map(|kind| match (kind.as_str(), config.sliding_window) {
            ("full_attention", _) => Ok(None),
            ("sliding_attention", Some(window)) => Ok(Some(window)),
            ("sliding_attention", None) => Err(Error::Usage(
                "config.json: layer_types has sliding_attention, and sliding_window is missing"
                    .into(),
            )),
            (other, _) => {
                Err(Error::Unsupported(format!("config.json: unknown layer type {other:?}")))
            }
        })
        .collect()
}
