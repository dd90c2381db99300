//! The `PyO3` function of an operation.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result};

use crate::FIRST_LINE;
use crate::header::{Function, Kind, Output, Param};
use crate::rust::{lower_first, wrap};
use crate::signature::{self, Item, PyParam, Signature, Type};
use crate::table::{Group, Op};

/// What the functions may use, by module.
const IMPORTS: [(&str, &[&str]); 5] = [
    (
        "super::arguments",
        &[
            "Axes",
            "DtypeArg",
            "Each",
            "Int",
            "IntOrInts",
            "IntOrShape",
            "Ints",
            "Shape",
            "inputs",
            "run",
        ],
    ),
    ("super::fourier", &["axes_or_all", "length", "lengths", "parse_norm", "Spectrum"]),
    ("super::random_state", &["next_key"]),
    ("super::scalars", &["Operand", "weak"]),
    ("crate::bridge", &["In", "Out", "unchecked"]),
];

/// The text of a file of Python functions, before rustfmt.
pub fn file(group: &Group) -> Result<String> {
    let mut bodies = String::new();
    let mut registered = String::new();
    for op in &group.ops {
        let function = function(group, op)
            .with_context(|| format!("[{}.{}] {}", group.module, group.file, op.name))?;
        let Some(function) = function else { continue };
        bodies += &function;
        let ident = ident(op);
        let _ = writeln!(registered, "module.add_function(wrap_pyfunction!({ident}, module)?)?;");
        for alias in &op.aliases {
            let name = &op.python;
            let _ = writeln!(registered, "module.add({alias:?}, module.getattr({name:?})?)?;");
        }
    }
    let code: Vec<&str> =
        bodies.lines().filter(|line| !line.trim_start().starts_with("///")).collect();
    let words: BTreeSet<&str> = code
        .iter()
        .flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .collect();
    let uses = |name: &str| words.contains(name);
    let mut text = format!(
        "// {FIRST_LINE} crates/mlx-graft/ops.toml\n\
         // PyO3 hands arguments over by value.\n\
         #![allow(clippy::needless_pass_by_value)]\n\n"
    );
    let _ = writeln!(text, "use mlx_graft::{};", group.module);
    if uses("Dtype") {
        text += "use mlx_graft::Dtype;\n";
    }
    text += "use pyo3::prelude::*;\n";
    if uses("PyTuple") {
        text += "use pyo3::types::PyTuple;\n";
    }
    for (module, names) in IMPORTS {
        let names: Vec<&str> = names.iter().copied().filter(|name| uses(name)).collect();
        if !names.is_empty() {
            let _ = writeln!(text, "use {module}::{{{}}};", names.join(", "));
        }
    }
    let _ = write!(
        text,
        "\n/// Adds the functions of this file to a Python module.\n\
         pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {{\n"
    );
    let _ = write!(text, "{registered}Ok(())\n}}\n\n{bodies}");
    Ok(text)
}

/// The type of an argument.
fn ty(param: &PyParam) -> &'static str {
    match &param.ty {
        _ if param.variadic => "&Bound<'_, PyTuple>",
        Type::Scalar | Type::Weak => "Operand<'_>",
        Type::OptionalScalar => "Option<Operand<'_>>",
        Type::IntOrInts if is_shape(param) => "IntOrShape",
        Type::IntOrInts => "IntOrInts",
        Type::Each(2) => "Each<2>",
        Type::Each(_) => "Each<3>",
        Type::Key => "Option<In>",
        Type::Axis | Type::Length(_) => "Option<Int<i32>>",
        Type::AxisOrAxes | Type::AllAxes => "Option<Axes>",
        Type::GivenAxes => "Axes",
        Type::Lengths(_) => "Option<Shape>",
        Type::Axes | Type::LengthAxes => "Option<Ints>",
        Type::Dtype => "Option<DtypeArg>",
        Type::ByHand(_) => unreachable!("no function is generated"),
        Type::Plain(kind) => match kind {
            Kind::Array => "In",
            Kind::OptionalArray => "Option<In>",
            Kind::Arrays => "Vec<In>",
            Kind::Int => "Int<i32>",
            Kind::Size => "Int<usize>",
            Kind::Uint64 => "Int<u64>",
            Kind::Bool => "bool",
            Kind::Float => "f32",
            Kind::Double => "f64",
            Kind::Ints if is_shape(param) => "Shape",
            Kind::Ints => "Ints",
            Kind::OptionalInts => "Option<Ints>",
            Kind::Int64s => "Vec<i64>",
            Kind::OptionalInt => "Option<Int<i32>>",
            Kind::OptionalFloat => "Option<f32>",
            Kind::Dtype if param.default.is_some() => "Option<DtypeArg>",
            Kind::Dtype => "DtypeArg",
            Kind::OptionalDtype => "Option<DtypeArg>",
            Kind::Text | Kind::Norm => "&str",
        },
    }
}

