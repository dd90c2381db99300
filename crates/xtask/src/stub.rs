//! The type stub of a Python module of operations.

use std::fmt::Write;

use anyhow::Result;

use crate::FIRST_LINE;
use crate::header::{Kind, Output};
use crate::pyo3::docstring;
use crate::signature::{self, Item, PyParam, Signature, Type};
use crate::table::{Op, Table};

/// The stub of the operations of a module.
pub fn file(table: &Table, module: &str) -> Result<String> {
    let mut text = format!("# {FIRST_LINE} crates/mlx-graft/ops.toml\n\n");
    let mut functions = String::new();
    for op in table.groups.iter().filter(|group| group.module == module).flat_map(|g| &g.ops) {
        functions += &function(op)?;
    }
    if functions.contains("Sequence[") {
        text += "from collections.abc import Sequence\n";
    }
    let dtype = if functions.contains("Dtype") { "Dtype, " } else { "" };
    let _ = write!(
        text,
        "from typing import TypeAlias\n\n\
         from mlx.core import Device, DeviceType, {dtype}Stream, ThreadLocalStream, array\n"
    );
    if module == "ops" {
        text.push('\n');
        for module in ["fast", "random"] {
            let _ = writeln!(text, "from mlx_graft.core import {module} as {module}");
        }
    }
    if functions.contains("_Scalar") {
        text += "\n_Scalar: TypeAlias = bool | int | float | complex";
    }
    text +=
        "\n_StreamOrDevice: TypeAlias = Stream | ThreadLocalStream | Device | DeviceType | None\n";
    text += &functions;
    Ok(text)
}

fn function(op: &Op) -> Result<String> {
    let Some(signature) = Signature::of(op)? else { return Ok(String::new()) };
    let items: Vec<String> = signature
        .items
        .iter()
        .map(|item| match item {
            Item::Mark(mark) => (*mark).to_string(),
            Item::Stream => "stream: _StreamOrDevice = None".into(),
            Item::Param(param) => self::param(param),
        })
        .collect();
    let result = match signature::output(op) {
        Output::Nothing => "None",
        Output::Array => "array",
        Output::Pair => "tuple[array, array]",
        Output::Arrays => "list[array]",
    };
    let mut text = format!("\ndef {}(", op.python);
    let line = items.join(", ");
    if text.len() + line.len() + result.len() + 6 > 100 {
        let _ = write!(text, "\n    {},\n", items.join(",\n    "));
    } else {
        text += &line;
    }
    let _ = writeln!(text, ") -> {result}:");
    let lines = docstring(op, 90);
    if let [line] = &lines[..] {
        let _ = writeln!(text, "    \"\"\"{line}\"\"\"");
    } else {
        for (index, line) in lines.iter().enumerate() {
            let quotes = if index == 0 { "\"\"\"" } else { "" };
            let _ = writeln!(text, "{}", format!("    {quotes}{line}").trim_end());
        }
        text += "    \"\"\"\n";
    }
    Ok(text)
}

fn param(param: &PyParam) -> String {
    let star = if param.variadic { "*" } else { "" };
    let ty = match &param.ty {
        _ if param.variadic => "array",
        Type::Scalar | Type::Weak => "_Scalar | array",
        Type::OptionalScalar => "_Scalar | array | None",
        Type::IntOrInts | Type::GivenAxes => "int | Sequence[int]",
        Type::Axis => "int | None",
        Type::AxisOrAxes => "int | Sequence[int] | None",
        Type::Axes => "Sequence[int] | None",
        Type::Dtype => "Dtype | None",
        Type::ByHand(annotation) => annotation,
        Type::Plain(kind) => match kind {
            Kind::Array => "array",
            Kind::OptionalArray => "array | None",
            Kind::Arrays => "Sequence[array]",
            Kind::Int | Kind::Size | Kind::Uint64 => "int",
            Kind::Bool => "bool",
            Kind::Float | Kind::Double => "float",
            Kind::Ints | Kind::Int64s => "Sequence[int]",
            Kind::OptionalInt => "int | None",
            Kind::OptionalFloat => "float | None",
            Kind::Dtype if param.default.is_none() => "Dtype",
            Kind::Dtype | Kind::OptionalDtype => "Dtype | None",
            Kind::Text => "str",
        },
    };
    let default = match (&param.default, &param.ty) {
        (None, _) => String::new(),
        (Some(_), Type::Plain(Kind::Dtype)) => " = ...".into(),
        (Some(text), Type::ByHand(_)) if text == "float32" => " = ...".into(),
        (Some(text), _) => format!(" = {}", text.replace('\'', "\"")),
    };
    format!("{star}{}: {ty}{default}", param.name)
}
