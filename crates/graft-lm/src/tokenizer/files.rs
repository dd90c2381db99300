//! The files of a tokenizer.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::family::Family;
use super::stream::Streaming;
use crate::chat_template::{ChatTemplate, Time};
use crate::{Error, Result};

pub(super) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the files say, ready to build the tokenizer from.
pub(super) struct Files {
    /// `tokenizer.json`, as transformers would use it.
    pub tokenizer: Vec<u8>,
    /// Tokens of `added_tokens_decoder`, in the order of their ids.
    pub added_tokens: Vec<AddedToken>,
    /// The named and the additional special tokens.
    pub special_tokens: Vec<AddedToken>,
    /// The named special tokens as texts, such as `eos_token`.
    pub named_tokens: Map<String, Value>,
    /// The ids that the model's configuration says end a text.
    pub eos_token_ids: Vec<u32>,
    /// The chat templates.
    pub templates: Templates,
    /// How mlx-lm streams text.
    pub streaming: Streaming,
}

/// Reads the files in `folder`.
pub(super) fn read(folder: &Path) -> Result<Files> {
    let bytes = fs::read(folder.join(TOKENIZER)).map_err(|source| missing(folder, source))?;
    let mut tokenizer: Value = parse(&folder.join(TOKENIZER), &bytes)?;
    check_post_processor(&tokenizer["post_processor"])
        .map_err(|message| Error::invalid(folder.join(TOKENIZER), message))?;
    let streaming = Streaming::of(&tokenizer["decoder"]);
    let mut config = read_object(&folder.join(CONFIG))?.unwrap_or_default();
    let model = read_object(&folder.join("config.json"))?.unwrap_or_default();
    if !config.contains_key("added_tokens_decoder") {
        config.extend(read_object(&folder.join("special_tokens_map.json"))?.unwrap_or_default());
    }
    let declared = config.get("tokenizer_class").or_else(|| model.get("tokenizer_class"));
    let model_type = model.get("model_type").and_then(Value::as_str);
    let family = Family::choose(declared.and_then(Value::as_str), model_type, &tokenizer);
    for (name, token) in family.default_tokens() {
        config.entry(*name).or_insert_with(|| (*token).into());
    }
    let added = added_tokens(&config);
    let named_tokens: Map<String, Value> = NAMED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), content(config.get(*name)?)?.into())))
        .collect();
    let special_tokens = special_tokens(&config, &tokenizer, &added);
    family.rebuild(&mut tokenizer, &config);
    let tokenizer = match family {
        Family::Backend => bytes,
        _ => tokenizer.to_string().into_bytes(),
    };
    Ok(Files {
        tokenizer,
        added_tokens: added,
        special_tokens,
        named_tokens,
        eos_token_ids: eos_token_ids(folder, &model)?,
        templates: Templates::read(folder, &config)?,
        streaming,
    })
}

/// Fails if a template of a post-processor has a part that is nowhere: the `tokenizers` library
/// takes it, and panics at the first text.
fn check_post_processor(processor: &Value) -> Result<(), String> {
    let parts = processor["processors"].as_array();
    parts.into_iter().flatten().try_for_each(check_post_processor)?;
    if processor["type"] != "TemplateProcessing" {
        return Ok(());
    }
    for name in ["single", "pair"] {
        for piece in processor[name].as_array().into_iter().flatten() {
            let token = piece["SpecialToken"]["id"].as_str();
            if let Some(token) =
                token.filter(|token| processor["special_tokens"].get(token).is_none())
            {
                return Err(format!(
                    "`post_processor`: the template `{name}` has the token {token:?}, which is not \
                     in its `special_tokens`; add it there, or take it out of the template"
                ));
            }
            if name == "single" && piece["Sequence"]["id"] == "B" {
                return Err(
                    "`post_processor`: the template `single` has the sequence B, wanted A: \
                            it is for one text"
                        .to_owned(),
                );
            }
        }
    }
    Ok(())
}

fn missing(folder: &Path, source: std::io::Error) -> Error {
    if source.kind() != std::io::ErrorKind::NotFound {
        return Error::Io { path: folder.join(TOKENIZER), source };
    }
    let others = ["tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model"];
    let found: Vec<_> = others.into_iter().filter(|name| folder.join(name).exists()).collect();
    let message = if found.is_empty() {
        "no such file; a model folder needs the tokenizer.json of its Hugging Face repository"
            .to_owned()
    } else {
        format!(
            "no such file, only {}; convert it in Python with \
             transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
            found.join(" and ")
        )
    };
    Error::not_found(folder.join(TOKENIZER), message)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::Invalid {
        path: path.to_path_buf(),
        line: Some(error.line()),
        message: format!("not the JSON that is wanted: {error}"),
    })
}

/// The JSON object in a file that may be absent.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    match fs::read(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_path_buf(), source }),
    }
}

/// The text of a token, which is written as itself or as an object with `content`.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn added_token(token: &Value) -> Option<AddedToken> {
    let flag = |name: &str| token.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    let added = AddedToken::from(content(token)?, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Some(added.normalized(flag("normalized").unwrap_or(!special)))
}

