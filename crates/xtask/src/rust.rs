//! The Rust function of an operation.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::FIRST_LINE;
use crate::example;
use crate::header::{Function, Kind, Output, Param};
use crate::options::Options;
use crate::table::{Group, Op};

/// The text of a file of operations, before rustfmt.
pub fn file(group: &Group) -> String {
    let mut bodies = String::new();
    let mut written = BTreeSet::new();
    for op in &group.ops {
        if let Some(options) = op.options.as_ref().filter(|o| written.insert(&o.name)) {
            bodies += &options.item(group);
        }
        bodies.extend(functions(group, op));
    }
    let names = ["Array", "Dtype", "Result", "VectorArray", "call", "sys"];
    let code: Vec<&str> = bodies.lines().filter(|line| !line.starts_with("///")).collect();
    let code = code.join("\n");
    let uses = |name: &&str| {
        code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == *name)
    };
    let mut imports: Vec<&str> = names.into_iter().filter(uses).collect();
    if code.contains("guard::") {
        imports.push("guard");
    }
    if code.contains("check::") {
        imports.push("index::check");
    }
    let norm = if code.contains(": Norm") { "use super::Norm;\n" } else { "" };
    let cow = if uses(&"Cow") { "use std::borrow::Cow;\n\n" } else { "" };
    format!(
        "// {FIRST_LINE} crates/mlx-graft/ops.toml\n#![allow(unsafe_code)]\n\n\
         {cow}{norm}use crate::{{{}}};\n\n{bodies}",
        imports.join(", ")
    )
}

fn functions(group: &Group, op: &Op) -> Vec<String> {
    op.functions
        .iter()
        .zip(&op.examples)
        .map(|((suffix, function), example)| {
            let name = format!("{}::{}{suffix}", group.module, op.rust);
            let example = example::doctest(&name, example, op.gpu);
            self::function(op, suffix, function, &example)
        })
        .collect()
}

/// The type of a parameter.
fn ty(kind: Kind) -> &'static str {
    match kind {
        Kind::Array => "&Array",
        Kind::OptionalArray => "Option<&Array>",
        Kind::Arrays => "&[impl AsRef<Array>]",
        Kind::Int => "i32",
        Kind::Size => "usize",
        Kind::Uint64 => "u64",
        Kind::Bool => "bool",
        Kind::Float => "f32",
        Kind::Double => "f64",
        Kind::Ints => "&[i32]",
        Kind::OptionalInts => "Option<&[i32]>",
        Kind::Int64s => "&[i64]",
        Kind::OptionalInt => "Option<i32>",
        Kind::OptionalFloat => "Option<f32>",
        Kind::Dtype => "Dtype",
        Kind::OptionalDtype => "Option<Dtype>",
        Kind::Text => "&str",
        Kind::Norm => "Norm",
    }
}

/// What must be made of a parameter before the call.
fn prepare(op: &Op, Param { name, kind }: &Param) -> Option<String> {
    let optional = |ty: &str, value: &str| {
        format!("let {name} = sys::{ty} {{ value: {name}.{value}, has_value: {name}.is_some() }};")
    };
    match kind {
        Kind::Arrays => Some(format!("let {name} = VectorArray::from_arrays({name})?;")),
        Kind::Text => Some(format!("let {name} = call::c_string({:?}, {name})?;", op.name)),
        Kind::OptionalInt => Some(optional("mlx_optional_int", "unwrap_or_default()")),
        Kind::OptionalFloat => Some(optional("mlx_optional_float", "unwrap_or_default()")),
        Kind::OptionalDtype => {
            Some(optional("mlx_optional_dtype", "map_or(sys::MLX_FLOAT32, Dtype::as_raw)"))
        }
        _ => None,
    }
}

/// The C arguments of a parameter.
fn arguments(Param { name, kind }: &Param) -> String {
    match kind {
        Kind::Array | Kind::Arrays | Kind::Dtype | Kind::Norm => format!("{name}.as_raw()"),
        Kind::OptionalArray => format!("call::optional({name})"),
        Kind::Ints | Kind::Int64s => format!("{name}.as_ptr(), {name}.len()"),
        Kind::OptionalInts => format!(
            "{name}.map_or(std::ptr::null(), <[i32]>::as_ptr), {name}.map_or(0, <[i32]>::len)"
        ),
        Kind::Text => format!("{name}.as_ptr()"),
        _ => name.clone(),
    }
}

