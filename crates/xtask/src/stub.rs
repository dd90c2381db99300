//! The type stub of a Python module of operations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::FIRST_LINE;
use crate::header::{Kind, Output};
use crate::pyo3::docstring;
use crate::signature::{self, Item, PyParam, Signature, Type};
use crate::table::{MODULES, Op, Table};

/// Stubs, and what they import: names by module.
#[derive(Default)]
pub struct Stubs {
    text: String,
    imports: BTreeMap<String, BTreeSet<String>>,
}

impl Stubs {
    /// The handwritten stubs of a folder, in the order of the file names.
    pub fn handwritten(folder: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read {}", folder.display());
        let mut paths = std::fs::read_dir(folder)
            .with_context(unreadable)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()
            .with_context(unreadable)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "pyi"));
        paths.sort();
        let mut stubs = Self::default();
        for path in paths {
            let stub = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            stubs.add(&stub).with_context(|| format!("in {}", path.display()))?;
        }
        Ok(stubs)
    }

    fn add(&mut self, stub: &str) -> Result<()> {
        let mut body = Vec::new();
        for line in stub.lines() {
            if line.starts_with("import ") {
                bail!("only `from … import …` on one line is understood, not `{line}`");
            }
            let import = line.strip_prefix("from ").and_then(|line| line.split_once(" import "));
            match import {
                Some((module, names)) => {
                    self.import(module, &names.split(", ").collect::<Vec<_>>());
                }
                None => body.push(line),
            }
        }
        let body = body.join("\n");
        if !body.trim().is_empty() {
            let _ = writeln!(self.text, "\n{}", body.trim());
        }
        Ok(())
    }

    fn import(&mut self, module: &str, names: &[&str]) {
        let imported = self.imports.entry(module.to_string()).or_default();
        imported.extend(names.iter().map(ToString::to_string));
    }

    /// The import lines: the standard library, then MLX, then this package.
    fn imports(&self) -> String {
        let section = |module: &str| match module.split('.').next() {
            Some("mlx") => 1,
            Some("mlx_graft") => 2,
            _ => 0,
        };
        let sections = (0..3).map(|number| {
            let mut lines = String::new();
            for (module, names) in self.imports.iter().filter(|(m, _)| section(m) == number) {
                let (renamed, names): (Vec<&str>, Vec<&str>) =
                    names.iter().map(String::as_str).partition(|name| name.contains(" as "));
                for name in renamed {
                    let _ = writeln!(lines, "from {module} import {name}");
                }
                if names.is_empty() {
                    continue;
                }
                let line = format!("from {module} import {}", names.join(", "));
                if line.len() > 100 {
                    let _ = writeln!(lines, "from {module} import (");
                    for name in &names {
                        let _ = writeln!(lines, "    {name},");
                    }
                    lines += ")\n";
                } else {
                    lines += &line;
                    lines.push('\n');
                }
            }
            lines
        });
        sections.filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
    }
}

/// The stub of a module: its operations, and what is written by hand for it.
pub fn file(table: &Table, module: &str, mut stubs: Stubs) -> Result<String> {
    let mut functions = String::new();
    for op in table.groups.iter().filter(|group| group.module == module).flat_map(|g| &g.ops) {
        functions += &function(op)?;
    }
    functions += &stubs.text;
    if functions.contains("Sequence[") {
        stubs.import("collections.abc", &["Sequence"]);
    }
    stubs.import("typing", &["TypeAlias"]);
    stubs.import("mlx.core", &["Device", "DeviceType", "Stream", "ThreadLocalStream", "array"]);
    if functions.contains("Dtype") {
        stubs.import("mlx.core", &["Dtype"]);
    }
    if module == "ops" {
        let operations = MODULES.iter().skip(1).map(|(module, _)| *module);
        for module in operations.chain(["cuda", "distributed", "metal"]) {
            stubs.import("mlx_graft.core", &[&format!("{module} as {module}")]);
        }
    }
    let mut text = format!("# {FIRST_LINE} crates/mlx-graft/ops.toml\n\n{}", stubs.imports());
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
    let result = match (&op.returns, signature::output(op)) {
        (Some(returns), _) => returns,
        (None, Output::Nothing) => "None",
        (None, Output::Array) => "array",
        (None, Output::Pair) => "tuple[array, array]",
        (None, Output::Arrays) => "list[array]",
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
    for alias in &op.aliases {
        let _ = writeln!(text, "\n{alias} = {}", op.python);
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
        Type::Each(2) => "int | tuple[int, int]",
        Type::Each(_) => "int | tuple[int, int, int]",
        Type::Key => "array | None",
        Type::Axis | Type::Length(_) => "int | None",
        Type::AxisOrAxes | Type::AllAxes => "int | Sequence[int] | None",
        Type::Axes | Type::Lengths(_) | Type::LengthAxes => "Sequence[int] | None",
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
            Kind::OptionalInts => "Sequence[int] | None",
            Kind::OptionalInt => "int | None",
            Kind::OptionalFloat => "float | None",
            Kind::Dtype if param.default.is_none() => "Dtype",
            Kind::Dtype | Kind::OptionalDtype => "Dtype | None",
            Kind::Text | Kind::Norm => "str",
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
