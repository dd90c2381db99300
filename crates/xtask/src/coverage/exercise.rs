//! The tests of the Rust crates and what each names.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use proc_macro2::TokenStream;

use super::crate_graph::Public;
use super::functions::{Source, read};
use super::words::{Scope, Word, words};

/// A test or a doctest.
pub struct Test {
    /// How to find it.
    pub name: String,
    /// What it names, with the helpers of its file that it calls.
    words: BTreeSet<Word>,
    /// What its file names.
    file: BTreeSet<Word>,
    /// The module that it is inside of, as for a unit test.
    module: Option<Vec<String>>,
}

/// All tests, those in `tests/` first, then unit tests, then doctests.
pub fn tests(root: &Path, crate_sources: &[Source]) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for name in ["mlx-graft", "graft-kernels"] {
        for source in &read(root, &format!("crates/{name}/tests"))? {
            of_file(source, false, &mut tests);
        }
    }
    for source in crate_sources {
        of_file(source, true, &mut tests);
    }
    for source in crate_sources {
        for code in doctests(&source.text) {
            // An example that does not parse is for rustdoc to complain about.
            let Ok(tokens) = code.parse::<TokenStream>() else { continue };
            let words = words(tokens);
            let name = format!("{} (doctest)", source.file);
            tests.push(Test { name, file: words.clone(), words, module: None });
        }
    }
    Ok(tests)
}

fn of_file(source: &Source, unit: bool, tests: &mut Vec<Test>) {
    for function in source.functions.iter().filter(|function| function.test) {
        let mut all = function.words.clone();
        loop {
            let size = all.len();
            for helper in source.functions.iter().filter(|helper| !helper.test) {
                let in_tests = !unit || helper.module.last().is_some_and(|name| name == "tests");
                if in_tests && all.iter().any(|word| word.name == helper.name) {
                    all.extend(helper.words.iter().cloned());
                }
            }
            if all.len() == size {
                break;
            }
        }
        tests.push(Test {
            name: format!("{}::{}", source.file, function.name),
            words: all,
            file: source.words.clone(),
            module: unit.then(|| source.module.clone()),
        });
    }
}

/// The examples in the doc comments that run as tests.
fn doctests(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code: Option<String> = None;
    let mut runs = false;
    for line in text.lines().map(str::trim_start) {
        let Some(line) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            code = None;
            continue;
        };
        let line = line.strip_prefix(' ').unwrap_or(line);
        match (&mut code, line.trim().strip_prefix("```")) {
            (None, Some(language)) => {
                runs = language.is_empty() || language == "rust";
                code = Some(String::new());
            }
            (Some(_), Some(_)) => found.extend(code.take().filter(|_| runs)),
            (Some(code), None) => {
                code.push_str(line.strip_prefix("# ").unwrap_or(line));
                code.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

impl Test {
    /// Whether it uses an item.
    pub fn uses(&self, public: &Public) -> bool {
        if let Some(name) = &public.of_type {
            return self.words.iter().any(|word| word.name == *name);
        }
        let inside = self.module.as_ref().is_some_and(|module| {
            let last = module.last().map_or("crate", String::as_str);
            public.item.parents.contains(last)
        });
        Scope { words: &self.words, file: &self.file, inside }.uses(&public.item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_that_do_not_run_are_no_tests() {
        let text = "/// ```\n/// # use a::b;\n/// b();\n/// ```\n/// ```text\n/// c\n/// ```\n";
        assert_eq!(doctests(text), ["use a::b;\nb();\n"]);
        assert!(doctests("//! ```no_run\n//! b();\n//! ```\n").is_empty());
    }
}
