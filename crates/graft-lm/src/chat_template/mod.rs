//! Chat templates: the Jinja programs that turn messages into text.

mod environment;
mod json;
mod time;

use minijinja::value::Serde;
use minijinja::{Environment, Value as Jinja};
use serde_json::{Map, Value};

pub use time::Time;

use crate::{Error, Result};

/// What goes into a chat template beside the messages.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// The tools the model may call, a list of JSON schemas.
    pub tools: Option<Value>,
    /// Whether the text ends with the header of the answer to come.
    pub add_generation_prompt: bool,
    /// Whether the text ends within the last message, for the model to go on from there.
    pub continue_final_message: bool,
    /// The text of a template to take in the place of the tokenizer's own.
    pub chat_template: Option<String>,
    /// Further variables of the template, such as `enable_thinking` or `documents`.
    pub variables: Map<String, Value>,
}

/// A compiled chat template.
///
/// Source: `render_jinja_template` of transformers' `utils/chat_template_utils.py`, and
/// `PreTrainedTokenizerBase.apply_chat_template`.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
}

const NAME: &str = "chat_template";
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the line in the template, if it is not Jinja.
    pub fn new(source: &str) -> Result<Self> {
        Self::at(source, None)
    }

    /// [`ChatTemplate::new`] with a time that `strftime_now` prints in the place of the present.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn at(source: &str, time: Option<Time>) -> Result<Self> {
        let mut environment = environment::new(time);
        environment
            .add_template_owned(NAME, environment::without_generation_tags(source))
            .map_err(|error| Error::Usage(format!("the chat template is not Jinja: {error}")))?;
        Ok(Self { source: source.to_owned(), environment })
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of `messages`, a list of objects with `role` and `content`.
    ///
    /// `special_tokens` are variables too, such as `bos_token`; those of `options` win.
    ///
    /// # Errors
    /// [`Error::Usage`] for messages that are no list of objects, for what the template itself
    /// refuses (`raise_exception`), and for what fails in it.
    pub fn render(
        &self,
        messages: &Value,
        options: &ChatOptions,
        special_tokens: &Map<String, Value>,
    ) -> Result<String> {
        if options.continue_final_message && options.add_generation_prompt {
            return usage("continue_final_message and add_generation_prompt exclude each other");
        }
        let mut messages = prepare(messages)?;
        let continued = if options.continue_final_message {
            Some(tag_final_message(&mut messages)?)
        } else {
            None
        };
        let mut variables = special_tokens.clone();
        variables.insert("documents".into(), Value::Null);
        variables.extend(options.variables.clone());
        variables.insert("messages".into(), Value::Array(messages));
        variables.insert("tools".into(), options.tools.clone().unwrap_or_default());
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        let text = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(Jinja::from(Serde(&variables))))
            .map_err(|error| Error::Usage(format!("the chat template failed: {error}")))?;
        match continued {
            Some(message) => cut_at_tag(text, &message),
            None => Ok(text),
        }
    }
}

fn usage<T>(message: &str) -> Result<T> {
    Err(Error::Usage(message.to_owned()))
}

/// The messages without null values, which templates would print, and with the reasoning under
/// each name that templates know.
fn prepare(messages: &Value) -> Result<Vec<Value>> {
    let Some(messages) = messages.as_array() else {
        return usage("messages must be a list of objects with `role` and `content`");
    };
    if messages.is_empty() {
        return usage("a chat needs at least one message");
    }
    let prepared = messages.iter().enumerate().map(|(index, message)| {
        let Some(message) = message.as_object() else {
            return usage(&format!("message {index} is not an object with `role` and `content`"));
        };
        let mut message = message.clone();
        message.retain(|_, value| !value.is_null());
        let names = ["reasoning_content", "thinking", "reasoning"];
        if let Some(reasoning) = names.iter().find_map(|name| message.get(*name)).cloned() {
            message.entry("thinking").or_insert_with(|| reasoning.clone());
            message.insert("reasoning_content".to_owned(), reasoning);
        }
        Ok(Value::Object(message))
    });
    prepared.collect()
}

/// Marks the end of the last message, and gives its text.
fn tag_final_message(messages: &mut [Value]) -> Result<String> {
    let content = match messages.last_mut() {
        Some(Value::Object(message)) => message.get_mut("content"),
        _ => None,
    };
    let text = match content {
        Some(text @ Value::String(_)) => Some(text),
        // The parts of a message: the last text is the one to go on from.
        Some(Value::Array(parts)) => {
            parts.iter_mut().rev().find_map(|part| part.get_mut("text")).filter(|t| t.is_string())
        }
        _ => None,
    };
    let Some(Value::String(text)) = text else {
        return usage("continue_final_message needs a text in the last message's `content`");
    };
    let original = text.clone();
    text.push_str(CONTINUE_TAG);
    Ok(original)
}

fn cut_at_tag(mut text: String, message: &str) -> Result<String> {
    let tag = text.rfind(CONTINUE_TAG.trim()).filter(|_| text.contains(message.trim()));
    let Some(position) = tag else {
        return usage(
            "the chat template drops the last message, so that it can't be continued; leave out \
             the prefilled response",
        );
    };
    let kept = text[position..].starts_with(CONTINUE_TAG);
    text.truncate(position);
    if !kept {
        // The template trimmed the message, so its own spaces at the end go as well.
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
