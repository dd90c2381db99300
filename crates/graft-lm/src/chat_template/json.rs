//! `tojson` as transformers defines it: Python's `json.dumps`, without HTML escapes.

use std::fmt::Write;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value as Jinja};
use serde_json::Value;

use crate::floats;

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
#[expect(clippy::needless_pass_by_value, reason = "the signature of a template filter")]
pub(super) fn tojson(value: Jinja, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Jinja> = options.get("indent")?;
    let indent = match indent {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?),
        }),
    };
    let separators: Option<(String, String)> =
        match options.get::<Option<Vec<String>>>("separators")? {
            Some(pair) => <[String; 2]>::try_from(pair).ok().map(|[item, key]| (item, key)),
            None => None,
        };
    let default_item = if indent.is_some() { "," } else { ", " };
    let (item, key) = separators.unwrap_or_else(|| (default_item.to_owned(), ": ".to_owned()));
    let style = Style {
        indent,
        item,
        key,
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let value = serde_json::to_value(&value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut output = String::new();
    style.value(&value, 0, &mut output);
    Ok(output)
}

/// The options of `json.dumps`.
struct Style {
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Style {
    fn value(&self, value: &Value, depth: usize, output: &mut String) {
        match value {
            Value::Array(items) => {
                self.items(['[', ']'], items, depth, output, |item, output| {
                    self.value(item, depth + 1, output);
                });
            }
            Value::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.items(['{', '}'], &entries, depth, output, |(key, value), output| {
                    self.text(key, output);
                    output.push_str(&self.key);
                    self.value(value, depth + 1, output);
                });
            }
            Value::String(text) => self.text(text, output),
            Value::Number(number) if number.is_f64() => {
                output.push_str(&floats::repr(number.as_f64().unwrap_or_default()));
            }
            other => output.push_str(&other.to_string()),
        }
    }

    fn items<T>(
        &self,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        output: &mut String,
        write: impl Fn(&T, &mut String),
    ) {
        output.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                output.push_str(&self.item);
            }
            self.new_line(depth + 1, output);
            write(item, output);
        }
        if !items.is_empty() {
            self.new_line(depth, output);
        }
        output.push(close);
    }

    fn new_line(&self, depth: usize, output: &mut String) {
        if let Some(indent) = &self.indent {
            output.push('\n');
            output.push_str(&indent.repeat(depth));
        }
    }

    fn text(&self, text: &str, output: &mut String) {
        let quoted = Value::from(text).to_string();
        if !self.ensure_ascii {
            output.push_str(&quoted);
            return;
        }
        for character in quoted.chars() {
            if character.is_ascii() {
                output.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a string can't fail.
                    let _ = write!(output, "\\u{unit:04x}");
                }
            }
        }
    }
}
