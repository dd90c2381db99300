//! The way from a C function to the public items of `mlx-graft` that reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use syn::{Item as SynItem, Visibility};

use super::functions::{Function, Kind, Source, read};
use super::words::{Item, Scope, leaves};

/// How many private functions may stand between a C function and the public item.
const DEPTH: usize = 6;

/// A public item.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Public {
    /// Its path in the crate.
    pub path: String,
    /// How source names it.
    pub item: Item,
    /// The type, if it is reached where the type is named.
    pub of_type: Option<String>,
}

/// The crate `mlx-graft`.
pub struct Crate {
    /// Its files.
    pub sources: Vec<Source>,
    /// The public path of an item, by its module and name.
    public: BTreeMap<(Vec<String>, String), String>,
}

impl Crate {
    /// Reads it.
    pub fn read(root: &Path) -> Result<Self> {
        let sources = read(root, "crates/mlx-graft/src")?;
        let mut public = BTreeMap::new();
        export(&sources, &[], "", &mut public);
        Ok(Self { sources, public })
    }

    /// The public items that call a C function, or if there is none, those that reach it through the
    /// fewest private ones.
    pub fn reaching(&self, function: &str) -> BTreeSet<Public> {
        let mut level: Vec<&Function> = self
            .functions()
            .filter(|(_, found)| found.words.iter().any(|word| word.name == function))
            .map(|(_, found)| found)
            .collect();
        let mut seen: BTreeSet<*const Function> = BTreeSet::new();
        for _ in 0..DEPTH {
            let public: BTreeSet<Public> = level.iter().filter_map(|f| self.public(f)).collect();
            if !public.is_empty() {
                return public;
            }
            seen.extend(level.iter().map(|function| std::ptr::from_ref(*function)));
            level = level
                .iter()
                .flat_map(|function| self.callers(function))
                .filter(|caller| !seen.contains(&std::ptr::from_ref(*caller)))
                .collect();
            level.sort_by_key(|function| std::ptr::from_ref(*function));
            level.dedup_by_key(|function| std::ptr::from_ref(*function));
        }
        BTreeSet::new()
    }

    /// The public items that use a type.
    pub fn users_of_type(&self, name: &str) -> BTreeSet<Public> {
        self.functions()
            .filter(|(_, function)| function.words.iter().any(|word| word.name == name))
            .filter_map(|(_, function)| self.public(function))
            .collect()
    }

    /// All public functions and methods.
    pub fn all(&self) -> impl Iterator<Item = Public> {
        self.functions().filter_map(|(_, function)| self.public(function))
    }

    /// The functions that are no tests, with their files.
    fn functions(&self) -> impl Iterator<Item = (&Source, &Function)> {
        self.sources
            .iter()
            .flat_map(|source| source.functions.iter().map(move |function| (source, function)))
            .filter(|(_, function)| !function.module.iter().any(|module| module == "tests"))
    }

    fn callers(&self, callee: &Function) -> Vec<&Function> {
        let item = self.item(callee);
        self.functions()
            .filter(|(source, function)| {
                if callee.kind == Kind::OfTrait {
                    let owner = callee.owner.as_deref();
                    let named = [owner, callee.of_trait.as_deref()];
                    return function.owner.as_deref() == owner
                        || function.words.iter().any(|w| named.contains(&Some(w.name.as_str())));
                }
                let inside = function.module == callee.module
                    && (callee.owner.is_none() || function.owner == callee.owner);
                Scope { words: &function.words, file: &source.words, inside }.uses(&item)
            })
            .map(|(_, function)| function)
            .collect()
    }

    /// How source names a function.
    fn item(&self, function: &Function) -> Item {
        let mut parents = BTreeSet::new();
        if let Some(owner) = &function.owner {
            parents.insert(owner.clone());
        } else {
            // A module may hand on what its own modules define.
            parents.extend(function.module.iter().rev().take(2).cloned());
            if function.module.is_empty() {
                parents.insert("crate".into());
            }
            let key = (function.module.clone(), function.name.clone());
            if let Some(path) = self.public.get(&key) {
                let parent = path.rsplit("::").nth(1).unwrap_or("mlx_graft");
                parents.insert(parent.to_string());
            }
        }
        if parents.contains("mlx_graft") {
            parents.insert("crate".into());
        }
        Item { parents, method: function.owner.is_some(), name: function.name.clone() }
    }

