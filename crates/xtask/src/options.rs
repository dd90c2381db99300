//! The options of an operation with many optional arguments: a struct with a setter for each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::example;
use crate::header::{Function, Kind, Param};
use crate::rust::{documentation, wrap};
use crate::signature::{PyParam, Signature};
use crate::table::{Group, Op};

/// How many optional arguments a function takes one by one.
const POSITIONAL: usize = 3;

/// A struct as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    fields: Vec<String>,
    example: String,
}

/// A field as written.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldRow {
    name: Option<String>,
    ty: String,
    default: String,
    doc: String,
    c: Option<Vec<String>>,
    or: Option<String>,
}

/// An options struct.
pub struct Options {
    /// Its name.
    pub name: String,
    /// Its fields in order.
    pub fields: Vec<Field>,
    /// The setters that its doctest calls.
    example: String,
}

/// A field of an options struct.
pub struct Field {
    /// Its name, which is that of its setter.
    pub name: String,
    /// The parameters of the C function that are made of it.
    pub feeds: Vec<String>,
    /// Its type, without lifetimes.
    ty: String,
    default: String,
    doc: String,
    or: Option<String>,
}

/// Reads the tables of structs and of fields.
pub fn read(structs: toml::Value, fields: toml::Value) -> Result<BTreeMap<String, Rc<Options>>> {
    let structs: BTreeMap<String, Row> = structs.try_into().context("in [options]")?;
    let fields: BTreeMap<String, FieldRow> = fields.try_into().context("in [option]")?;
    let options = structs.into_iter().map(|(name, row)| {
        let fields = row
            .fields
            .iter()
            .map(|key| {
                let row = fields.get(key).with_context(|| format!("{name}: no [option] {key}"))?;
                Ok(Field::new(key, row.clone()))
            })
            .collect::<Result<_>>()?;
        Ok((name.clone(), Rc::new(Options { name, fields, example: row.example })))
    });
    options.collect()
}

/// Fails if a function of the operation takes too many optional arguments one by one, or if its
/// options are not those of the C function with the defaults of `mlx.core`.
pub fn check(op: &Op) -> Result<()> {
    let signature = Signature::of(op)?;
    for (_, function) in &op.functions {
        if let Some(options) = &op.options {
            for field in &options.fields {
                let given = |feed: &String| function.params.iter().any(|p| p.name == *feed);
                if let Some(feed) = field.feeds.iter().find(|feed| !given(feed)) {
                    bail!("{feed} of {} is no parameter of {}", options.name, function.name);
                }
                let default = signature.as_ref().and_then(|s| default(s, field));
                if let Some(default) = default.filter(|default| !field.defaults_to(default)) {
                    bail!("{} of {} is {default} in Python", field.name, options.name);
                }
            }
            continue;
        }
        let optional: Vec<&str> = signature.iter().flat_map(|s| optional(s, function)).collect();
        if optional.len() > POSITIONAL {
            bail!("{} needs `options` for {}", function.name, optional.join(", "));
        }
    }
    Ok(())
}

/// The default in Python of what a field is made of.
fn default<'a>(signature: &'a Signature, field: &Field) -> Option<&'a str> {
    let of_field = |p: &&PyParam| {
        p.feeds.contains(&field.feeds[0]) || p.feeds.is_empty() && p.name == field.name
    };
    signature.params().find(of_field)?.default.as_deref()
}

/// The parameters of a C function that have a default in Python.
fn optional<'a>(signature: &Signature, function: &'a Function) -> Vec<&'a str> {
    let made_of = |param: &str, name: &str| {
        param == name || param.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'))
    };
    let names = function.params.iter().map(|param| param.name.as_str());
    names
        .filter(|param| {
            signature.params().filter(|p| p.default.is_some()).any(|p| {
                // What is written by hand names no C parameters.
                if p.feeds.is_empty() {
                    made_of(param, &p.name)
                } else {
                    p.feeds.iter().any(|feed| feed == param)
                }
            })
        })
        .collect()
}