fn function(op: &Op, suffix: &str, function: &Function, example: &str) -> String {
    let mut text = doc(op, suffix) + example;
    let options = op.options.as_deref();
    let given = |p: &&Param| options.is_none_or(|options| options.feeding(&p.name).is_none());
    let required = function.params.iter().filter(given);
    let mut params: Vec<String> = required.map(|p| format!("{}: {}", p.name, ty(p.kind))).collect();
    params.extend(options.map(Options::argument));
    let unpacked = options.map(|options| options.unpacked(&function.params)).unwrap_or_default();
    let (runner, outputs, result) = match function.output {
        Output::Nothing => ("status", vec![], "()"),
        Output::Array => ("array", vec!["res"], "Array"),
        Output::Pair => ("array2", vec!["first", "second"], "(Array, Array)"),
        Output::Arrays => ("arrays", vec!["res"], "Vec<Array>"),
    };
    let stream = if function.stream { "stream" } else { "_" };
    let mut closure = outputs.clone();
    if function.output != Output::Nothing {
        closure.push(stream);
    }
    let mut arguments: Vec<String> = outputs.iter().map(ToString::to_string).collect();
    arguments.extend(function.params.iter().map(self::arguments));
    if function.stream {
        arguments.push("stream".into());
    }
    let qualifier = if op.safety.is_some() { "unsafe " } else { "" };
    let safety = if op.safety.is_some() {
        "the handles are live for the length of the call; the caller sees to the rest."
    } else {
        "every handle and pointer is live for the length of the call."
    };
    let at = op.functions.iter().position(|(found, _)| found == suffix);
    let check = at.and_then(|at| op.check.get(at)).map_or("", String::as_str);
    let then = at.and_then(|at| op.then.get(at)).map_or("", String::as_str);
    let then = if then.is_empty() { String::new() } else { format!(".and_then({then})") };
    let prepared: String = function.params.iter().filter_map(|param| prepare(op, param)).collect();
    // A call costs less than a microsecond, of which moving results between functions is a part.
    let inline = if runner == "array" { "#[inline]\n" } else { "" };
    let _ = write!(
        text,
        "{inline}pub {qualifier}fn {}{suffix}({}) -> Result<{result}> {{\n{unpacked}{check}\n{prepared}\
         call::{runner}({:?}, |{}| {{\n// SAFETY: {safety}\nunsafe {{ sys::{}({}) }}\n}}){then}\n}}\n\n",
        op.rust,
        params.join(", "),
        op.name,
        closure.join(", "),
        function.name,
        arguments.join(", "),
    );
    text
}

fn doc(op: &Op, suffix: &str) -> String {
    let mut text = op.doc.clone();
    let variant = match suffix {
        "_axis" => "Along one axis",
        "_axes" if op.functions[0].1.params.iter().any(|p| p.name == "axis") => "For several axes",
        "_axes" if op.name == "transpose" => "In the order of `axes`",
        "_axes" => "Along several axes",
        "_dtype" => "In another dtype",
        _ => "",
    };
    if !variant.is_empty() {
        let _ = write!(text, "\n\n{variant}; otherwise as [`{}()`].", op.rust);
    }
    if let Some(shape) = &op.shape {
        let _ = write!(text, "\n\nShape: {}", lower_first(shape));
    }
    if let Some(errors) = &op.errors {
        let _ = write!(text, "\n\n# Errors\n{errors}");
        if op.checks_indices() {
            text += " Or an index is out of range ([`Error::Index`](crate::Error::Index)), which is \
                     found at once if the indices are evaluated, and otherwise by the evaluation: \
                     see [`index`](crate::index).";
        }
    }
    if let Some(safety) = &op.safety {
        let _ = write!(text, "\n\n# Safety\n{safety}");
    }
    documentation(&text)
}

/// The text as documentation comments.
pub fn documentation(text: &str) -> String {
    text.lines().fold(String::new(), |mut doc, line| {
        for line in wrap(line, 96) {
            let _ = writeln!(doc, "{}", format!("/// {line}").trim_end());
        }
        doc
    })
}

/// The text with a small first letter.
pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Lines of at most `width` characters, broken at spaces.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always one line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_string());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