    /// The public path of a function, if it has one.
    fn public(&self, function: &Function) -> Option<Public> {
        let item = self.item(function);
        let Some(owner) = &function.owner else {
            let path = self.public.get(&(function.module.clone(), function.name.clone()))?;
            return function.public.then(|| Public { path: path.clone(), item, of_type: None });
        };
        let (_, owner_path) = self.public.iter().find(|((_, name), _)| name == owner)?;
        let of_type = (function.kind == Kind::OfTrait).then(|| owner.clone());
        if of_type.is_none() && !function.public {
            return None;
        }
        // What a macro makes has no name of its own.
        let path = match function.name.as_str() {
            "" => owner_path.clone(),
            name => format!("{owner_path}::{name}"),
        };
        Some(Public { path, item, of_type })
    }
}

/// Notes the public paths of a module's items, with `prefix` before their names.
fn export(
    sources: &[Source],
    module: &[String],
    prefix: &str,
    public: &mut BTreeMap<(Vec<String>, String), String>,
) {
    let Some(source) = sources.iter().find(|source| source.module == module) else { return };
    let mut note = |module: &[String], name: &str, path: String| {
        let shortest = public.entry((module.to_vec(), name.to_string())).or_insert(path.clone());
        if path.len() < shortest.len() {
            *shortest = path;
        }
    };
    let mut modules = Vec::new();
    for item in &source.items {
        match item {
            SynItem::Use(item) if is_public(&item.vis) => {
                leaves(&item.tree, &mut Vec::new(), &mut |path, name, renamed| {
                    let Some(from) = resolve(sources, module, path) else { return };
                    if name == "*" {
                        for name in names(sources, &from) {
                            note(&from, &name, format!("{prefix}{name}"));
                        }
                    } else {
                        note(&from, name, format!("{prefix}{renamed}"));
                        let mut inner = from.clone();
                        inner.push(name.to_string());
                        modules.push((inner, format!("{prefix}{renamed}::")));
                    }
                });
            }
            SynItem::Mod(item) if is_public(&item.vis) => {
                let mut inner = module.to_vec();
                inner.push(item.ident.to_string());
                modules.push((inner, format!("{prefix}{}::", item.ident)));
            }
            item => {
                if let Some(name) = public_name(item) {
                    note(module, &name, format!("{prefix}{name}"));
                }
            }
        }
    }
    for function in &source.functions {
        if function.made && function.owner.is_none() && !function.test && function.module == module
        {
            note(module, &function.name, format!("{prefix}{}", function.name));
        }
    }
    for (module, prefix) in modules {
        export(sources, &module, &prefix, public);
    }
}

/// The module that a path of a `use` in `module` leads to.
fn resolve(sources: &[Source], module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut found = module.to_vec();
    for segment in path {
        match segment.as_str() {
            "crate" => found.clear(),
            "self" => {}
            "super" => {
                found.pop();
            }
            name => found.push(name.to_string()),
        }
    }
    sources.iter().any(|source| source.module == found).then_some(found)
}

/// The public names of a module.
fn names(sources: &[Source], module: &[String]) -> Vec<String> {
    let source = sources.iter().find(|source| source.module == module);
    source.map_or_else(Vec::new, |source| source.items.iter().filter_map(public_name).collect())
}

fn public_name(item: &SynItem) -> Option<String> {
    let (visibility, ident) = match item {
        SynItem::Fn(item) => (&item.vis, &item.sig.ident),
        SynItem::Struct(item) => (&item.vis, &item.ident),
        SynItem::Enum(item) => (&item.vis, &item.ident),
        SynItem::Trait(item) => (&item.vis, &item.ident),
        SynItem::Type(item) => (&item.vis, &item.ident),
        _ => return None,
    };
    is_public(visibility).then(|| ident.to_string())
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}