/// Whether the integers are lengths: one that is too large overflows then, and is of the wrong type
/// elsewhere.
fn is_shape(param: &PyParam) -> bool {
    matches!(param.name.as_str(), "shape" | "slice_size")
}

/// A default in Rust's notation.
fn default(param: &PyParam, text: &str) -> String {
    match (&param.ty, text) {
        (_, "None") | (Type::Plain(Kind::Dtype), _) => "None".into(),
        (_, "True") => "true".into(),
        (_, "False") => "false".into(),
        (Type::Plain(Kind::Ints), "[]") if is_shape(param) => "Shape::default()".to_string(),
        (Type::Plain(Kind::Ints), list) => format!("{}(vec!{list})", self::ty(param)),
        (Type::LengthAxes, list) => format!("Some(Ints(vec!{list}))"),
        (Type::Each(dimensions), number) => format!("Each([{number}; {dimensions}])"),
        (Type::Plain(Kind::Int | Kind::Size | Kind::Uint64), number) => format!("Int({number})"),
        (Type::Axis, axis) => format!("Some(Int({axis}))"),
        (Type::Scalar, number) => format!("Operand::Int({number})"),
        (Type::Plain(Kind::Float | Kind::Double), number) if !number.contains(['.', 'e']) => {
            format!("{number}.0")
        }
        (Type::Plain(Kind::Text | Kind::Norm), text) => text.replace('\'', "\""),
        (_, text) => text.into(),
    }
}

/// The signature in the notation of `PyO3` and, for `help`, of Python.
fn signatures(signature: &Signature) -> (String, String) {
    let mut rust = Vec::new();
    let mut python = Vec::new();
    for item in &signature.items {
        match item {
            Item::Mark(mark) => {
                rust.push((*mark).to_string());
                python.push((*mark).to_string());
            }
            Item::Stream => {
                rust.push("stream=None".into());
                python.push("stream=None".into());
            }
            Item::Param(param) => {
                let star = if param.variadic { "*" } else { "" };
                let (mut r, mut p) =
                    (format!("{star}{}", param.rust), format!("{star}{}", param.name));
                if let Some(text) = &param.default {
                    let _ = write!(r, "={}", default(param, text));
                    let dtype = param.ty == Type::Plain(Kind::Dtype);
                    let _ = write!(p, "={}", if dtype { "..." } else { text });
                }
                rust.push(r);
                python.push(p);
            }
        }
    }
    (rust.join(", "), python.join(", "))
}

/// The name of the Rust function. `PyO3` makes a module of that name too, and one named like the
/// standard library, or like the module that is imported for its operations, would hide it.
fn ident(op: &Op) -> String {
    match op.rust.as_str() {
        name @ ("std" | "fft") => format!("{name}_"),
        name => name.into(),
    }
}

