//! The table of the coverage as text.

use std::fmt::Write;

use super::{Coverage, Row};
use crate::FIRST_LINE;

const HEAD: &str = "\
# Coverage

Every function of the C API (mlx-c with this project's extension `graft_*`) and every name of
`mlx.core`, with the Rust path in `mlx_graft`, the path in Python's `mlx_graft.core`, and a test that
exercises it. `cargo xtask coverage` finds them in the sources: the Rust path is the public item
whose body reaches the C function, the test is one that calls that item.
";

/// How many paths are written out.
const SHOWN: usize = 2;

/// The page.
pub fn document(coverage: &Coverage) -> String {
    let mut text = format!(
        "<!-- {FIRST_LINE} the headers, crates/mlx-graft/ops.toml and the tests -->\n\n{HEAD}\n{}",
        totals(coverage)
    );
    text += "\n## The C API\n";
    for (header, rows) in &coverage.c {
        let _ = write!(text, "\n### {header}\n\n| C | Rust | Python | Test |\n|---|---|---|---|\n");
        for row in rows {
            let _ = writeln!(text, "| `{}` | {}", row.name, cells(row));
        }
    }
    text += "\n## mlx.core\n";
    for (module, rows) in &coverage.mlx {
        let head = "| mlx.core | C | Rust | Python | Test |\n|---|---|---|---|---|\n";
        let _ = write!(text, "\n### {module}\n\n{head}");
        for row in rows {
            let _ = writeln!(text, "| `{}` | {} | {}", row.name, paths(&row.c), cells(row));
        }
    }
    text
}

/// The same for a terminal.
pub fn plain(coverage: &Coverage) -> String {
    let mut text = String::new();
    for row in rows(coverage) {
        let list = |paths: &[String]| if paths.is_empty() { "-".into() } else { paths.join(" ") };
        let end = row.skip.as_ref().map_or_else(
            || {
                let test = row.test.as_deref().unwrap_or("-");
                format!("{}  {}  {test}", first(&row.rust), list(&row.python))
            },
            |reason| format!("skipped: {reason}"),
        );
        let _ = writeln!(text, "{}  {end}", row.name);
    }
    text + "\n" + &totals(coverage)
}

/// What lacks a path or a test.
pub fn missing(coverage: &Coverage) -> Vec<String> {
    let mut lines = Vec::new();
    for row in coverage.c.iter().flat_map(|(_, rows)| rows).filter(|row| row.skip.is_none()) {
        if row.rust.is_empty() {
            lines.push(format!("{}: no Rust path", row.name));
        } else if row.test.is_none() {
            lines.push(format!("{}: no test of {}", row.name, first(&row.rust)));
        }
    }
    for row in coverage.mlx.iter().flat_map(|(_, rows)| rows) {
        if row.python.is_empty() {
            lines.push(format!("mlx.core.{}: not in mlx_graft.core", row.name));
        } else if row.test.is_none() {
            lines.push(format!("mlx.core.{}: no test", row.name));
        }
    }
    lines
}

fn rows(coverage: &Coverage) -> impl Iterator<Item = &Row> {
    coverage.c.iter().chain(&coverage.mlx).flat_map(|(_, rows)| rows)
}

pub fn totals(coverage: &Coverage) -> String {
    let c: Vec<&Row> = coverage.c.iter().flat_map(|(_, rows)| rows).collect();
    let mlx: Vec<&Row> = coverage.mlx.iter().flat_map(|(_, rows)| rows).collect();
    let count = |rows: &[&Row], is: fn(&Row) -> bool| rows.iter().filter(|row| is(row)).count();
    format!(
        "| | names | Rust | Python | tested | skipped |\n|---|---|---|---|---|---|\n\
         | C API | {} | {} | {} | {} | {} |\n| mlx.core | {} | {} | {} | {} | 0 |\n",
        c.len(),
        count(&c, |row| !row.rust.is_empty()),
        count(&c, |row| !row.python.is_empty()),
        count(&c, |row| row.test.is_some()),
        count(&c, |row| row.skip.is_some()),
        mlx.len(),
        count(&mlx, |row| !row.rust.is_empty()),
        count(&mlx, |row| !row.python.is_empty()),
        count(&mlx, |row| row.test.is_some()),
    )
}

fn cells(row: &Row) -> String {
    if let Some(reason) = &row.skip {
        return format!("{reason} | | |");
    }
    let test = row.test.as_ref().map_or_else(String::new, |test| format!("`{test}`"));
    format!("{} | {} | {test} |", paths(&row.rust), paths(&row.python))
}

fn paths(paths: &[String]) -> String {
    let shown: Vec<String> = paths.iter().take(SHOWN).map(|path| format!("`{path}`")).collect();
    match paths.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn first(paths: &[String]) -> &str {
    paths.first().map_or("-", String::as_str)
}
