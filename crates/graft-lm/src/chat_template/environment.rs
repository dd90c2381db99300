//! The Jinja environment of transformers' chat templates.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::Time;

/// An environment with the functions, filters and whitespace rules that transformers sets. The time
/// is the present unless there is another.
pub(super) fn new(time: Option<Time>) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    if let Ok(syntax) = syntax {
        environment.set_syntax(syntax);
    }
    // Text for a model, never HTML.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: String| {
        let time = time.unwrap_or_else(Time::now);
        time.strftime(&format).ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, format!("{format:?} is no format of a time"))
        })
    });
    environment.add_filter("tojson", super::json::tojson);
    environment
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The template with `{% generation %}` blocks, which mark the assistant's tokens for transformers,
/// as blocks that are always taken: so the whitespace around them stays as it would be.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        result.push_str(before);
        result.push_str("{%");
        let Some((inner, after)) = tag.split_once("%}") else {
            rest = tag;
            continue;
        };
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => result.push_str(&inner.replacen(word, "if true", 1)),
            "endgeneration" => result.push_str(&inner.replacen(word, "endif", 1)),
            _ => {
                rest = tag;
                continue;
            }
        }
        result.push_str("%}");
        rest = after;
    }
    result.push_str(rest);
    result
}
