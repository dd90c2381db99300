//! The tokenizer classes that transformers rebuilds instead of reading as they are written.
//!
//! Since version 5, transformers takes only the vocabulary, the merges, the post-processor and the
//! added tokens of `tokenizer.json` for some classes, and sets the rest itself. The same is done
//! here on the JSON, so that the ids are the same.

use serde_json::{Map, Value, json};

/// A tokenizer class of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// `TokenizersBackend`: `tokenizer.json` as it is written.
    Backend,
    /// `LlamaTokenizer`: byte-pair encoding with byte fallback over `▁`-joined words.
    Llama,
    /// `GPT2Tokenizer`: byte-level byte-pair encoding.
    Gpt2,
    /// `Qwen2Tokenizer`: as GPT-2's, with its own pattern and NFC.
    Qwen2,
}

const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Family {
    /// The class that `AutoTokenizer` picks.
    ///
    /// Source: `from_pretrained` of transformers' `models/auto/tokenization_auto.py`.
    pub(super) fn choose(
        declared: Option<&str>,
        model_type: Option<&str>,
        tokenizer: &Value,
    ) -> Self {
        let named = declared.map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let family = match named {
            Some("LlamaTokenizer") => Self::Llama,
            Some("GPT2Tokenizer") => Self::Gpt2,
            Some("Qwen2Tokenizer") => Self::Qwen2,
            _ => Self::Backend,
        };
        let family = match model_type {
            // Declared classes of these are known to be wrong.
            Some("qwen2") => Self::Qwen2,
            Some("qwen3") if named.is_none() => Self::Qwen2,
            Some("gpt2") if named.is_none() => Self::Gpt2,
            // Mistral's class is not this library's; its files are then read as they are.
            Some("mistral" | "mixtral" | "ministral") => Self::Backend,
            _ => family,
        };
        let byte_level = uses_byte_level(tokenizer);
        let bpe = tokenizer["model"]["type"] == "BPE";
        match family {
            // Llama 3 declares the class of Llama 2.
            Self::Llama if byte_level => Self::Backend,
            _ if !bpe => Self::Backend,
            family => family,
        }
    }

    /// The named tokens that the class sets when `tokenizer_config.json` does not.
    pub(super) fn default_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Backend => &[],
            Self::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Self::Gpt2 => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
            ],
            Self::Qwen2 => &[
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
        }
    }

    /// Rewrites the parts of `tokenizer.json` that the class sets itself.
    pub(super) fn rebuild(self, tokenizer: &mut Value, config: &Map<String, Value>) {
        if self == Self::Backend {
            return;
        }
        let prefix_space = config.get("add_prefix_space").and_then(Value::as_bool);
        let fallback = self == Self::Llama;
        tokenizer["model"] = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": if fallback { Value::Null } else { "".into() },
            "end_of_word_suffix": if fallback { Value::Null } else { "".into() },
            "fuse_unk": fallback,
            "byte_fallback": fallback,
            "ignore_merges": false,
            "vocab": tokenizer["model"]["vocab"].take(),
            "merges": tokenizer["model"]["merges"].take(),
        });
        let (normalizer, pre_tokenizer, decoder) = match self {
            Self::Llama => llama(prefix_space.unwrap_or(true), config),
            Self::Gpt2 => (
                Value::Null,
                byte_level(prefix_space.unwrap_or(false), true),
                byte_level(true, true),
            ),
            Self::Qwen2 | Self::Backend => {
                let split = json!({
                    "type": "Split", "pattern": {"Regex": QWEN2_PATTERN},
                    "behavior": "Isolated", "invert": false
                });
                let words = byte_level(prefix_space.unwrap_or(false), false);
                let both = json!({"type": "Sequence", "pretokenizers": [split, words]});
                (json!({"type": "NFC"}), both, byte_level(true, true))
            }
        };
        tokenizer["normalizer"] = normalizer;
        tokenizer["pre_tokenizer"] = pre_tokenizer;
        tokenizer["decoder"] = decoder;
    }
}

fn llama(prefix_space: bool, config: &Map<String, Value>) -> (Value, Value, Value) {
    let legacy = config.get("legacy").and_then(Value::as_bool).unwrap_or(false);
    let prepend = match (prefix_space, legacy) {
        (false, _) => "never",
        (true, true) => "always",
        (true, false) => "first",
    };
    let pre_tokenizer = json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend, "split": false
    });
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    (Value::Null, pre_tokenizer, json!({"type": "Sequence", "decoders": decoders}))
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true,
        "use_regex": use_regex
    })
}

fn uses_byte_level(tokenizer: &Value) -> bool {
    fn contains(value: &Value) -> bool {
        match value {
            Value::String(text) => text == "ByteLevel",
            Value::Array(items) => items.iter().any(contains),
            Value::Object(entries) => entries.values().any(contains),
            _ => false,
        }
    }
    ["pre_tokenizer", "decoder", "normalizer", "post_processor"]
        .iter()
        .any(|part| contains(&tokenizer[*part]))
}
