//! What `mlx.core` has, what `mlx_graft.core` has, and the Python tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::crate_graph::{Crate, Public};
use super::functions::{Function, Source, read};
use super::words::Scope;
use crate::libclang::interpreters;

const SCRIPT: &str = include_str!("names.py");

/// What the script prints.
#[derive(Deserialize)]
struct Names {
    /// The names of `mlx.core`, and what each is.
    mlx: BTreeMap<String, String>,
    /// The names that the stubs of `mlx_graft.core` declare.
    core: BTreeSet<String>,
    /// The identifiers behind functions that are written in Python.
    python: BTreeMap<String, BTreeSet<String>>,
    /// The names of `mlx_graft.core` that each test uses.
    tests: BTreeMap<String, BTreeSet<String>>,
}

/// The Python side.
pub struct Python {
    /// The names of `mlx.core`, and what each is.
    pub mlx: BTreeMap<String, String>,
    /// The names of `mlx_graft.core`.
    pub core: BTreeSet<String>,
    /// The identifiers behind functions that are written in Python.
    behind: BTreeMap<String, BTreeSet<String>>,
    tests: BTreeMap<String, BTreeSet<String>>,
    sources: Vec<Source>,
}

impl Python {
    /// Reads it.
    pub fn read(root: &Path) -> Result<Self> {
        let names = names(root)?;
        let sources = read(root, "crates/graft-py/src")?;
        let Names { mlx, core, python, tests } = names;
        Ok(Self { mlx, core, behind: python, tests, sources })
    }

    /// The Python names behind which Rust items are.
    pub fn reaching(&self, items: &BTreeSet<Public>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (source, function, name) in self.entries() {
            if uses(source, function, items) {
                found.extend(self.paths(source, name));
            }
        }
        found
    }

    /// The Rust items behind a Python name.
    pub fn rust_of(&self, name: &str, rust: &Crate) -> Vec<String> {
        let mut found = BTreeSet::new();
        for (source, function, entry) in self.entries() {
            if !self.paths(source, entry).contains(name) {
                continue;
            }
            for public in rust.all() {
                if uses(source, function, &BTreeSet::from([public.clone()])) {
                    found.insert(public.path);
                }
            }
        }
        found.into_iter().collect()
    }

    /// A test that uses a name or what belongs to it.
    pub fn test(&self, name: &str) -> Option<String> {
        let uses = |used: &&String| {
            used.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let found = self.tests.iter().find(|(_, names)| names.iter().any(|used| uses(&used)));
        found.map(|(test, _)| test.clone())
    }

    /// The functions that Python can call.
    fn entries(&self) -> impl Iterator<Item = (&Source, &Function, &str)> {
        self.sources.iter().flat_map(|source| {
            let functions = source.functions.iter();
            functions.filter_map(move |f| f.python.as_deref().map(|name| (source, f, name)))
        })
    }

    /// Where a function of the extension is found in `mlx_graft.core`: under its own name, or
    /// behind a function of the package that is written in Python.
    fn paths(&self, source: &Source, name: &str) -> BTreeSet<String> {
        let mut found: BTreeSet<String> =
            self.core.iter().filter(|path| last(path) == name).cloned().collect();
        if found.len() > 1 {
            let file = source.module.last().map_or("", String::as_str);
            let of_file = |path: &String| {
                path.rsplit_once('.').is_some_and(|(module, _)| file.contains(module))
            };
            let own: BTreeSet<String> = found.iter().filter(|p| of_file(p)).cloned().collect();
            found = if own.is_empty() {
                found.into_iter().filter(|path| !path.contains('.')).collect()
            } else {
                own
            };
        }
        if found.is_empty() {
            let behind = self.behind.iter().filter(|(_, words)| words.contains(name));
            found.extend(behind.map(|(path, _)| path).filter(|p| self.core.contains(*p)).cloned());
        }
        found
    }
}

/// Whether a function uses one of the items, itself or through private functions of the crate.
fn uses(source: &Source, function: &Function, items: &BTreeSet<Public>) -> bool {
    let direct = |source: &Source, function: &Function| {
        let scope = Scope { words: &function.words, file: &source.words, inside: false };
        items.iter().any(|public| public.of_type.is_none() && scope.uses(&public.item))
    };
    if direct(source, function) {
        return true;
    }
    let helpers = source.functions.iter().filter(|helper| helper.python.is_none());
    helpers
        .filter(|helper| function.words.iter().any(|word| word.name == helper.name))
        .any(|helper| direct(source, helper))
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Runs the script with a Python that has MLX.
fn names(root: &Path) -> Result<Names> {
    let mut said = String::new();
    for python in interpreters(root) {
        let Ok(output) = Command::new(&python).args(["-c", SCRIPT]).arg(root).output() else {
            continue;
        };
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).context("names.py printed no JSON");
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    bail!("no Python could list the names of mlx.core: run `make setup`. {}", said.trim())
}
