//! Qwen2 and Qwen2.5.

use serde::Deserialize;

use super::decoder::DecoderConfig;
use crate::nn::RopeScaling;

/// The keys of config.json.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    rms_norm_eps: f32,
    vocab_size: i32,
    num_key_value_heads: i32,
    #[serde(default = "max_position_embeddings")]
    max_position_embeddings: f32,
    rope_theta: Option<f32>,
    #[serde(default)]
    rope_traditional: bool,
    rope_scaling: Option<RopeScaling>,
    rope_parameters: Option<RopeScaling>,
    #[serde(default = "super::yes")]
    tie_word_embeddings: bool,
}

fn max_position_embeddings() -> f32 {
    32768.0
}

impl From<Config> for DecoderConfig {
    fn from(config: Config) -> Self {
        let nested = config.rope_parameters;
        Self {
            hidden_size: config.hidden_size,
            num_layers: config.num_hidden_layers,
            intermediate_size: config.intermediate_size,
            num_heads: config.num_attention_heads,
            num_kv_heads: config.num_key_value_heads,
            head_dim: config.hidden_size / config.num_attention_heads,
            vocab_size: config.vocab_size,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config
                .rope_theta
                .or(nested.as_ref().and_then(|n| n.rope_theta))
                .unwrap_or(1_000_000.0),
            rope_traditional: config.rope_traditional,
            rope_scaling: config.rope_scaling.or(nested),
            max_position_embeddings: Some(config.max_position_embeddings),
            qkv_bias: true,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            tie_word_embeddings: config.tie_word_embeddings,
            windows: vec![None; config.num_hidden_layers],
        }
    }
}