/// The tokens of `added_tokens_decoder`, in the order of their ids.
fn added_tokens(config: &Map<String, Value>) -> Vec<AddedToken> {
    let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
    let mut tokens: Vec<(u64, AddedToken)> = decoder
        .into_iter()
        .flatten()
        .filter_map(|(id, token)| Some((id.parse().ok()?, added_token(token)?)))
        .collect();
    tokens.sort_by_key(|(id, _)| *id);
    tokens.into_iter().map(|(_, token)| token).collect()
}

/// The named special tokens, the model's own (`image_token` and the like) and the additional ones,
/// with the flags they were added with.
fn special_tokens(
    config: &Map<String, Value>,
    tokenizer: &Value,
    added: &[AddedToken],
) -> Vec<AddedToken> {
    let named = NAMED.iter().filter_map(|name| config.get(*name));
    let own = config
        .iter()
        .filter(|(key, value)| {
            key.ends_with("_token") && !NAMED.contains(&key.as_str()) && value.is_string()
        })
        .map(|(_, value)| value);
    let extra = ["additional_special_tokens", "extra_special_tokens"];
    let extra = extra.iter().filter_map(|key| config.get(*key)).flat_map(|tokens| match tokens {
        Value::Array(items) => items.iter().collect::<Vec<_>>(),
        Value::Object(entries) => entries.values().collect(),
        _ => Vec::new(),
    });
    let written = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let written: Vec<AddedToken> = written.filter_map(added_token).collect();
    let known =
        |text: &str| added.iter().chain(&written).find(|token| token.content == text).cloned();
    named
        .chain(own)
        .chain(extra)
        .filter_map(|token| {
            let text = content(token)?;
            Some(known(text).unwrap_or_else(|| AddedToken::from(text, true)))
        })
        .collect()
}

/// The ids that end a text: those of `generation_config.json`, else of `config.json`.
///
/// Source: `load_config` of mlx-lm's `utils.py`.
fn eos_token_ids(folder: &Path, model: &Map<String, Value>) -> Result<Vec<u32>> {
    let path = folder.join("generation_config.json");
    // As upstream, a generation configuration that is no JSON counts as absent.
    let generation = match read_object(&path) {
        Err(Error::Invalid { .. }) => None,
        other => other?,
    };
    let generation = generation.and_then(|config| config.get("eos_token_id").cloned());
    let ids =
        generation.filter(|ids| !ids.is_null()).or_else(|| model.get("eos_token_id").cloned());
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(match ids {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(&value).into_iter().collect(),
        None => Vec::new(),
    })
}

/// A template with the file it comes from.
type Sourced = (PathBuf, String);

/// The chat templates of a tokenizer, compiled when first used: text can be tokenized even if they
/// are broken.
pub(super) struct Templates {
    /// The template for chats.
    pub default: Option<Sourced>,
    tool_use: Option<Sourced>,
    time: Option<Time>,
    compiled: [std::sync::OnceLock<Result<ChatTemplate, String>>; 2],
}

impl Templates {
    /// The template for chats with or without tools; `None` if there is none.
    pub(super) fn get(&self, with_tools: bool) -> Option<Result<&ChatTemplate>> {
        let tool_use = self.tool_use.as_ref().filter(|_| with_tools);
        let index = usize::from(tool_use.is_some());
        let (path, source) = tool_use.or(self.default.as_ref())?;
        let compiled = self.compiled[index]
            .get_or_init(|| ChatTemplate::at(source, self.time).map_err(|error| error.to_string()));
        Some(compiled.as_ref().map_err(|message| Error::invalid(path, message.clone())))
    }

    /// The time that they print, if it is not the present.
    pub(super) fn time(&self) -> Option<Time> {
        self.time
    }

    /// Has them print this time.
    pub(super) fn set_time(&mut self, time: Time) {
        (self.time, self.compiled) = (Some(time), Default::default());
    }

    /// Whether one of them prints the time.
    pub(super) fn print_time(&self) -> bool {
        let mut templates = self.default.iter().chain(&self.tool_use);
        templates.any(|(_, source)| source.contains("strftime_now"))
    }

    /// Source: `PreTrainedTokenizerBase._from_pretrained` and `get_chat_template` of transformers;
    /// `chat_template.json` is where processors keep theirs.
    fn read(folder: &Path, config: &Map<String, Value>) -> Result<Self> {
        let mut default = read_text(&folder.join("chat_template.jinja"))?;
        let mut tool_use =
            read_text(&folder.join("additional_chat_templates").join("tool_use.jinja"))?;
        let path = folder.join(CONFIG);
        let sourced = |text: &Value| Some((path.clone(), text.as_str()?.to_owned()));
        if default.is_none() {
            match config.get("chat_template") {
                Some(Value::Array(list)) => {
                    let named = |name: &str| {
                        let entry = list.iter().find(|entry| entry["name"] == name)?;
                        sourced(&entry["template"])
                    };
                    default = named("default");
                    tool_use = tool_use.or_else(|| named("tool_use"));
                }
                Some(text) => default = sourced(text),
                None => {}
            }
        }
        if default.is_none() {
            let path = folder.join("chat_template.json");
            let object = read_object(&path)?;
            let text =
                object.and_then(|object| object.get("chat_template")?.as_str().map(Into::into));
            default = text.map(|text| (path, text));
        }
        Ok(Self { default, tool_use, time: None, compiled: Default::default() })
    }
}

fn read_text(path: &Path) -> Result<Option<Sourced>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_path_buf(), text))),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_path_buf(), source }),
    }
}
