//! The functions of a crate, with what each names.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The trait that it implements a part of.
    pub of_trait: Option<String>,
    /// Its name; none if a macro makes all of a type.
    pub name: String,
    /// Whether a macro makes it.
    pub made: bool,
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
    let files = paths
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path)?;
            let parsed =
                syn::parse_file(&text).with_context(|| format!("in {}", path.display()))?;
            Ok((path, text, parsed.items))
        })
        .collect::<Result<Vec<_>>>()?;
    let macros: Macros = files.iter().flat_map(|(_, _, items)| definitions(items)).collect();
    let folder = root.join(folder);
    files
        .into_iter()
        .map(|(path, text, items)| source(root, &folder, path, text, items, &macros))
        .collect()
}

/// What the macros of a crate expand to, by name.
type Macros = BTreeMap<String, TokenStream>;

fn definitions(items: &[Item]) -> impl Iterator<Item = (String, TokenStream)> {
    items.iter().filter_map(|item| match item {
        Item::Macro(item) => Some((item.ident.as_ref()?.to_string(), item.mac.tokens.clone())),
        _ => None,
    })
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

fn source(
    root: &Path,
    folder: &Path,
    path: &Path,
    text: String,
    items: Vec<Item>,
    macros: &Macros,
) -> Result<Source> {
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
        Place { items: &items, macros, module: module.clone(), functions: &mut functions };
    for item in &items {
        place.item(item);
    }
    let all = words(items.iter().map(ToTokens::to_token_stream).collect());
    Ok(Source { file, module, functions, items, words: all, text })
}

/// Where the functions are that are being read.
struct Place<'a> {
    items: &'a [Item],
    macros: &'a Macros,
    module: Vec<String>,
    functions: &'a mut Vec<Function>,
}

impl Place<'_> {
    fn item(&mut self, item: &Item) {
        match item {
            Item::Fn(function) => {
                let tokens = function.to_token_stream();
                let name = function.sig.ident.to_string();
                self.add(None, name, Kind::Free, &function.vis, &function.attrs, words(tokens));
            }
            Item::Impl(item) => self.methods(item),
            Item::Trait(item) => {
                // What it asks for is reached where it is named.
                let owner = Some(item.ident.to_string());
                let bounds = item.supertraits.to_token_stream();
                let all = words(bounds);
                self.add(owner, String::new(), Kind::OfTrait, &item.vis, &[], all);
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
                        self.item(item);
                    }
                    self.module.pop();
                }
            }
            Item::Macro(item) => self.made_by_macro(item),
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
        let of_trait = item
            .trait_
            .as_ref()
            .and_then(|(_, path, _)| path.segments.last().map(|segment| segment.ident.to_string()));
        for function in &item.items {
            let ImplItem::Fn(function) = function else { continue };
            let tokens = function.to_token_stream();
            let name = function.sig.ident.to_string();
            let kind = if item.trait_.is_some() { Kind::OfTrait } else { Kind::Method };
            let owner = Some(owner.clone());
            self.add(owner, name, kind, &function.vis, &function.attrs, words(tokens));
            if let Some(function) = self.functions.last_mut() {
                function.of_trait.clone_from(&of_trait);
                if class.is_some() {
                    function.python.clone_from(&class);
                }
            }
        }
    }

    /// What a macro makes at the level of items, with what its own text names: functions, the type
    /// that it defines, or else parts of the traits that it implements.
    fn made_by_macro(&mut self, item: &syn::ItemMacro) {
        let Some(called) = item.mac.path.segments.last().filter(|_| item.ident.is_none()) else {
            return;
        };
        let definition = self.macros.get(&called.ident.to_string()).cloned().unwrap_or_default();
        let mut all = words(item.mac.tokens.clone());
        all.extend(words(definition.clone()));
        let (given, definition) = (tokens(item.mac.tokens.clone()), tokens(definition));
        let is_type = |name: &&String| name.starts_with(char::is_uppercase);
        if all.iter().any(|word| word.name == "test") {
            self.make(None, "a macro".into(), true, all.clone());
        }
        if let Some(at) = definition.iter().position(|word| word == "struct") {
            let own = definition.get(at + 1).filter(is_type);
            if let Some(owner) = own.or_else(|| given.iter().find(is_type)) {
                self.make(Some(owner.clone()), String::new(), false, all);
            }
        } else if definition.windows(2).any(|pair| pair == ["fn", "$"]) {
            // A name and then the C function that it calls.
            let is_c = |word: &String| word.starts_with("mlx_") || word.starts_with("graft_");
            for pair in given.windows(2).filter(|pair| is_c(&pair[1])) {
                let mut own = words(pair[1].parse().unwrap_or_default());
                own.extend(definition.iter().flat_map(|w| words(w.parse().unwrap_or_default())));
                self.make(None, pair[0].clone(), false, own);
            }
        } else {
            let implemented = definition.windows(2).filter(|pair| pair[0] == "impl");
            for owner in implemented.map(|pair| &pair[1]).filter(is_type) {
                self.make(Some(owner.clone()), String::new(), false, all.clone());
            }
        }
    }

    fn make(&mut self, owner: Option<String>, name: String, test: bool, words: BTreeSet<Word>) {
        self.functions.push(Function {
            module: self.module.clone(),
            kind: if owner.is_some() { Kind::OfTrait } else { Kind::Free },
            owner,
            of_trait: None,
            name,
            made: true,
            public: true,
            test,
            python: None,
            words,
        });
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
            of_trait: None,
            made: false,
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
