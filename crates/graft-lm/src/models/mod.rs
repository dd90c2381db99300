//! Models: a registry of architectures and the loading of Hugging Face folders.

mod cache;
mod decoder;
mod llama;
mod qwen2;
mod qwen3;
mod weights;

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use mlx_graft::stream::current_device;
use mlx_graft::{DeviceType, memory, transforms};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use cache::{Cache, KvCache, KvQuantization, QuantizedKvCache, RotatingKvCache};
pub use decoder::{Decoder, DecoderConfig, Head};
pub use weights::Weights;
pub(crate) use weights::{FLOATING, INDEX, files, read, read_all, wrong_dtype, wrong_shape};

use crate::adapter_config::AdapterConfig;
use crate::nn::Module;
use crate::{Error, Result};

/// The most blocks of a model: ten times what any has, and little memory to set up.
const MOST_LAYERS: u64 = 10_000;

/// Reads the configuration of an architecture.
type Configure = fn(Value) -> Result<DecoderConfig>;

/// The architectures known, by the `model_type` of config.json, with what configures them.
const REGISTRY: &[(&str, Configure)] = &[
    ("llama", |value| parse::<llama::Config>(value)?.try_into()),
    ("mistral", |value| parse::<llama::Config>(value)?.try_into()),
    ("qwen2", |value| Ok(parse::<qwen2::Config>(value)?.into())),
    ("qwen3", |value| parse::<qwen3::Config>(value)?.try_into()),
];

fn parse<C: DeserializeOwned>(value: Value) -> Result<C> {
    serde_json::from_value(value).map_err(|e| Error::Usage(format!("config.json: {e}")))
}

/// The value of a key that is true where config.json lacks it.
fn yes() -> bool {
    true
}

/// A model with the configuration that it was loaded from.
#[derive(Debug)]
pub struct Model {
    /// The layers.
    pub decoder: Decoder,
    /// config.json, as it stands in the folder.
    pub config: Value,
    /// How the adapters were made, if the model has some.
    pub adapters: RefCell<Option<AdapterConfig>>,
}

impl Model {
    /// Loads a Hugging Face folder: config.json and `model*.safetensors`, dense or quantized.
    ///
    /// From then on the process keeps freed memory ([`memory::keep_freed`]). On a CPU the weights lie
    /// in huge pages, where the system has them ([`memory::reserve_huge_pages`]).
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Invalid`], naming the file and the tensor, with the shape
    /// found and the shape wanted; [`Error::Unsupported`] for an unknown architecture.
    pub fn load(folder: &Path) -> Result<Self> {
        // Buffers come and go with every step and every token.
        memory::keep_freed();
        let config = read_config(folder)?;
        let path = folder.join("config.json");
        let at_config = |e: Error| match e {
            Error::Usage(message) => {
                Error::invalid(&path, message.strip_prefix("config.json: ").unwrap_or(&message))
            }
            other => other,
        };
        let decoder_config = decoder_config(&config).map_err(at_config)?;
        let mut weights = Weights::open(folder)?;
        let tied = decoder_config.tie_word_embeddings;
        weights.drop_if(|name| {
            name.contains("self_attn.rotary_emb.inv_freq") || (tied && name.starts_with("lm_head."))
        });
        let decoder = Decoder::load(decoder_config, &mut weights).map_err(at_config)?;
        weights.finish()?;
        let values: Vec<_> = decoder.params().into_iter().map(|(_, param)| param.get()).collect();
        if current_device()?.kind == DeviceType::Cpu {
            /// What the allocator adds to each array at most.
            const MORE: usize = 64;
            memory::reserve_huge_pages(values.iter().map(|value| value.nbytes() + MORE).sum());
        }
        transforms::eval(&values)?;
        Ok(Self { decoder, config, adapters: RefCell::new(None) })
    }

    /// The `model_type` of config.json.
    pub fn model_type(&self) -> &str {
        self.config["model_type"].as_str().unwrap_or_default()
    }
}

fn read_config(folder: &Path) -> Result<Value> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Err(Error::not_found(
            path,
            "a model folder needs a config.json beside its weights and its tokenizer",
        ));
    }
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(|e| Error::Invalid {
        path,
        line: Some(e.line()),
        message: format!("broken JSON: {e}"),
    })
}

fn decoder_config(config: &Value) -> Result<DecoderConfig> {
    let known = || REGISTRY.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let Some(model_type) = config["model_type"].as_str() else {
        return Err(Error::Usage(format!("no \"model_type\"; known: {}", known())));
    };
    let Some((_, configure)) = REGISTRY.iter().find(|(name, _)| *name == model_type) else {
        return Err(Error::Unsupported(format!(
            "config.json: model_type {model_type:?} is not supported; known: {}",
            known()
        )));
    };
    let method = config["quantization_config"]["quant_method"].as_str();
    if let (None, Some(method)) = (config.get("quantization"), method)
        && !matches!(method, "mxfp4" | "mxfp8")
    {
        return Err(Error::Unsupported(format!(
            "config.json: weights quantized with {method:?} are not supported; quantize the \
             original model with `mlx_lm.convert -q`"
        )));
    }
    if let Some(heads) = config["num_attention_heads"].as_i64().filter(|&heads| heads < 1) {
        return Err(Error::Usage(format!("num_attention_heads: found {heads}, wanted at least 1")));
    }
    // Before there is memory for as many.
    let layers = config["num_hidden_layers"].as_u64();
    if let Some(layers) = layers.filter(|layers| !(1..=MOST_LAYERS).contains(layers)) {
        return Err(Error::Usage(format!(
            "num_hidden_layers: found {layers}, wanted from 1 to {MOST_LAYERS}"
        )));
    }
    let decoder = configure(config.clone())?;
    if decoder.num_heads % decoder.num_kv_heads.max(1) != 0 || decoder.num_kv_heads < 1 {
        return Err(Error::Usage(format!(
            "{} attention heads cannot share {} key and value heads",
            decoder.num_heads, decoder.num_kv_heads
        )));
    }
    Ok(decoder)
}
