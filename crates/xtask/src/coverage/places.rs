//! Every function of the C API is accounted for: generated, handwritten, skipped or pending.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use syn::{ForeignItem, Item};

use crate::table::Table;

/// Compares the table with the declarations, and returns how many functions fall where.
pub fn check(root: &Path, declarations: &str, table: &Table) -> Result<String> {
    let declared = declared(declarations)?;
    let mut faults = places(&declared, table);
    faults.extend(callers(root, table)?);
    if !faults.is_empty() {
        bail!("crates/mlx-graft/ops.toml does not fit the headers:\n  {}", faults.join("\n  "));
    }

    let rows = table.ops().count();
    let python = table.ops().filter(|op| op.signature.is_some()).count();
    let generated: usize = table.ops().map(|op| op.functions.len()).sum();
    let count = |entries: &BTreeMap<String, Vec<String>>| entries.values().flatten().count();
    Ok(format!(
        "{} C functions: {generated} generated from {rows} rows ({python} with a Python function), \
         {} handwritten, {} skipped, {} pending",
        declared.len(),
        count(&table.handwritten),
        count(&table.skip),
        count(&table.pending),
    ))
}

/// Functions that are declared and nowhere in the table, in it and not declared, or in it twice.
fn places(declared: &BTreeSet<String>, table: &Table) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for function in table.ops().flat_map(|op| &op.functions) {
        places.entry(&function.1.name).or_default().push("a row".into());
    }
    let tables =
        [("handwritten", &table.handwritten), ("skip", &table.skip), ("pending", &table.pending)];
    for (name, entries) in tables {
        for (key, functions) in entries {
            for function in functions {
                places.entry(function).or_default().push(format!("[{name}] {key:?}"));
            }
        }
    }

    let mut faults = Vec::new();
    for name in declared.iter().filter(|name| !places.contains_key(name.as_str())) {
        faults.push(format!("{name} is declared in a header, and in no row and no table"));
    }
    for (name, found) in &places {
        if !declared.contains(*name) {
            faults.push(format!("{name} is in {}, and no header declares it", found.join(" and ")));
        } else if found.len() > 1 {
            faults.push(format!("{name} is in {}: one place is enough", found.join(" and ")));
        }
    }
    faults
}

/// Faults of [handwritten]: its files call the functions that it names, and no pending ones.
fn callers(root: &Path, table: &Table) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (path, functions) in &table.handwritten {
        let text = std::fs::read_to_string(root.join(path))
            .with_context(|| format!("[handwritten]: cannot read {path}"))?;
        let words: BTreeSet<&str> =
            text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for function in functions.iter().filter(|function| !words.contains(function.as_str())) {
            faults.push(format!("{function} is in [handwritten], and {path} does not call it"));
        }
        for function in table.pending.values().flatten() {
            if words.contains(function.as_str()) {
                faults.push(format!("{function} is in [pending], and {path} calls it"));
            }
        }
    }
    Ok(faults)
}

/// The declared functions.
pub fn declared(declarations: &str) -> Result<BTreeSet<String>> {
    let file = syn::parse_file(declarations).context("the declarations are not Rust")?;
    let blocks = file.items.into_iter().filter_map(|item| match item {
        Item::ForeignMod(block) => Some(block.items),
        _ => None,
    });
    Ok(blocks
        .flatten()
        .filter_map(|item| match item {
            ForeignItem::Fn(function) => Some(function.sig.ident.to_string()),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(handwritten: &[&str], pending: &[&str]) -> Table {
        let entries = |key: &str, names: &[&str]| {
            BTreeMap::from([(key.into(), names.iter().map(ToString::to_string).collect())])
        };
        Table {
            groups: Vec::new(),
            handwritten: entries("src/lib.rs", handwritten),
            skip: BTreeMap::new(),
            pending: entries("later", pending),
        }
    }

    #[test]
    fn every_function_has_exactly_one_place() {
        let declared = ["mlx_a", "mlx_b", "mlx_c"].map(String::from).into();
        assert!(places(&declared, &table(&["mlx_a"], &["mlx_b", "mlx_c"])).is_empty());
        assert_eq!(
            places(&declared, &table(&["mlx_a", "mlx_b"], &["mlx_b", "mlx_d"])),
            [
                "mlx_c is declared in a header, and in no row and no table",
                "mlx_b is in [handwritten] \"src/lib.rs\" and [pending] \"later\": one place is \
                 enough",
                "mlx_d is in [pending] \"later\", and no header declares it",
            ]
        );
    }
}
