//! The table of operations, `ops.toml`. Its head explains the keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::header::{Function, Headers};
use crate::options::{self, Options};

/// The modules of `mlx-graft` that operations are generated into, with their prefix in C.
pub const MODULES: [(&str, &str); 5] = [
    ("ops", "mlx_"),
    ("fast", "mlx_fast_"),
    ("fft", "mlx_fft_"),
    ("linalg", "mlx_linalg_"),
    ("random", "mlx_random_"),
];

/// A row as written.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    like: Option<String>,
    doc: Option<String>,
    shape: Option<String>,
    errors: Option<String>,
    #[serde(rename = "unsafe")]
    safety: Option<String>,
    check: Option<Vec<String>>,
    then: Option<Vec<String>>,
    c: Option<String>,
    rust: Option<String>,
    variants: Option<Vec<String>>,
    py: Option<TextOrFalse>,
    python: Option<String>,
    options: Option<TextOrFalse>,
    aliases: Option<Vec<String>>,
    returns: Option<String>,
    example: Option<Examples>,
    hand: Option<bool>,
    cases: Option<Vec<String>>,
    bad: Option<Vec<String>>,
    gpu: Option<bool>,
    grad: Option<bool>,
}

/// A Python signature or the name of a struct, or `false`.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum TextOrFalse {
    Text(String),
    Absent(bool),
}

/// The example of a function, or those of a function and its variants.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Examples {
    One(String),
    Many(Vec<String>),
}

impl Row {
    /// Takes from `base` what this row does not say.
    fn or(self, base: Self) -> Self {
        Self {
            like: base.like,
            doc: self.doc.or(base.doc),
            shape: self.shape.or(base.shape),
            errors: self.errors.or(base.errors),
            safety: self.safety.or(base.safety),
            check: self.check.or(base.check),
            then: self.then.or(base.then),
            c: self.c.or(base.c),
            rust: self.rust.or(base.rust),
            variants: self.variants.or(base.variants),
            py: self.py.or(base.py),
            python: self.python.or(base.python),
            options: self.options.or(base.options),
            aliases: self.aliases.or(base.aliases),
            returns: self.returns.or(base.returns),
            example: self.example.or(base.example),
            hand: self.hand.or(base.hand),
            cases: self.cases.or(base.cases),
            bad: self.bad.or(base.bad),
            gpu: self.gpu.or(base.gpu),
            grad: self.grad.or(base.grad),
        }
    }
}

/// What the rows refer to.
struct Sources<'a> {
    like: BTreeMap<String, Row>,
    options: BTreeMap<String, Rc<Options>>,
    headers: &'a Headers,
}

/// One operation.
pub struct Op {
    /// Its name.
    pub name: String,
    /// The name of its Rust function.
    pub rust: String,
    /// The name of its Python function.
    pub python: String,
    /// What it does, in one sentence.
    pub doc: String,
    /// The rule of the result's shape.
    pub shape: Option<String>,
    /// When it fails.
    pub errors: Option<String>,
    /// What its caller must see to.
    pub safety: Option<String>,
    /// What checks the arguments, for each C function.
    pub check: Vec<String>,
    /// What is done with the result, for each C function.
    pub then: Vec<String>,
    /// The C function, then its variants with their suffixes.
    pub functions: Vec<(String, Function)>,
    /// The Python signature without the stream.
    pub signature: Option<String>,
    /// The options that its Rust functions take.
    pub options: Option<Rc<Options>>,
    /// Further names of the Python function.
    pub aliases: Vec<String>,
    /// What the Python function returns, if the C type does not say it.
    pub returns: Option<String>,
    /// The examples of the Rust function and its variants.
    pub examples: Vec<String>,
    /// Whether the Python function is written by hand.
    pub hand: bool,
    /// Arguments of the parity test.
    pub cases: Vec<String>,
    /// Arguments that fail.
    pub bad: Vec<String>,
    /// Whether it runs on GPUs only.
    pub gpu: bool,
    /// Whether the gradient is compared.
    pub grad: bool,
}

/// The operations of one generated file.
pub struct Group {
    /// The module, for example `ops`.
    pub module: &'static str,
    /// The file, for example `arithmetic`.
    pub file: String,
    /// Its operations in the order of the table.
    pub ops: Vec<Op>,
}

/// The whole table.
pub struct Table {
    /// The operations by file.
    pub groups: Vec<Group>,
    /// C functions by the file that calls them.
    pub handwritten: BTreeMap<String, Vec<String>>,
    /// C functions by the reason why they are not wrapped.
    pub skip: BTreeMap<String, Vec<String>>,
    /// C functions by the reason why they are not wrapped yet.
    pub pending: BTreeMap<String, Vec<String>>,
}

