//! Trees of arrays: what `mlx.utils.tree_flatten` and `tree_unflatten` do in Python, but for levels
//! whose numbers have gaps, see [`Tree::unflatten`].

use std::collections::BTreeMap;

use crate::{Array, Error, Result};

/// A nested structure whose leaves are arrays.
#[derive(Debug, Clone)]
pub enum Tree {
    /// A leaf.
    Array(Array),
    /// Children with numbers.
    List(Vec<Tree>),
    /// Children with names, in the order of the names.
    Map(BTreeMap<String, Tree>),
}

impl Tree {
    /// The leaves with their paths, such as `layers.0.weight`.
    ///
    /// ```
    /// use mlx_graft::{Array, Tree};
    ///
    /// let x = Array::scalar(1_i32)?;
    /// let names = [("layers.0.weight", &x), ("layers.1.weight", &x), ("norm", &x)];
    /// let tree = Tree::unflatten(names.map(|(n, x)| (n.to_string(), x.clone())))?;
    /// let back: Vec<String> = tree.flatten().into_iter().map(|(name, _)| name).collect();
    /// assert_eq!(back, ["layers.0.weight", "layers.1.weight", "norm"]);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn flatten(&self) -> Vec<(String, Array)> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut String, out: &mut Vec<(String, Array)>) {
        let mut child = |key: &str, tree: &Self| {
            let len = path.len();
            if len > 0 {
                path.push('.');
            }
            path.push_str(key);
            tree.collect(path, out);
            path.truncate(len);
        };
        match self {
            Self::Array(array) => out.push((path.clone(), array.clone())),
            Self::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    child(&i.to_string(), item);
                }
            }
            Self::Map(items) => {
                for (key, item) in items {
                    child(key, item);
                }
            }
        }
    }

    /// The leaves in order.
    ///
    /// ```
    /// use mlx_graft::{Array, Tree};
    ///
    /// let tree = Tree::from(vec![Array::scalar(1_i32)?, Array::scalar(2_i32)?]);
    /// assert_eq!(tree.leaves()[1].item::<i32>()?, 2);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn leaves(&self) -> Vec<Array> {
        self.flatten().into_iter().map(|(_, array)| array).collect()
    }

    /// A tree of the same structure with other leaves, in the order of [`Tree::leaves`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if the number of leaves differs.
    ///
    /// ```
    /// use mlx_graft::{Array, Tree};
    ///
    /// let tree = Tree::from(vec![Array::scalar(1_i32)?, Array::scalar(2_i32)?]);
    /// let other = tree.with_leaves([Array::scalar(3_i32)?, Array::scalar(4_i32)?])?;
    /// assert_eq!(other.leaves()[0].item::<i32>()?, 3);
    /// assert!(tree.with_leaves([]).is_err());
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn with_leaves(&self, leaves: impl IntoIterator<Item = Array>) -> Result<Self> {
        let mut leaves = leaves.into_iter();
        let filled = self.fill(&mut leaves);
        match (filled, leaves.next()) {
            (Some(tree), None) => Ok(tree),
            _ => Err(Error::invalid_argument("tree_unflatten", "another number of leaves")),
        }
    }

    fn fill(&self, leaves: &mut impl Iterator<Item = Array>) -> Option<Self> {
        Some(match self {
            Self::Array(_) => Self::Array(leaves.next()?),
            Self::List(items) => {
                Self::List(items.iter().map(|item| item.fill(leaves)).collect::<Option<_>>()?)
            }
            Self::Map(items) => {
                let fill = |(key, item): (&String, &Self)| Some((key.clone(), item.fill(leaves)?));
                Self::Map(items.iter().map(fill).collect::<Option<_>>()?)
            }
        })
    }

    /// Builds a tree from paths; a single one that is empty is that of a leaf alone.
    ///
    /// A level whose keys are 0, 1, 2, … becomes a list. If a number is missing, it stays a map, with
    /// the numbers as keys, so that the paths of the result are those given; `tree_unflatten` of
    /// Python makes a list with empty maps in the gaps.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if one path is a prefix of another.
    ///
    /// ```
    /// use mlx_graft::{Array, Tree};
    ///
    /// let x = Array::scalar(1_i32)?;
    /// let tree = |paths: &[&str]| Tree::unflatten(paths.iter().map(|p| (p.to_string(), x.clone())));
    /// assert!(matches!(Tree::unflatten(Tree::from(x.clone()).flatten())?, Tree::Array(_)));
    /// assert!(matches!(tree(&["1", "0"])?, Tree::List(items) if items.len() == 2));
    /// assert!(matches!(tree(&["0", "2"])?, Tree::Map(items) if items.contains_key("2")));
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn unflatten(leaves: impl IntoIterator<Item = (String, Array)>) -> Result<Self> {
        let mut root = BTreeMap::new();
        for (path, array) in leaves {
            insert(&mut root, &path, &path, array)?;
        }
        match root.first_key_value() {
            Some((path, Self::Array(leaf))) if path.is_empty() && root.len() == 1 => {
                Ok(Self::Array(leaf.clone()))
            }
            _ => Ok(Self::Map(root).with_lists()),
        }
    }

    fn with_lists(self) -> Self {
        let Self::Map(items) = self else { return self };
        let mut children: Vec<(String, Self)> =
            items.into_iter().map(|(key, item)| (key, item.with_lists())).collect();
        let mut numbers: Vec<Option<usize>> =
            children.iter().map(|(key, _)| key.parse().ok()).collect();
        numbers.sort_unstable();
        let is_list =
            !children.is_empty() && numbers.iter().enumerate().all(|(i, n)| *n == Some(i));
        if is_list {
            // The map is in the order of the text, in which 10 comes before 2.
            children.sort_by_key(|(key, _)| key.parse::<usize>().unwrap_or(usize::MAX));
            return Self::List(children.into_iter().map(|(_, item)| item).collect());
        }
        Self::Map(children.into_iter().collect())
    }
}

impl From<Array> for Tree {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Tree {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Self>> From<BTreeMap<String, T>> for Tree {
    fn from(items: BTreeMap<String, T>) -> Self {
        Self::Map(items.into_iter().map(|(key, item)| (key, item.into())).collect())
    }
}

fn insert(level: &mut BTreeMap<String, Tree>, rest: &str, path: &str, array: Array) -> Result<()> {
    let clash = || {
        Err(Error::invalid_argument(
            "tree_unflatten",
            format!("{path:?} is both an array and the parent of one"),
        ))
    };
    match rest.split_once('.') {
        None => {
            if level.contains_key(rest) {
                return clash();
            }
            level.insert(rest.to_string(), Tree::Array(array));
            Ok(())
        }
        Some((key, rest)) => {
            let child = level.entry(key.to_string()).or_insert_with(|| Tree::Map(BTreeMap::new()));
            let Tree::Map(child) = child else { return clash() };
            insert(child, rest, path, array)
        }
    }
}
