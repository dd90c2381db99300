//! `cargo xtask coverage`: every function of the C API and every name of `mlx.core`, with the Rust
//! and the Python path that reach it and the test that exercises it.

mod crate_graph;
mod exercise;
mod functions;
mod places;
mod python;
mod report;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::signature;
use crate::table::{Group, Op, Table};
use crate_graph::{Crate, Public};
use exercise::Test;
use python::Python;

pub use places::check;

/// A C function that more public items reach than this stands behind all of them, as the one for the
/// default stream does, and says nothing of a single name of `mlx.core`.
const SHARED: usize = 10;

/// A name and what covers it.
struct Row {
    /// The name in C or in `mlx.core`.
    name: String,
    /// The C functions behind a name of `mlx.core`.
    c: Vec<String>,
    /// The public Rust items.
    rust: Vec<String>,
    /// The names in `mlx_graft.core`.
    python: Vec<String>,
    /// A test that exercises it.
    test: Option<String>,
    /// Why it is not wrapped.
    skip: Option<String>,
}

/// All names.
pub struct Coverage {
    /// The functions of the C API, by header.
    c: Vec<(String, Vec<Row>)>,
    /// The names of `mlx.core`, by module.
    mlx: Vec<(String, Vec<Row>)>,
}

impl Coverage {
    /// Finds out, from the sources and the installed `mlx.core`.
    pub fn find(root: &Path, mlx_c: &Path, declarations: &str, table: &Table) -> Result<Self> {
        let headers = by_header(root, mlx_c, declarations)?;
        let rust = Crate::read(root)?;
        let tests = exercise::tests(root, &rust.sources)?;
        let python = Python::read(root)?;
        let finder = Finder { rust, tests, python, ops: ops(table), skip: skips(table) };
        let c: Vec<(String, Vec<Row>)> = headers
            .iter()
            .map(|(header, names)| {
                (header.clone(), names.iter().map(|name| finder.c(name)).collect())
            })
            .collect();
        let rows: Vec<&Row> = c.iter().flat_map(|(_, rows)| rows).collect();
        let mut mlx: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for name in finder.python.mlx.keys() {
            let module = name.rsplit_once('.').map_or("core", |(module, _)| module);
            mlx.entry(module.to_string()).or_default().push(finder.mlx(name, &rows));
        }
        Ok(Self { c, mlx: mlx.into_iter().collect() })
    }

    /// The text of `docs/coverage.md`.
    pub fn document(&self) -> String {
        report::document(self)
    }

    /// Prints the table; a failure if `check` is asked for and something is missing.
    pub fn print(&self, check: bool) -> ExitCode {
        print!("{}", if check { report::totals(self) } else { report::plain(self) });
        let missing = report::missing(self);
        if !check || missing.is_empty() {
            return ExitCode::SUCCESS;
        }
        for line in &missing {
            eprintln!("{line}");
        }
        eprintln!("{} names are not covered", missing.len());
        ExitCode::FAILURE
    }
}

/// The declared functions by header, in the order of the headers.
fn by_header(root: &Path, mlx_c: &Path, declarations: &str) -> Result<Vec<(String, Vec<String>)>> {
    let mut rest = places::declared(declarations)?;
    let mut found = Vec::new();
    for folder in [mlx_c.join("mlx/c"), root.join("mlx-c/ext")] {
        for path in crate::bindings::headers(&folder)? {
            let text = std::fs::read_to_string(&path)?;
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            let words: BTreeSet<&str> = text.split(|c| !is_name(c)).collect();
            let (here, other) = rest.into_iter().partition(|name| words.contains(name.as_str()));
            rest = other;
            let here: BTreeSet<String> = here;
            let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
            if !here.is_empty() {
                found.push((name, here.into_iter().collect()));
            }
        }
    }
    Ok(found)
}

/// A generated function.
struct Generated<'a> {
    group: &'a Group,
    op: &'a Op,
    suffix: &'a str,
}

impl Generated<'_> {
    /// The name in `mlx_graft.core`.
    fn python(&self) -> String {
        match self.group.module {
            "ops" => self.op.python.clone(),
            module => format!("{module}.{}", self.op.python),
        }
    }
}

/// The rows of the table by C function.
fn ops(table: &Table) -> BTreeMap<&str, Generated<'_>> {
    let mut ops = BTreeMap::new();
    for group in &table.groups {
        for op in &group.ops {
            for (suffix, function) in &op.functions {
                ops.insert(function.name.as_str(), Generated { group, op, suffix });
            }
        }
    }
    ops
}

