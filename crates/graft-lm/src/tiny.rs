//! A tiny model for tests, made on the spot.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use mlx_graft::{Array, ops, random};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::adapters::{prepare, save};
use crate::args::{FineTuneType, LoraParameters};
use crate::data::{Dataset, Row};
use crate::lora::KeySequence;
use crate::models::Model;

/// The size of the model's vocabulary, which the tokenizer has a part of.
pub(crate) const VOCAB: i32 = 40;

const HIDDEN: i32 = 32;
const INNER: i32 = 48;

/// Writes a tokenizer of whole words and digits, with a chat template.
pub(crate) fn write_tokenizer(folder: &Path, template: &str) {
    let words = ["?", "end", "a", "b", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let vocab: serde_json::Map<String, Value> =
        (0..).zip(words).map(|(id, word)| (word.to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": vocab}
    });
    let config = json!({"eos_token": "end", "chat_template": template});
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// Writes a Llama of two blocks with random weights; `changes` go into its config.json.
pub(crate) fn write_model(folder: &Path, changes: Value) {
    let mut config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5, "vocab_size": VOCAB, "max_position_embeddings": 128,
        "tie_word_embeddings": false
    });
    let Value::Object(changes) = changes else { panic!("{changes} is no object") };
    config.as_object_mut().unwrap().extend(changes);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut weights: Vec<(String, Array)> = Vec::new();
    let mut add = |name: &str, shape: &[i32]| {
        let scale = Array::scalar((shape[shape.len() - 1] as f32).powf(-0.5)).unwrap();
        let key = random::key(weights.len() as u64).unwrap();
        let drawn = random::normal(shape, &random::LocScaleOptions::default().key(&key)).unwrap();
        let value = match shape {
            [_] => ops::ones(shape, drawn.dtype()),
            _ => ops::multiply(&drawn, &scale),
        };
        weights.push((format!("{name}.weight"), value.unwrap()));
    };
    add("model.embed_tokens", &[VOCAB, HIDDEN]);
    for layer in 0..2 {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        for (name, outputs) in [("q", HIDDEN), ("k", HIDDEN / 2), ("v", HIDDEN / 2), ("o", HIDDEN)]
        {
            add(&at(&format!("self_attn.{name}_proj")), &[outputs, HIDDEN]);
        }
        add(&at("mlp.gate_proj"), &[INNER, HIDDEN]);
        add(&at("mlp.up_proj"), &[INNER, HIDDEN]);
        add(&at("mlp.down_proj"), &[HIDDEN, INNER]);
        add(&at("input_layernorm"), &[HIDDEN]);
        add(&at("post_attention_layernorm"), &[HIDDEN]);
    }
    add("model.norm", &[HIDDEN]);
    add("lm_head", &[VOCAB, HIDDEN]);
    save(weights, &[], &folder.join("model.safetensors")).unwrap();
}

/// The folder of a model with a tokenizer.
pub(crate) fn folder(template: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), json!({}));
    write_tokenizer(folder.path(), template);
    folder
}

/// The model, with `changes` in its config.json.
pub(crate) fn model_with(changes: Value) -> Rc<Model> {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), changes);
    Rc::new(Model::load(folder.path()).unwrap())
}

/// The model, with adapters in both blocks.
pub(crate) fn adapted(dropout: f64) -> Rc<Model> {
    let model = model_with(json!({}));
    adapt(&model, dropout);
    model
}

/// Adds adapters in both blocks to a model.
pub(crate) fn adapt(model: &Model, dropout: f64) {
    let parameters = LoraParameters { rank: 4, dropout, ..LoraParameters::default() };
    let mut keys = KeySequence::new(3).unwrap();
    prepare(model, FineTuneType::Lora, &parameters, 2, &mut keys).unwrap();
}

/// Rows of some twenty tokens.
pub(crate) fn rows(count: i32) -> Dataset {
    let row = |i: i32| {
        let tokens = (0..18 + i % 5).map(|j| 2 + (7 * i + 5 * j) % (VOCAB - 2)).collect();
        Row { tokens, offset: 0, sort_key: 1 }
    };
    Dataset::new((0..count).map(row).collect(), "rows")
}