impl Table {
    /// Reads the table.
    pub fn read(path: &Path, headers: &Headers) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut table: toml::Table =
            text.parse().with_context(|| format!("in {}", path.display()))?;
        let mut take = |key: &str| {
            table.remove(key).with_context(|| format!("{}: no [{key}]", path.display()))
        };
        let sources = Sources {
            like: take("like")?.try_into()?,
            options: options::read(take("options")?, take("option")?)?,
            headers,
        };
        let handwritten = take("handwritten")?.try_into()?;
        let skip = take("skip")?.try_into()?;
        let pending = take("pending")?.try_into()?;
        let mut groups = Vec::new();
        for (module, prefix) in MODULES {
            let toml::Value::Table(files) = take(module)? else {
                bail!("[{module}] is no table");
            };
            for (file, rows) in files {
                let toml::Value::Table(rows) = rows else { bail!("[{module}.{file}] is no table") };
                let ops = rows
                    .into_iter()
                    .map(|(name, row)| {
                        Op::new(&name, prefix, row.try_into()?, &sources)
                            .with_context(|| format!("[{module}.{file}] {name}"))
                    })
                    .collect::<Result<_>>()?;
                groups.push(Group { module, file, ops });
            }
        }
        if let Some(key) = table.keys().next() {
            bail!("{}: unknown table [{key}]", path.display());
        }
        Ok(Self { groups, handwritten, skip, pending })
    }

    /// All operations.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.groups.iter().flat_map(|group| &group.ops)
    }
}

impl Op {
    /// Whether the operation takes indices, which the Rust function checks.
    pub fn checks_indices(&self) -> bool {
        self.own_checks().any(|text| !text.contains("check::triangle"))
    }

    /// Whether the Rust function makes checks that the Python function leaves out, as `mlx.core`
    /// does.
    pub fn checks_more(&self) -> bool {
        self.own_checks().next().is_some()
    }

    fn own_checks(&self) -> impl Iterator<Item = &str> {
        let statements = self.check.iter().flat_map(|check| check.split(';'));
        statements.filter(|text| text.contains("check::") && !text.contains("check::steps"))
    }

    fn new(
        name: &str,
        prefix: &str,
        mut row: Row,
        Sources { like, options, headers }: &Sources<'_>,
    ) -> Result<Self> {
        while let Some(base) = row.like.take() {
            let base = like.get(&base).with_context(|| format!("no [like.{base}]"))?;
            row = row.or(base.clone());
        }
        let c = row.c.unwrap_or_else(|| format!("{prefix}{name}"));
        let mut functions = vec![(String::new(), headers.function(&c)?)];
        for suffix in row.variants.unwrap_or_default() {
            functions.push((suffix.clone(), headers.function(&format!("{c}{suffix}"))?));
        }
        let signature = match row.py {
            Some(TextOrFalse::Text(text)) => Some(text),
            Some(TextOrFalse::Absent(false)) => None,
            _ => bail!("`py` must be the Python signature, or false"),
        };
        let options = match &row.options {
            Some(TextOrFalse::Text(name)) => {
                Some(options.get(name).with_context(|| format!("no [options] {name}"))?)
            }
            _ => None,
        };
        let check = row.check.unwrap_or_default();
        let then = row.then.unwrap_or_default();
        for (key, texts) in [("check", &check), ("then", &then)] {
            if !texts.is_empty() && texts.len() != functions.len() {
                bail!("`{key}` needs a text for each of {} functions", functions.len());
            }
        }
        let examples = match row.example {
            Some(Examples::One(example)) => vec![example],
            Some(Examples::Many(examples)) => examples,
            None => bail!("no `example`"),
        };
        if examples.len() != functions.len() {
            bail!("{} examples for {} functions", examples.len(), functions.len());
        }
        let cases = row.cases.unwrap_or_default();
        if signature.is_some() && cases.is_empty() {
            bail!("a Python function needs `cases`");
        }
        let op = Self {
            name: name.to_string(),
            rust: row.rust.unwrap_or_else(|| name.to_string()),
            python: row.python.unwrap_or_else(|| name.to_string()),
            doc: row.doc.context("no `doc`")?,
            shape: row.shape,
            errors: row.errors,
            safety: row.safety,
            check,
            then,
            functions,
            signature,
            options: options.cloned(),
            aliases: row.aliases.unwrap_or_default(),
            returns: row.returns,
            examples,
            hand: row.hand.unwrap_or(false),
            cases,
            bad: row.bad.unwrap_or_default(),
            gpu: row.gpu.unwrap_or(false),
            grad: row.grad.unwrap_or(true),
        };
        if !matches!(row.options, Some(TextOrFalse::Absent(_))) {
            options::check(&op)?;
        }
        Ok(op)
    }
}