fn function(group: &Group, op: &Op) -> Result<Option<String>> {
    let Some(signature) = Signature::of(op)?.filter(|_| !op.hand) else { return Ok(None) };
    let (rust, python) = signatures(&signature);
    let mut text = String::new();
    for line in docstring(op, 96) {
        let _ = writeln!(text, "{}", format!("/// {line}").trim_end());
    }
    let ident = ident(op);
    let name = if ident == op.python { String::new() } else { format!("name = {:?}, ", op.python) };
    let _ = write!(
        text,
        "#[pyfunction]\n#[pyo3({name}signature = ({rust}), text_signature = \"({})\")]\n",
        python.replace('"', "\\\"")
    );
    let mut params: Vec<String> =
        signature.params().map(|p| format!("{}: {}", p.rust, ty(p))).collect();
    if signature.stream() {
        params.push("stream: Option<&Bound<'_, PyAny>>".into());
    }
    if signature.params().any(|p| p.ty == Type::Key) {
        params.insert(0, "py: Python<'_>".into());
    }
    if params.len() > 7 {
        text += "#[allow(clippy::too_many_arguments)]\n";
    }
    if signature.params().any(|p| p.rust.contains(char::is_uppercase)) {
        text += "#[allow(non_snake_case)]\n";
    }
    let result = match signature::output(op) {
        Output::Nothing => "()",
        Output::Array => "Out",
        Output::Pair => "(Out, Out)",
        Output::Arrays => "Vec<Out>",
    };
    let _ = writeln!(text, "fn {ident}({}) -> PyResult<{result}> {{", params.join(", "));
    text += &prepare(op, &signature);
    let stream = if signature.stream() { "stream" } else { "None" };
    let wrapped = match signature::output(op) {
        Output::Nothing => "",
        Output::Array => ".map(Out)",
        Output::Pair => ".map(|(first, second)| (Out(first), Out(second)))",
        Output::Arrays => ".map(|arrays| arrays.into_iter().map(Out).collect())",
    };
    let mut call = call(group, op, &signature);
    if op.checks_more() {
        call = format!("unchecked(|| {call})");
    }
    let _ = write!(text, "run({stream}, || {call}){wrapped}\n}}\n\n");
    Ok(Some(text))
}

/// What is made of the arguments before the call. The key comes first: MLX advances its state even
/// if another argument is wrong.
fn prepare(op: &Op, signature: &Signature) -> String {
    let mut text = String::new();
    for param in signature.params().filter(|p| p.ty == Type::Key) {
        let _ = writeln!(text, "let {0} = next_key(py, {0})?;", param.rust);
    }
    let weak: Vec<&str> =
        signature.params().filter(|p| p.ty == Type::Weak).map(|p| p.rust.as_str()).collect();
    for param in signature.params() {
        let name = &param.rust;
        let line = match &param.ty {
            _ if param.variadic => format!("let {name} = inputs({name})?;"),
            Type::Scalar => format!("let {name} = {name}.array()?;"),
            Type::OptionalScalar => {
                format!("let {name} = {name}.map(Operand::array).transpose()?;")
            }
            Type::Plain(Kind::Norm) => format!("let {name} = parse_norm({name})?;"),
            Type::Length(spectrum) => {
                format!("let {name} = length({name}, &a, axis.0, Spectrum::{spectrum:?})?;")
            }
            Type::Lengths(spectrum) => format!(
                "let ({name}, axes) = lengths({:?}, {name}, axes, &a, Spectrum::{spectrum:?})?;",
                op.name
            ),
            Type::AllAxes => format!("let {name} = axes_or_all({name}, &a);"),
            Type::Weak if weak.first() == Some(&name.as_str()) => {
                let names = weak.join(", ");
                format!("let ({names}) = weak({names})?;")
            }
            _ => continue,
        };
        text += &line;
        text.push('\n');
    }
    text
}

