use std::fs;

use serde_json::{Value, json};

use super::Tokenizer;
use crate::chat_template::ChatOptions;

fn folder(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1}}
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

fn chat(folder: &tempfile::TempDir, tools: Option<Value>) -> crate::Result<String> {
    let options = ChatOptions { tools, ..ChatOptions::default() };
    let messages = json!([{"role": "user", "content": "a"}]);
    Tokenizer::load(folder.path())?.apply_chat_template(&messages, &options)
}

#[test]
fn a_missing_tokenizer_names_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let message = || Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(message().contains("tokenizer.json: no such file; a model folder needs"));
    fs::write(folder.path().join("tokenizer.model"), "x").unwrap();
    let found = message();
    assert!(found.contains("only tokenizer.model; convert it in Python"), "{found}");
}

#[test]
fn broken_files_are_named() {
    let folder = folder(&json!({}));
    fs::write(folder.path().join("tokenizer.json"), "{\n").unwrap();
    let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json:2: not the JSON that is wanted"), "{message}");
    fs::write(folder.path().join("tokenizer.json"), "{\"model\": 1}").unwrap();
    let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: not a tokenizer"), "{message}");
}

#[test]
fn a_missing_template_says_how_to_mend_it() {
    let message = chat(&folder(&json!({})), None).unwrap_err().to_string();
    assert!(message.contains("the tokenizer has no chat template"), "{message}");
    assert!(message.contains("--ignore-chat-template"), "{message}");
}

#[test]
fn templates_are_found_in_each_of_their_places() {
    let list = json!([
        {"name": "tool_use", "template": "with tools"}, {"name": "default", "template": "without"}
    ]);
    let folder = folder(&json!({"chat_template": list}));
    assert_eq!(chat(&folder, None).unwrap(), "without");
    assert_eq!(chat(&folder, Some(json!([{}]))).unwrap(), "with tools");
    fs::write(folder.path().join("chat_template.jinja"), "from its own file").unwrap();
    assert_eq!(chat(&folder, None).unwrap(), "from its own file");
    let folder = self::folder(&json!({}));
    fs::write(folder.path().join("chat_template.json"), "{\"chat_template\": \"json\"}").unwrap();
    assert_eq!(chat(&folder, None).unwrap(), "json");
}

#[test]
fn thinking_is_told_to_the_template_as_in_mlx_lm() {
    let template = "{{ enable_thinking }}";
    assert_eq!(chat(&folder(&json!({"chat_template": template})), None).unwrap(), "False");
    let extra = json!({"chat_template": template, "extra_special_tokens": ["<think>", "</think>"]});
    assert_eq!(chat(&folder(&extra), None).unwrap(), "True");
}

#[test]
fn named_tokens_are_added_and_are_variables_of_the_template() {
    let config = json!({
        "bos_token": {"content": "<b>", "lstrip": false}, "eos_token": "<e>",
        "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    });
    let folder = folder(&config);
    assert_eq!(chat(&folder, None).unwrap(), "<b>a<e>");
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(2), Some(3)));
    assert_eq!(tokenizer.encode("<b>a<e>", false).unwrap(), [2, 1, 3]);
    assert_eq!(tokenizer.decode(&[2, 1, 3], true).unwrap(), "a");
}