impl Options {
    /// The field that a parameter of a C function is made of.
    pub fn feeding(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.feeds.iter().any(|feed| feed == name))
    }

    /// The type of the last argument.
    pub fn argument(&self) -> String {
        let lifetime = if self.borrows() { "<'_>" } else { "" };
        format!("options: &{}{lifetime}", self.name)
    }

    /// What a function does first: it makes variables of the fields, named as the C parameters.
    pub fn unpacked(&self, params: &[Param]) -> String {
        let mut text = format!("let &{} {{ ", self.name);
        for Field { name, feeds, .. } in &self.fields {
            let _ = match &feeds[..] {
                [feed] if feed == name => write!(text, "{name}, "),
                [feed] => write!(text, "{name}: {feed}, "),
                feeds => write!(text, "{name}: [{}], ", feeds.join(", ")),
            };
        }
        text += "} = options;\n";
        for Field { feeds, or, .. } in &self.fields {
            let (Some(or), [name]) = (or, &feeds[..]) else { continue };
            let _ = if params.iter().any(|p| p.name == *name && p.kind == Kind::Array) {
                writeln!(
                    text,
                    "let {name} = match {name} {{\n\
                     Some({name}) => Cow::Borrowed({name}),\nNone => Cow::Owned({or}),\n}};"
                )
            } else {
                writeln!(text, "let {name} = {name}.unwrap_or_else(|| {or});")
            };
        }
        text
    }

    /// The struct with its setters, before rustfmt.
    pub fn item(&self, group: &Group) -> String {
        let users: Vec<String> = group
            .ops
            .iter()
            .filter(|op| op.options.as_ref().is_some_and(|options| options.name == self.name))
            .flat_map(|op| op.functions.iter().map(|(suffix, _)| format!("{}{suffix}", op.rust)))
            .map(|name| format!("[`{name}`]"))
            .collect();
        let users = match &users[..] {
            [users @ .., last] if !users.is_empty() => format!("{} and {last}", users.join(", ")),
            users => users.concat(),
        };
        let text =
            format!("The optional arguments of {users}; chained setters change the defaults.");
        let mut text = documentation(&text);
        let path = format!("{}::{}", group.module, self.name);
        let line = format!("let options = {path}::default(){};", self.example);
        text += &example::doctest(&path, &line, false);

        let name = &self.name;
        let derivable = self.fields.iter().all(Field::is_zero);
        let default = if derivable { ", Default" } else { "" };
        let (declared, used) = if self.borrows() { ("<'a>", "<'_>") } else { ("", "") };
        let _ = writeln!(
            text,
            "#[derive(Debug, Clone, Copy{default})]\n#[non_exhaustive]\npub struct {name}{declared} {{"
        );
        for field in &self.fields {
            let (name, ty) = (&field.name, field.owned());
            let _ = writeln!(text, "/// What [`{name}`](Self::{name}()) sets.\npub {name}: {ty},");
        }
        text += "}\n\n";
        if !derivable {
            let _ =
                write!(text, "impl Default for {name}{used} {{\nfn default() -> Self {{\nSelf {{");
            for field in &self.fields {
                let _ = write!(text, "{}: {}, ", field.name, field.default);
            }
            text += "}\n}\n}\n\n";
        }
        let _ = writeln!(text, "impl{declared} {name}{declared} {{");
        for field in &self.fields {
            text += &field.setter();
        }
        text + "}\n\n"
    }

    /// Whether a field is a reference.
    fn borrows(&self) -> bool {
        self.fields.iter().any(|field| field.ty.contains('&'))
    }
}

impl Field {
    fn new(key: &str, row: FieldRow) -> Self {
        let name = row.name.unwrap_or_else(|| key.to_string());
        let dimensions = row.ty.strip_prefix('[').and_then(|ty| ty.split_once("; "));
        let dimensions = dimensions.and_then(|(_, n)| n.strip_suffix(']')?.parse::<usize>().ok());
        let feeds = row.c.unwrap_or_else(|| match dimensions {
            Some(dimensions) => (0..dimensions).map(|i| format!("{name}_{i}")).collect(),
            None => vec![name.clone()],
        });
        Self { name, feeds, ty: row.ty, default: row.default, doc: row.doc, or: row.or }
    }