/// The call of the Rust function, or of the one that the arguments choose.
fn call(group: &Group, op: &Op, signature: &Signature) -> String {
    let variant = |suffix: &str| {
        let function = op.functions.iter().find(|(found, _)| found == suffix);
        function.map(|(_, function)| one_call(group, op, suffix, function, signature))
    };
    let chooser = signature.params().find(|p| {
        matches!(p.ty, Type::Axis | Type::AxisOrAxes | Type::GivenAxes | Type::Axes | Type::Dtype)
    });
    let base = variant("").expect("an operation has a function");
    let Some(PyParam { rust: name, ty, .. }) = chooser else { return base };
    let arms = match ty {
        Type::Axis => {
            vec![("None", base), ("Some(Int(axis))", variant("_axis").unwrap_or_default())]
        }
        Type::AxisOrAxes => vec![
            ("None", base),
            ("Some(Axes::One(axis))", variant("_axis").unwrap_or_default()),
            ("Some(Axes::Many(ref axes))", variant("_axes").unwrap_or_default()),
        ],
        Type::GivenAxes => vec![
            ("Axes::One(axis)", base),
            ("Axes::Many(ref axes)", variant("_axes").unwrap_or_default()),
        ],
        Type::Axes => {
            vec![("None", base), ("Some(Ints(ref axes))", variant("_axes").unwrap_or_default())]
        }
        _ => vec![("None", base), ("Some(dtype)", variant("_dtype").unwrap_or_default())],
    };
    let arms: Vec<String> =
        arms.iter().map(|(pattern, call)| format!("{pattern} => {call},")).collect();
    format!("match {name} {{\n{}\n}}", arms.join("\n"))
}

fn one_call(
    group: &Group,
    op: &Op,
    suffix: &str,
    function: &Function,
    signature: &Signature,
) -> String {
    let positional = |param: &&Param| {
        op.options.as_ref().is_none_or(|options| options.feeding(&param.name).is_none())
    };
    let mut arguments: Vec<String> = function
        .params
        .iter()
        .filter(positional)
        .map(|param| argument(&param.name, signature))
        .collect();
    if let Some(options) = &op.options {
        let mut text = format!("&{}::{}::default()", group.module, options.name);
        for field in &options.fields {
            let value = match signature.feeding(&field.feeds[0]) {
                // A setter takes what an array may be made into, so nothing is dereferenced for it.
                Some(PyParam { rust, ty: Type::Scalar, .. }) => format!("&*{rust}"),
                _ => argument(&field.feeds[0], signature),
            };
            let _ = write!(text, ".{}({value})", field.name);
        }
        arguments.push(text);
    }
    format!("{}::{}{suffix}({})", group.module, op.rust, arguments.join(", "))
}

/// What is handed over for a parameter of a C function.
fn argument(param: &str, signature: &Signature) -> String {
    let Some(py) = signature.feeding(param) else { return param.into() };
    let name = &py.rust;
    match &py.ty {
        Type::Scalar
        | Type::Weak
        | Type::Lengths(_)
        | Type::LengthAxes
        | Type::AllAxes
        | Type::Plain(Kind::Array | Kind::Arrays | Kind::Int64s) => format!("&{name}"),
        Type::Key => format!("Some(&{name})"),
        Type::IntOrInts | Type::Plain(Kind::Ints) => format!("&{name}.0"),
        // The pattern that chose this function binds them.
        Type::Axis | Type::AxisOrAxes | Type::GivenAxes | Type::Axes => param.into(),
        Type::Dtype | Type::Each(_) | Type::Plain(Kind::Int | Kind::Size | Kind::Uint64) => {
            format!("{name}.0")
        }
        Type::OptionalScalar | Type::Plain(Kind::OptionalArray) => {
            format!("{name}.as_deref()")
        }
        Type::Plain(Kind::OptionalInt) => format!("{name}.map(|number| number.0)"),
        Type::Plain(Kind::OptionalInts) => {
            format!("{name}.as_ref().map(|list| &list.0[..])")
        }
        Type::Plain(Kind::Dtype) => match &py.default {
            Some(default) => {
                format!("{name}.map_or(Dtype::{}, |dtype| dtype.0)", capitalized(default))
            }
            None => format!("{name}.0"),
        },
        Type::Plain(Kind::OptionalDtype) => format!("{name}.map(|dtype| dtype.0)"),
        Type::Plain(_) | Type::ByHand(_) | Type::Length(_) => name.clone(),
    }
}

fn capitalized(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The lines of the docstring.
pub fn docstring(op: &Op, width: usize) -> Vec<String> {
    let mut lines = wrap(&op.doc, width);
    if let Some(shape) = &op.shape {
        lines.push(String::new());
        lines.extend(wrap(&format!("Shape: {}", lower_first(shape)), width));
    }
    if let Some(errors) = &op.errors {
        lines.push(String::new());
        lines.extend(wrap(&format!("Raises: {errors}"), width));
    }
    lines
}