/// Why a C function is not wrapped.
fn skips(table: &Table) -> BTreeMap<&str, &str> {
    let entries = table.skip.iter();
    entries
        .flat_map(|(reason, names)| names.iter().map(|name| (name.as_str(), reason.as_str())))
        .collect()
}

struct Finder<'a> {
    rust: Crate,
    tests: Vec<Test>,
    python: Python,
    ops: BTreeMap<&'a str, Generated<'a>>,
    skip: BTreeMap<&'a str, &'a str>,
}

impl Finder<'_> {
    fn c(&self, name: &str) -> Row {
        let mut row = Row {
            name: name.to_string(),
            c: Vec::new(),
            rust: Vec::new(),
            python: Vec::new(),
            test: None,
            skip: self.skip.get(name).map(ToString::to_string),
        };
        if row.skip.is_some() {
            return row;
        }
        let reached = self.rust.reaching(name);
        row.rust = reached.iter().map(|public| public.path.clone()).collect();
        let mut python = self.python.reaching(&reached);
        let generated = self.ops.get(name).filter(|found| found.op.signature.is_some());
        if let Some(found) = generated {
            let path = found.python();
            if found.op.hand || exercises(found.op, found.suffix) {
                row.test = Some(format!("tests/parity/test_ops.py[{path}]"));
            }
            python = BTreeSet::from([path]);
        }
        row.test = row.test.or_else(|| self.test(&reached, &python));
        row.python = python.into_iter().collect();
        row
    }

    /// A test that uses one of the items: of Rust, or else of Python.
    fn test(&self, reached: &BTreeSet<Public>, python: &BTreeSet<String>) -> Option<String> {
        let rust = |items: &BTreeSet<Public>| {
            let test = self.tests.iter().find(|test| items.iter().any(|item| test.uses(item)));
            test.map(|test| test.name.clone())
        };
        // A trait that a macro implements is exercised where a function that asks for it is.
        let users: BTreeSet<Public> = reached
            .iter()
            .filter_map(|public| public.of_type.as_ref())
            .flat_map(|name| self.rust.users_of_type(name))
            .collect();
        rust(reached)
            .or_else(|| python.iter().find_map(|name| self.python.test(name)))
            .or_else(|| self.parity(python))
            .or_else(|| rust(&users))
    }

    /// The generated cases of a Python function, or of one in a Python module.
    fn parity(&self, python: &BTreeSet<String>) -> Option<String> {
        let rows = self.ops.values().filter(|found| found.op.signature.is_some());
        let mut names = rows.map(Generated::python);
        let name = names.find(|name| {
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            python.contains(name) || python.contains(module)
        })?;
        Some(format!("tests/parity/test_ops.py[{name}]"))
    }

    fn mlx(&self, name: &str, c: &[&Row]) -> Row {
        let behind: Vec<&&Row> = c
            .iter()
            .filter(|row| row.rust.len() <= SHARED && row.python.iter().any(|path| path == name))
            .collect();
        let mut rust: Vec<String> = behind.iter().flat_map(|row| row.rust.clone()).collect();
        if rust.is_empty() {
            rust = self.python.rust_of(name, &self.rust);
        }
        let found = self.python.core.contains(name);
        let names = BTreeSet::from([name.to_string()]);
        Row {
            name: name.to_string(),
            c: behind.iter().map(|row| row.name.clone()).collect(),
            rust,
            python: found.then(|| name.to_string()).into_iter().collect(),
            test: self.parity(&names).or_else(|| self.python.test(name)),
            skip: None,
        }
    }
}

/// Whether a case of the parity test calls the function with this suffix: one for an axis needs a
/// case that gives an axis.
fn exercises(op: &Op, suffix: &str) -> bool {
    let Ok(Some(signature)) = signature::Signature::of(op) else { return false };
    let Some(keyword) = suffix.strip_prefix('_').filter(|_| op.functions.len() > 1) else {
        return true;
    };
    let names = ["axis", "axes", "dtype"];
    let at = signature.params().position(|param| names.contains(&param.name.as_str()));
    let by_default = signature.params().any(|param| {
        names.contains(&param.name.as_str()) && param.default.as_deref() != Some("None")
    });
    op.cases.iter().any(|case| {
        by_default
            || case.contains("axis=")
            || case.contains(&format!("{keyword}="))
            || at.is_some_and(|at| arguments(case) > at)
    })
}

/// The number of arguments of a case.
fn arguments(case: &str) -> usize {
    let mut depth = 0;
    1 + case
        .chars()
        .filter(|c| {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                _ => {}
            }
            *c == ',' && depth == 0
        })
        .count()
}
