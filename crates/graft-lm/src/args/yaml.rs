//! YAML configuration files, with the scalars that mlx-lm's loader gives.
//!
//! mlx-lm reads YAML 1.1 through `PyYAML`'s `SafeLoader`, patched so that `1e-5` is a number. The
//! parser here gives events whose scalars are still text; [`plain_scalar`] types them alike.

use std::collections::HashMap;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};
use serde_json::{Map, Number, Value};

use super::keys::Origins;
use crate::{Error, Result};

/// Reads a YAML file that holds one mapping; `origins` learns the line of each key.
pub(crate) fn read_mapping(path: &Path, origins: &mut Origins) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(
            path,
            "no such file; --config takes the path of a YAML file with training options",
        ),
        _ => Error::Io { path: path.to_path_buf(), source },
    })?;
    let mut reader = Reader {
        parser: Parser::new_from_str(&text),
        path,
        lines: HashMap::new(),
        anchors: HashMap::new(),
    };
    let document = reader.document()?;
    origins.file = Some((path.to_path_buf(), reader.lines));
    match document {
        Value::Object(mapping) => Ok(mapping),
        Value::Null => Ok(Map::new()),
        other => Err(Error::invalid(
            path,
            format!(
                "found {} at the top, wanted a mapping of options, such as `iters: 100`",
                super::keys::describe(&other)
            ),
        )),
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    path: &'t Path,
    lines: HashMap<String, usize>,
    anchors: HashMap<usize, Value>,
}

impl<'t> Reader<'t> {
    /// The one document of the file, as `PyYAML` takes it.
    fn document(&mut self) -> Result<Value> {
        let mut document = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(document.unwrap_or(Value::Null)),
                Event::DocumentStart(_) if document.is_some() => {
                    return Err(self.error(
                        span,
                        "a second document begins here; wanted one: remove the `---`, or what \
                         follows it",
                    ));
                }
                Event::Nothing
                | Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd => {}
                other => document = Some(self.node(other, span, "")?),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span)> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.scan_error(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, path: &str) -> Result<Value> {
        let (value, anchor) = match event {
            Event::Scalar(text, ScalarStyle::Plain, anchor, None) => (plain_scalar(&text), anchor),
            Event::Scalar(text, _, anchor, None) => (Value::String(text.into_owned()), anchor),
            Event::SequenceStart(anchor, None) => (self.sequence(path)?, anchor),
            Event::MappingStart(anchor, None) => (self.mapping(path)?, anchor),
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                return value.ok_or_else(|| self.error(span, "an alias without its anchor"));
            }
            _ => return Err(self.error(span, "tags such as `!!str` are not read here")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self, path: &str) -> Result<Value> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Array(items));
            }
            items.push(self.node(event, span, path)?);
        }
    }

    fn mapping(&mut self, path: &str) -> Result<Value> {
        let mut mapping = Map::new();
        let mut merged = Map::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => {
                    // What the mapping says itself goes before what it takes over.
                    for (key, value) in merged {
                        mapping.entry(key).or_insert(value);
                    }
                    return Ok(Value::Object(mapping));
                }
                Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<" => {
                    self.merge(path, &mut merged)?;
                    continue;
                }
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.error(span, "a key must be a plain text")),
            };
            let key_path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.lines.insert(key_path.clone(), span.start.line());
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, &key_path)?;
            if mapping.insert(key, value).is_some() {
                return Err(self.error(span, &format!("`{key_path}` is given twice")));
            }
        }
    }

    /// Takes over the keys of the mapping or mappings behind `<<`, of which the first that has a key
    /// counts, as in `PyYAML`.
    fn merge(&mut self, path: &str, merged: &mut Map<String, Value>) -> Result<()> {
        let (event, span) = self.next()?;
        let mappings = match self.node(event, span, path)? {
            Value::Array(items) => items,
            single => vec![single],
        };
        for mapping in mappings {
            let Value::Object(mapping) = mapping else {
                let found = super::keys::describe(&mapping);
                let message = format!("`<<`: found {found}, wanted a mapping or a list of them");
                return Err(self.error(span, &message));
            };
            for (key, value) in mapping {
                let key_path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                self.lines.entry(key_path).or_insert(span.start.line());
                merged.entry(key).or_insert(value);
            }
        }
        Ok(())
    }

    fn error(&self, span: Span, message: &str) -> Error {
        Error::Invalid {
            path: self.path.to_path_buf(),
            line: Some(span.start.line()),
            message: message.to_owned(),
        }
    }

    fn scan_error(&self, error: &ScanError) -> Error {
        let marker = error.marker();
        Error::Invalid {
            path: self.path.to_path_buf(),
            line: Some(marker.line()),
            message: format!("not YAML: {} (column {})", error.info(), marker.col() + 1),
        }
    }
}

