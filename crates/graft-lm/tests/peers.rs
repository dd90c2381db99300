//! Comparison with transformers and mlx-lm; `golden/make_golden.py` says how the expectations were
//! made.

use std::fs;
use std::path::{Path, PathBuf};

use graft_lm::chat_template::{ChatOptions, ChatTemplate};
use graft_lm::data::{BatchRng, Batches, Dataset, DatasetOptions};
use graft_lm::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("golden")
}

fn expected() -> Value {
    let text = fs::read_to_string(golden().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The folder `name`, with the `tokenizer.json` that several folders share.
fn folder(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let shared = if ["spm", "llama", "mistral"].contains(&name) { "spm" } else { "byte_level" };
    for source in [golden().join(name), golden().join(shared)] {
        for entry in fs::read_dir(source).unwrap() {
            let entry = entry.unwrap().path();
            let target = copy.path().join(entry.file_name().unwrap());
            if !target.exists() {
                fs::copy(entry, target).unwrap();
            }
        }
    }
    copy
}

fn objects(value: &Value) -> Vec<Map<String, Value>> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    for (name, case) in expected()["encodings"].as_object().unwrap() {
        let folder = folder(name);
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        for row in case["rows"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(json!(ids), row["ids"], "{name}: {text:?}");
            let plain = tokenizer.encode(text, false).unwrap();
            assert_eq!(json!(plain), row["plain_ids"], "{name}: {text:?}");
            assert_eq!(json!(tokenizer.decode(&ids, false).unwrap()), row["decoded"], "{name}");
            assert_eq!(json!(tokenizer.decode(&ids, true).unwrap()), row["decoded_skip"]);
        }
        assert_eq!(json!(tokenizer.bos_token_id()), case["bos_token_id"], "{name}");
        assert_eq!(json!(tokenizer.eos_token_id()), case["eos_token_id"], "{name}");
        assert_eq!(json!(tokenizer.pad_token_id()), case["pad_token_id"], "{name}");
        assert_eq!(json!(tokenizer.vocab_size()), case["vocab_size"], "{name}");
    }
}

#[test]
fn each_token_brings_the_text_that_it_brings_in_mlx_lm() {
    for (name, case) in expected()["encodings"].as_object().unwrap() {
        let folder = folder(name);
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        for row in case["streamed"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
            let mut detokenizer = tokenizer.detokenizer();
            let mut parts: Vec<String> =
                ids.iter().map(|&id| detokenizer.add(id).unwrap()).collect();
            parts.push(detokenizer.finish().unwrap());
            assert_eq!(json!(parts), row["parts"], "{name}: {ids:?}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_told_in_the_end() {
    let folder = folder("llama");
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let byte = tokenizer.token_to_id("<0xF0>").unwrap();
    let mut detokenizer = tokenizer.detokenizer();
    let mut told = 0;
    for _ in 0..40 {
        told += detokenizer.add(byte).unwrap().chars().count();
    }
    told += detokenizer.finish().unwrap().chars().count();
    assert_eq!(told, tokenizer.decode(&[byte; 40], false).unwrap().chars().count());
}

#[test]
fn end_tokens_come_from_the_model_and_the_tokenizer() {
    let folder = folder("byte_level");
    let mut tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.eos_token_ids().iter().copied().collect::<Vec<_>>(), [0, 2]);
    assert!(tokenizer.has_thinking());
    tokenizer.add_eos_token("</think>").unwrap();
    tokenizer.add_eos_token("7").unwrap();
    assert_eq!(tokenizer.eos_token_ids().len(), 4);
    let message = tokenizer.add_eos_token("<nope>").unwrap_err().to_string();
    assert!(message.contains("\"<nope>\" is no token"), "{message}");
    fs::write(folder.path().join("generation_config.json"), "{\"eos_token_id\": 5}").unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.eos_token_ids().iter().copied().collect::<Vec<_>>(), [2, 5]);
}

#[test]
fn templates_render_as_in_transformers() {
    let expected = expected();
    let special = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    let special: Map<String, Value> = serde_json::from_value(special).unwrap();
    let mut rendered = 0;
    for case in expected["templates"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let source = fs::read_to_string(golden().join("templates").join(name)).unwrap();
        let template = ChatTemplate::new(&source).unwrap();
        let variables = json!({"enable_thinking": false, "date_string": "01 Jan 2026"});
        let options = ChatOptions {
            tools: (case["tools"] == true).then(|| expected["tools"].clone()),
            add_generation_prompt: case["mode"] == "generate",
            continue_final_message: case["mode"] == "continue",
            variables: serde_json::from_value(variables).unwrap(),
            ..ChatOptions::default()
        };
        let messages = &expected["chats"][case["chat"].as_str().unwrap()];
        let found = template.render(messages, &options, &special);
        let what = format!("{name} {} {} {}", case["chat"], case["tools"], case["mode"]);
        match (case["text"].as_str(), found) {
            (Some(text), Ok(found)) => {
                assert_eq!(found, text, "{what}");
                rendered += 1;
            }
            (None, Err(error)) => {
                // An error that the template raises reaches the user with its own words.
                let theirs = case["error"].as_str().unwrap();
                let ours = error.to_string();
                assert!(ours.contains(theirs) || !theirs.contains("alternate"), "{what}: {ours}");
            }
            (theirs, ours) => panic!("{what}: {theirs:?} there, {ours:?} here"),
        }
    }
    assert!(rendered > 100, "{rendered}");
}

#[test]
fn rows_become_the_tokens_of_mlx_lm() {
    let folder = folder("byte_level");
    fs::copy(
        golden().join("templates/chatml_tools.jinja"),
        folder.path().join("chat_template.jinja"),
    )
    .unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    for case in expected()["processed"].as_array().unwrap() {
        let mask_prompt = case["mask_prompt"] == true;
        let options = DatasetOptions { mask_prompt, ..DatasetOptions::default() };
        let rows = objects(&case["rows"]);
        let dataset = Dataset::from_json(&rows, Path::new("rows"), &tokenizer, &options).unwrap();
        let found: Vec<_> = dataset.rows().iter().map(|row| (&row.tokens, row.offset)).collect();
        assert_eq!(json!(found), case["expected"]);
    }
}

#[test]
fn batches_are_those_of_mlx_lm() {
    let expected = &expected()["batches"];
    let folder = folder("byte_level");
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let rows = objects(&expected["rows"]);
    let dataset = |rows: &[Map<String, Value>]| {
        let options = DatasetOptions::default();
        Dataset::from_json(rows, Path::new("rows"), &tokenizer, &options).unwrap()
    };
    let (train, valid) = (dataset(&rows[..17]), dataset(&rows[17..]));
    let mut rng = BatchRng::new(3);
    let mut found = Vec::new();
    let mut record = |batch: Option<graft_lm::data::Batch>| {
        let batch = batch.unwrap();
        let tokens: Vec<_> = batch.tokens.chunks(batch.width).collect();
        found.push(json!({"tokens": tokens, "lengths": batch.lengths}));
    };
    let mut batches = Batches::new(&train, 3, 64, true).unwrap();
    for step in 0..12 {
        record(batches.next(&train, &mut rng));
        if step % 4 == 0 {
            let mut validation = Batches::new(&valid, 2, 64, false).unwrap();
            for _ in 0..2 {
                record(validation.next(&valid, &mut rng));
            }
        }
    }
    assert_eq!(Value::Array(found), expected["steps"]);
}