    /// Its type in a struct.
    fn owned(&self) -> String {
        self.ty.replace('&', "&'a ")
    }

    /// Whether the default, or each of its elements, is what it is in Python's notation. Where it
    /// is an array, `or` makes it.
    fn defaults_to(&self, python: &str) -> bool {
        let python = python.to_lowercase().replace('\'', "\"");
        let elements = self.default.split(|c| "[]&, ".contains(c)).filter(|text| !text.is_empty());
        let mut names =
            elements.map(|text| text.rsplit("::").next().unwrap_or(text).to_lowercase());
        self.or.is_some() || names.all(|name| name == python)
    }

    /// Whether the default is that of the type.
    fn is_zero(&self) -> bool {
        matches!(self.default.as_str(), "None" | "false" | "0" | "0.0" | "\"\"" | "[0, 0]")
    }

    fn setter(&self) -> String {
        let Self { name, default, doc, .. } = self;
        let text = match default.as_str() {
            "None" | "\"\"" => doc.clone(),
            default => format!("{doc} Default: `{default}`."),
        };
        let mut lines = String::new();
        for line in wrap(&text, 92) {
            let _ = writeln!(lines, "/// {line}");
        }
        let (ty, into) = match self.owned() {
            ty if ty.starts_with("Option<") => (format!("impl Into<{ty}>"), ".into()"),
            ty => (ty, ""),
        };
        format!(
            "{lines}#[must_use]\npub fn {name}(mut self, {name}: {ty}) -> Self {{\n\
             self.{name} = {name}{into};\nself\n}}\n\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(fields: &str) -> Result<Rc<Options>> {
        let structs = "Conv = { fields = ['stride', 'mask'], example = '.stride([2, 2])' }";
        let options =
            read(structs.parse::<toml::Table>()?.into(), fields.parse::<toml::Table>()?.into())?;
        Ok(options["Conv"].clone())
    }

    const FIELDS: &str = "
        stride = { ty = '[i32; 2]', default = '[1, 1]', doc = 'The steps.' }
        mask = { ty = 'Option<&Array>', default = 'None', doc = 'A mask.', c = ['mask_arr'] }";

    #[test]
    fn fields_become_the_parameters_of_the_c_function() -> Result<()> {
        let options = options(FIELDS)?;
        let unpacked = "let &Conv { stride: [stride_0, stride_1], mask: mask_arr, } = options;\n";
        assert_eq!(options.unpacked(&[]), unpacked);
        assert_eq!(options.argument(), "options: &Conv<'_>");
        assert_eq!(options.feeding("stride_1").map(|field| &*field.name), Some("stride"));
        Ok(())
    }

    #[test]
    fn a_missing_array_is_made_on_the_spot() -> Result<()> {
        let options = options(&FIELDS.replace("'A mask.', c", "'A mask.', or = 'zero()?', c"))?;
        let param = Param { name: "mask_arr".into(), kind: Kind::Array };
        let text = options.unpacked(&[param]);
        assert!(text.contains("None => Cow::Owned(zero()?)"), "{text}");
        Ok(())
    }

    #[test]
    fn a_default_must_be_that_of_python() -> Result<()> {
        let options = options(FIELDS)?;
        let [stride, mask] = &options.fields[..] else { bail!("two fields") };
        assert!(stride.defaults_to("1") && mask.defaults_to("None"));
        assert!(!stride.defaults_to("2") && !mask.defaults_to("0"));
        Ok(())
    }

    #[test]
    fn setters_of_what_may_be_missing_take_the_value_or_none() -> Result<()> {
        let options = options(FIELDS)?;
        let text = options.fields[1].setter();
        assert!(text.contains("pub fn mask(mut self, mask: impl Into<Option<&'a Array>>) -> Self"));
        assert!(options.fields[0].setter().contains("/// The steps. Default: `[1, 1]`."));
        Ok(())
    }
}
