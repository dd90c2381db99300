//! The functions of a crate, with what each names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Attribute, ImplItem, Item, Meta, TraitItem, Visibility};

use super::words::{Word, tokens, words};

/// What a function is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A function outside any type.
    Free,
    /// A function of a type.
    Method,
    /// A function of a trait, or what a macro makes: reached where the type is named.
    OfTrait,
}

/// A function of a crate.
pub struct Function {
    /// Its module.
    pub module: Vec<String>,
    /// The type that it belongs to.
    pub owner: Option<String>,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whether it is `pub`.
    pub public: bool,
    /// Whether it is a test.
    pub test: bool,
    /// Whether Python can call it, and by what name.
    pub python: Option<String>,
    /// The names in it.
    pub words: BTreeSet<Word>,
}

/// The functions of one source file.
pub struct Source {
    /// The file, from the root of the repository.
    pub file: String,
    /// Its module.
    pub module: Vec<String>,
    /// Its functions.
    pub functions: Vec<Function>,
    /// All items, for what they export.
    pub items: Vec<Item>,
    /// All names in it.
    pub words: BTreeSet<Word>,
    /// Its text.
    pub text: String,
}

/// Reads all Rust files under a folder, in order.
pub fn read(root: &Path, folder: &str) -> Result<Vec<Source>> {
    let mut paths = Vec::new();
    files(&root.join(folder), &mut paths)?;
    paths.sort();
    paths.iter().map(|path| source(root, &root.join(folder), path)).collect()
}

fn files(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

fn source(root: &Path, folder: &Path, path: &Path) -> Result<Source> {
    let text = std::fs::read_to_string(path)?;
    let parsed = syn::parse_file(&text).with_context(|| format!("in {}", path.display()))?;
    let mut module: Vec<String> = path
        .strip_prefix(folder)?
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib" || last == "main") {
        module.pop();
    }
    let file = path.strip_prefix(root)?.to_string_lossy().into_owned();
    let mut functions = Vec::new();
    let mut place =
        Place { items: &parsed.items, module: module.clone(), functions: &mut functions };
    for item in &parsed.items {
        place.item(item, &parsed.items);
    }
    let all = words(parsed.items.iter().map(ToTokens::to_token_stream).collect());
    Ok(Source { file, module, functions, items: parsed.items, words: all, text })
}

/// Where the functions are that are being read.
struct Place<'a> {
    items: &'a [Item],
    module: Vec<String>,
    functions: &'a mut Vec<Function>,
}

impl Place<'_> {
    fn item(&mut self, item: &Item, siblings: &[Item]) {
        match item {
            Item::Fn(function) => {
                let tokens = function.to_token_stream();
                let name = function.sig.ident.to_string();
                self.add(None, name, Kind::Free, &function.vis, &function.attrs, words(tokens));
            }
            Item::Impl(item) => self.methods(item),
            Item::Trait(item) => {
                for function in &item.items {
                    if let TraitItem::Fn(function) = function {
                        let tokens = function.to_token_stream();
                        let name = function.sig.ident.to_string();
                        let owner = Some(item.ident.to_string());
                        let all = words(tokens);
                        self.add(owner, name, Kind::Method, &item.vis, &function.attrs, all);
                    }
                }
            }
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    self.module.push(module.ident.to_string());
                    for item in items {
                        self.item(item, items);
                    }
                    self.module.pop();
                }
            }
            Item::Macro(item) => self.made_by_macro(item, siblings),
            _ => {}
        }
    }

    /// The Python name of a class.
    fn class(&self, owner: &str) -> Option<String> {
        self.items.iter().find_map(|item| match item {
            Item::Struct(item) if item.ident == owner && has(&item.attrs, "pyclass") => {
                Some(python_name(&item.attrs, owner))
            }
            _ => None,
        })
    }

    fn methods(&mut self, item: &syn::ItemImpl) {
        let syn::Type::Path(ty) = &*item.self_ty else { return };
        let Some(owner) = ty.path.segments.last().map(|segment| segment.ident.to_string()) else {
            return;
        };
        let class = has(&item.attrs, "pymethods").then(|| self.class(&owner)).flatten();
        for function in &item.items {
            let ImplItem::Fn(function) = function else { continue };
            let tokens = function.to_token_stream();
            let name = function.sig.ident.to_string();
            let kind = if item.trait_.is_some() { Kind::OfTrait } else { Kind::Method };
            let owner = Some(owner.clone());
            self.add(owner, name, kind, &function.vis, &function.attrs, words(tokens));
            if let Some(function) = self.functions.last_mut().filter(|_| class.is_some()) {
                function.python.clone_from(&class);
            }
        }
    }

    /// What a macro makes at the level of items, with what its own text names: the type that it
    /// defines, or else the traits that it implements.
    fn made_by_macro(&mut self, item: &syn::ItemMacro, siblings: &[Item]) {
        if item.ident.is_some() {
            return;
        }
        let mut all = words(item.mac.tokens.clone());
        let definition = siblings.iter().find_map(|sibling| match sibling {
            Item::Macro(found) if item.mac.path.is_ident(found.ident.as_ref()?) => Some(found),
            _ => None,
        });
        let definition = definition.map_or_else(TokenStream::new, |d| d.mac.tokens.clone());
        all.extend(words(definition.clone()));
        let definition = tokens(definition);
        let is_type = |name: &&String| name.starts_with(char::is_uppercase);
        let owners: Vec<String> = if definition.iter().any(|word| word == "struct") {
            tokens(item.mac.tokens.clone()).iter().find(is_type).into_iter().cloned().collect()
        } else {
            let implemented = definition.windows(2).filter(|pair| pair[0] == "impl");
            implemented.map(|pair| &pair[1]).filter(is_type).cloned().collect()
        };
        let test = all.iter().any(|word| word.name == "test");
        for owner in owners.into_iter().map(Some).chain(test.then_some(None)) {
            self.functions.push(Function {
                module: self.module.clone(),
                kind: if owner.is_some() { Kind::OfTrait } else { Kind::Free },
                name: if owner.is_some() { String::new() } else { "a macro".into() },
                owner,
                public: true,
                test,
                python: None,
                words: all.clone(),
            });
        }
    }

    fn add(
        &mut self,
        owner: Option<String>,
        name: String,
        kind: Kind,
        visibility: &Visibility,
        attributes: &[Attribute],
        words: BTreeSet<Word>,
    ) {
        self.functions.push(Function {
            module: self.module.clone(),
            python: has(attributes, "pyfunction").then(|| python_name(attributes, &name)),
            owner,
            name,
            kind,
            public: matches!(visibility, Visibility::Public(_)),
            test: has(attributes, "test"),
            words,
        });
    }
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident(name))
}

/// The name in `#[pyo3(name = "…")]`, or the function's own.
fn python_name(attributes: &[Attribute], name: &str) -> String {
    let lists = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::List(list)
            if ["pyo3", "pyfunction", "pyclass"].iter().any(|name| list.path.is_ident(name)) =>
        {
            Some(list.tokens.to_string())
        }
        _ => None,
    });
    let mut names = lists.filter_map(|text| {
        let (_, rest) = text
            .split_once("name = \"")
            .filter(|(before, _)| before.is_empty() || before.ends_with(", "))?;
        rest.split_once('"').map(|(name, _)| name.to_string())
    });
    names.next().unwrap_or_else(|| name.replace("r#", ""))
}