/// The value of an unquoted scalar under YAML 1.1.
fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    integer(text)
        .map(Value::from)
        .or_else(|| float(text).and_then(Number::from_f64).map(Value::Number))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let magnitude = if let Some(hex) = digits.strip_prefix("0x") {
        i64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        i64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    magnitude.ok().map(|magnitude| sign * magnitude)
}

/// A number with a point or an exponent; infinities and NaN stay text, as no option takes them.
fn float(text: &str) -> Option<f64> {
    let allowed = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-' | '_');
    let starts = text.trim_start_matches(['+', '-', '.']).starts_with(|c: char| c.is_ascii_digit());
    if !starts || !text.chars().all(allowed) || !text.contains(['.', 'e', 'E']) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Origins, plain_scalar, read_mapping};

    fn read(text: &str) -> crate::Result<serde_json::Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        read_mapping(&path, &mut Origins::default()).map(serde_json::Value::Object)
    }

    // The expected values are those of yaml.load with the resolver of mlx_lm/lora.py.
    #[test]
    fn scalars_are_typed_as_in_mlx_lm() {
        let expected = [
            ("1e-5", json!(1e-5)),
            ("1E5", json!(1e5)),
            ("1.", json!(1.0)),
            (".5", json!(0.5)),
            ("1_000", json!(1000)),
            ("0x1F", json!(31)),
            ("010", json!(8)),
            ("-3", json!(-3)),
            ("+3", json!(3)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("~", json!(null)),
            ("1.2.3", json!("1.2.3")),
            ("e5", json!("e5")),
            ("4-bit", json!("4-bit")),
        ];
        for (text, value) in expected {
            assert_eq!(plain_scalar(text), value, "{text}");
        }
    }

    #[test]
    fn reads_nesting_quotes_comments_and_anchors() {
        let found = read(
            "model: \"a/b\"  # c\nkeys: &k [q, 'v']\nlora_parameters:\n  rank: 4\n  keys: *k\nx:\n",
        );
        let wanted = json!({
            "model": "a/b", "keys": ["q", "v"],
            "lora_parameters": {"rank": 4, "keys": ["q", "v"]}, "x": null
        });
        assert_eq!(found.unwrap(), wanted);
        assert_eq!(read("").unwrap(), json!({}));
    }

    // The expected values are those of yaml.safe_load.
    #[test]
    fn mappings_take_over_the_keys_of_others() {
        let base = "a: &a {r: 1, s: 2}\nb: &b {r: 3, t: {u: 4}}\n";
        for (text, wanted) in [
            ("c: {<<: *a, r: 5}", json!({"r": 5, "s": 2})),
            ("c:\n  r: 5\n  <<: *a", json!({"r": 5, "s": 2})),
            ("c: {<<: [*a, *b], v: 6}", json!({"r": 1, "s": 2, "t": {"u": 4}, "v": 6})),
            ("c: {<<: [*b, *a]}", json!({"r": 3, "s": 2, "t": {"u": 4}})),
            ("c: {<<: {r: 7}}", json!({"r": 7})),
            ("c: {\"<<\": 1}", json!({"<<": 1})),
        ] {
            assert_eq!(read(&format!("{base}{text}\n")).unwrap()["c"], wanted, "{text}");
        }
        for (text, found) in [("<<: 1", "the number 1"), ("<<: [1]", "the number 1")] {
            let message = read(&format!("a: 1\n{text}\n")).unwrap_err().to_string();
            let wanted = format!("c.yaml:2: `<<`: found {found}, wanted a mapping");
            assert!(message.contains(&wanted), "{message}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, "a: &a {r: 1}\nc:\n  <<: *a\n").unwrap();
        let mut origins = Origins::default();
        read_mapping(&path, &mut origins).unwrap();
        let message = origins.error("c.r", "wrong").to_string();
        assert!(message.ends_with("c.yaml:3: `c.r`: wrong"), "{message}");
    }

    #[test]
    fn a_file_has_one_document() {
        assert_eq!(read("# c\n---\na: 1\n...\n").unwrap(), json!({"a": 1}));
        for (text, line) in [("a: 1\n---\nb: 2\n", 2), ("---\n---\nb: 2\n", 2)] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(&format!("c.yaml:{line}: a second document")), "{message}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let message = read("a: 1\nb: [1,\n").unwrap_err().to_string();
        assert!(message.contains("c.yaml:"), "{message}");
        let message = read("a: 1\na: 2\n").unwrap_err().to_string();
        assert!(message.ends_with("c.yaml:2: `a` is given twice"), "{message}");
        let message = read("- 1\n").unwrap_err().to_string();
        assert!(message.contains("found a list at the top, wanted a mapping"), "{message}");
    }
}
