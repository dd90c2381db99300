//! What a piece of Rust source names: enough of name resolution to say who calls whom.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::UseTree;

/// A name in an expression, with what stands before it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Word {
    /// The name.
    pub name: String,
    /// The segment before it in a path: `call` of `call::status`.
    pub qualifier: Option<String>,
    /// Whether it comes after a dot, as a method or a field does.
    pub method: bool,
}

/// The names in a piece of source, and what its `use` items import. Doc comments are none of them.
pub fn words(tokens: TokenStream) -> BTreeSet<Word> {
    let mut flat = Vec::new();
    let mut words = BTreeSet::new();
    flatten(tokens, &mut flat, &mut words);
    for (at, token) in flat.iter().enumerate() {
        if !token.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let before = |distance: usize| at.checked_sub(distance).map_or("", |at| flat[at].as_str());
        let path = before(1) == ":" && before(2) == ":";
        words.insert(Word {
            name: token.clone(),
            qualifier: path.then(|| before(3).to_string()).filter(|q| q != ">"),
            method: before(1) == "." && before(2) != ".",
        });
    }
    words
}

/// The tokens in their order, without what groups them.
pub fn tokens(tokens: TokenStream) -> Vec<String> {
    let mut flat = Vec::new();
    flatten(tokens, &mut flat, &mut BTreeSet::new());
    flat
}

/// The tokens in one line, without what groups them; the names that `use` items import, apart.
fn flatten(tokens: TokenStream, flat: &mut Vec<String>, imports: &mut BTreeSet<Word>) {
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident == "use" => {
                let rest = tokens.by_ref().take_while(|token| token.to_string() != ";");
                let tree: TokenStream = rest.collect();
                if let Ok(tree) = syn::parse2::<UseTree>(tree) {
                    leaves(&tree, &mut Vec::new(), &mut |path, name, _| {
                        let qualifier = path.last().cloned();
                        imports.insert(Word { name: name.to_string(), qualifier, method: false });
                    });
                }
            }
            TokenTree::Group(group) => {
                flat.push("(".into());
                flatten(group.stream(), flat, imports);
                flat.push(")".into());
            }
            TokenTree::Ident(ident) => flat.push(ident.to_string().replace("r#", "")),
            TokenTree::Punct(punct) => flat.push(punct.as_char().to_string()),
            TokenTree::Literal(_) => flat.push("0".into()),
        }
    }
}

/// Calls `found` with the path, the name and the new name of all that a `use` brings; `*` for all.
pub fn leaves(
    tree: &UseTree,
    path: &mut Vec<String>,
    found: &mut impl FnMut(&[String], &str, &str),
) {
    match tree {
        UseTree::Path(tree) => {
            path.push(tree.ident.to_string());
            leaves(&tree.tree, path, found);
            path.pop();
        }
        UseTree::Name(tree) => found(path, &tree.ident.to_string(), &tree.ident.to_string()),
        UseTree::Rename(tree) => found(path, &tree.ident.to_string(), &tree.rename.to_string()),
        UseTree::Glob(_) => found(path, "*", "*"),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, path, found)),
    }
}

/// Something public of `mlx-graft`, or a function inside it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Item {
    /// The modules that it can be named by, or its type if it is a method.
    pub parents: BTreeSet<String>,
    /// Whether it is a method.
    pub method: bool,
    /// Its name.
    pub name: String,
}

/// Source that may use an item.
pub struct Scope<'a> {
    /// The names in the function itself.
    pub words: &'a BTreeSet<Word>,
    /// The names in the whole file, as far as they say what is imported and which types occur.
    pub file: &'a BTreeSet<Word>,
    /// Whether the item's own module is in scope.
    pub inside: bool,
}

impl Scope<'_> {
    /// Whether the source uses an item. A method after a dot counts where its type is named too.
    pub fn uses(&self, item: &Item) -> bool {
        self.words.iter().filter(|word| word.name == item.name).any(|word| match &word.qualifier {
            Some(qualifier) => item.parents.contains(qualifier) || self.aliased(item, qualifier),
            None if item.method => word.method && (self.inside || self.names_one_of(&item.parents)),
            None => !word.method && (self.inside || self.imports(item)),
        })
    }

    /// `Self::name` inside the type's own file.
    fn aliased(&self, item: &Item, qualifier: &str) -> bool {
        self.inside && (qualifier == "Self" && item.method || qualifier == "self")
    }

    fn names_one_of(&self, names: &BTreeSet<String>) -> bool {
        self.file.iter().any(|word| names.contains(&word.name))
    }

    fn imports(&self, item: &Item) -> bool {
        self.file.iter().any(|word| {
            word.name == item.name
                && word.qualifier.as_ref().is_some_and(|parent| item.parents.contains(parent))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(source: &str, parent: &str, method: bool, name: &str) -> bool {
        let words = words(source.parse().expect("Rust"));
        let item =
            Item { parents: BTreeSet::from([parent.into()]), method, name: name.to_string() };
        Scope { words: &words, file: &words, inside: false }.uses(&item)
    }

    #[test]
    fn a_function_is_used_by_path_or_by_import() {
        assert!(uses("memory::active()?", "memory", false, "active"));
        assert!(uses("use mlx_graft::memory::active; active()", "memory", false, "active"));
        assert!(!uses("active()", "memory", false, "active"));
        assert!(!uses("x.active()", "memory", false, "active"));
        assert!(!uses("other::active()", "memory", false, "active"));
    }

    #[test]
    fn a_method_is_used_where_its_type_is_named() {
        assert!(uses("Array::zeros(1)", "Array", true, "zeros"));
        assert!(uses("let x: &Array = y; x.ndim()", "Array", true, "ndim"));
        assert!(!uses("x.ndim()", "Array", true, "ndim"));
        assert!(!uses("Other::zeros(1)", "Array", true, "zeros"));
    }
}
