//! The `PyO3` function of an operation.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result};

use crate::FIRST_LINE;
use crate::header::{Function, Kind, Output};
use crate::rust::{lower_first, wrap};
use crate::signature::{self, Item, PyParam, Signature, Type};
use crate::table::{Group, Op};

/// The text of a file of Python functions, before rustfmt.
pub fn file(group: &Group) -> Result<String> {
    let mut bodies = String::new();
    let mut names = Vec::new();
    for op in &group.ops {
        let function = function(group, op)
            .with_context(|| format!("[{}.{}] {}", group.module, group.file, op.name))?;
        if let Some(function) = function {
            bodies += &function;
            names.push(ident(op));
        }
    }
    let uses =
        |name: &str| bodies.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == name);
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
    let arguments: BTreeSet<&str> =
        ["Axes", "DtypeArg", "Ints", "inputs", "run"].into_iter().filter(|n| uses(n)).collect();
    let scalars: BTreeSet<&str> = ["Operand", "weak"].into_iter().filter(|n| uses(n)).collect();
    let bridge: BTreeSet<&str> = ["In", "Out"].into_iter().filter(|n| uses(n)).collect();
    for (module, names) in
        [("super::arguments", arguments), ("super::scalars", scalars), ("crate::bridge", bridge)]
    {
        if !names.is_empty() {
            let names: Vec<&str> = names.into_iter().collect();
            let _ = writeln!(text, "use {module}::{{{}}};", names.join(", "));
        }
    }
    let _ = write!(
        text,
        "\n/// Adds the functions of this file to a Python module.\n\
         pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {{\n"
    );
    for name in names {
        let _ = writeln!(text, "module.add_function(wrap_pyfunction!({name}, module)?)?;");
    }
    let _ = write!(text, "Ok(())\n}}\n\n{bodies}");
    Ok(text)
}

/// The type of an argument.
fn ty(param: &PyParam) -> &'static str {
    match &param.ty {
        _ if param.variadic => "&Bound<'_, PyTuple>",
        Type::Scalar | Type::Weak => "Operand<'_>",
        Type::OptionalScalar => "Option<Operand<'_>>",
        Type::IntOrInts => "Ints",
        Type::Axis => "Option<i32>",
        Type::AxisOrAxes => "Option<Axes>",
        Type::GivenAxes => "Axes",
        Type::Axes => "Option<Vec<i32>>",
        Type::Dtype => "Option<DtypeArg>",
        Type::ByHand(_) => unreachable!("no function is generated"),
        Type::Plain(kind) => match kind {
            Kind::Array => "In",
            Kind::OptionalArray => "Option<In>",
            Kind::Arrays => "Vec<In>",
            Kind::Int => "i32",
            Kind::Size => "usize",
            Kind::Uint64 => "u64",
            Kind::Bool => "bool",
            Kind::Float => "f32",
            Kind::Double => "f64",
            Kind::Ints => "Vec<i32>",
            Kind::Int64s => "Vec<i64>",
            Kind::OptionalInt => "Option<i32>",
            Kind::OptionalFloat => "Option<f32>",
            Kind::Dtype if param.default.is_some() => "Option<DtypeArg>",
            Kind::Dtype => "DtypeArg",
            Kind::OptionalDtype => "Option<DtypeArg>",
            Kind::Text => "&str",
        },
    }
}

/// A default in Rust's notation.
fn default(param: &PyParam, text: &str) -> String {
    match (&param.ty, text) {
        (_, "None") | (Type::Plain(Kind::Dtype), _) => "None".into(),
        (_, "True") => "true".into(),
        (_, "False") => "false".into(),
        (Type::Plain(Kind::Ints), "[]") => "vec![]".into(),
        (Type::Axis, axis) => format!("Some({axis})"),
        (Type::Scalar, number) => format!("Operand::Int({number})"),
        (Type::Plain(Kind::Float | Kind::Double), number) if !number.contains(['.', 'e']) => {
            format!("{number}.0")
        }
        (Type::Plain(Kind::Text), text) => text.replace('\'', "\""),
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
/// standard library would hide it.
fn ident(op: &Op) -> String {
    if op.rust == "std" { "std_".into() } else { op.rust.clone() }
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
    if params.len() > 7 {
        text += "#[allow(clippy::too_many_arguments)]\n";
    }
    let result = match signature::output(op) {
        Output::Nothing => "()",
        Output::Array => "Out",
        Output::Pair => "(Out, Out)",
        Output::Arrays => "Vec<Out>",
    };
    let _ = writeln!(text, "fn {ident}({}) -> PyResult<{result}> {{", params.join(", "));
    text += &prepare(&signature);
    let stream = if signature.stream() { "stream" } else { "None" };
    let wrapped = match signature::output(op) {
        Output::Nothing => "",
        Output::Array => ".map(Out)",
        Output::Pair => ".map(|(first, second)| (Out(first), Out(second)))",
        Output::Arrays => ".map(|arrays| arrays.into_iter().map(Out).collect())",
    };
    let _ = write!(text, "run({stream}, || {}){wrapped}\n}}\n\n", call(group, op, &signature));
    Ok(Some(text))
}

/// What is made of the arguments before the call.
fn prepare(signature: &Signature) -> String {
    let mut text = String::new();
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
        Type::Axis => vec![("None", base), ("Some(axis)", variant("_axis").unwrap_or_default())],
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
            vec![("None", base), ("Some(ref axes)", variant("_axes").unwrap_or_default())]
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
    let widest = signature::widest(op);
    let arguments: Vec<String> = function
        .params
        .iter()
        .map(|param| {
            let same = |name: &str| match name {
                "axes" => "axis".to_string(),
                name => name.to_string(),
            };
            let at = widest.params.iter().position(|p| same(&p.name) == same(&param.name));
            let py = at.and_then(|at| signature.params().nth(at));
            let Some(py) = py else { return param.name.clone() };
            let name = &py.rust;
            match &py.ty {
                Type::Scalar | Type::Weak => format!("&{name}"),
                Type::OptionalScalar => format!("{name}.as_ref()"),
                Type::IntOrInts => format!("&{name}.0"),
                // The pattern that chose this function binds them.
                Type::Axis | Type::AxisOrAxes | Type::GivenAxes | Type::Axes => param.name.clone(),
                Type::Dtype => format!("{name}.0"),
                Type::Plain(Kind::Array | Kind::Arrays | Kind::Ints | Kind::Int64s) => {
                    format!("&{name}")
                }
                Type::Plain(Kind::OptionalArray) => format!("{name}.as_deref()"),
                Type::Plain(Kind::Dtype) => match &py.default {
                    Some(default) => {
                        format!("{name}.map_or(Dtype::{}, |dtype| dtype.0)", capitalized(default))
                    }
                    None => format!("{name}.0"),
                },
                Type::Plain(Kind::OptionalDtype) => format!("{name}.map(|dtype| dtype.0)"),
                Type::Plain(_) | Type::ByHand(_) => name.clone(),
            }
        })
        .collect();
    format!("{}::{}{suffix}({})", group.module, op.rust, arguments.join(", "))
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
