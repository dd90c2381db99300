//! Qwen3.

use serde::Deserialize;

use super::decoder::DecoderConfig;
use crate::nn::RopeScaling;
use crate::{Error, Result};

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
    max_position_embeddings: f32,
    head_dim: i32,
    tie_word_embeddings: bool,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeScaling>,
    rope_parameters: Option<RopeScaling>,
}

impl TryFrom<Config> for DecoderConfig {
    type Error = Error;

    fn try_from(config: Config) -> Result<Self> {
        let nested = config.rope_parameters;
        let theta = config.rope_theta.or(nested.as_ref().and_then(|n| n.rope_theta));
        let rope_theta =
            theta.ok_or_else(|| Error::Usage("config.json: rope_theta is missing".into()))?;
        Ok(Self {
            hidden_size: config.hidden_size,
            num_layers: config.num_hidden_layers,
            intermediate_size: config.intermediate_size,
            num_heads: config.num_attention_heads,
            num_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta,
            rope_traditional: false,
            rope_scaling: config.rope_scaling.or(nested),
            max_position_embeddings: Some(config.max_position_embeddings),
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: true,
            tie_word_embeddings: config.tie_word_embeddings,
            windows: vec![None; config.num_hidden_layers],
        })
    }
}
