//! Trees of Python objects: nested lists, tuples and dicts, with arrays and anything else as
//! leaves. As in `mlx.core`, `mlx.core.random.state` is a leaf that stands for the random key.

use mlx_graft::Array;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use crate::bridge::{Out, array_of, is_array};
use crate::ops::random_state;

/// What looks at a leaf.
type Visitor<'a, 'py> = &'a mut dyn FnMut(&Bound<'py, PyAny>) -> PyResult<()>;
/// What looks at a leaf and at what stands for it in a prefix.
type PairVisitor<'a, 'py> =
    &'a mut dyn FnMut(&Bound<'py, PyAny>, &Bound<'py, PyAny>) -> PyResult<()>;
/// What makes a new leaf of an old one.
type Mapper<'a, 'py> = &'a mut dyn FnMut(&Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>;
/// What makes a new leaf of an array and its object.
type Updater<'a, 'py> = &'a mut dyn FnMut(Array, &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>;

/// Calls `f` with every leaf in order.
pub(super) fn visit<'py>(tree: &Bound<'py, PyAny>, f: Visitor<'_, 'py>) -> PyResult<()> {
    if let Ok(list) = tree.cast::<PyList>() {
        list.iter().try_for_each(|item| visit(&item, f))
    } else if let Ok(tuple) = tree.cast::<PyTuple>() {
        tuple.iter_borrowed().try_for_each(|item| visit(&item, f))
    } else if let Ok(dict) = tree.cast::<PyDict>() {
        items(dict).iter().try_for_each(|(_, item)| visit(item, f))
    } else if random_state::is_state(tree)? {
        f(&random_state::key(tree.py())?)
    } else {
        f(tree)
    }
}

/// The entries of a dict as they are now: what `f` of a traversal calls may change it.
fn items<'py>(dict: &Bound<'py, PyDict>) -> Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    dict.iter().collect()
}

/// The arrays in order. Other leaves are left out, or an error if `strict`.
pub(super) fn flatten(tree: &Bound<'_, PyAny>, strict: bool) -> PyResult<Vec<Array>> {
    let mut arrays = Vec::new();
    visit(tree, &mut |leaf| {
        match array_of(leaf) {
            Some(array) => arrays.push(array),
            None if strict => return Err(not_an_array()),
            None => {}
        }
        Ok(())
    })?;
    Ok(arrays)
}

pub(super) fn not_an_array() -> PyErr {
    PyValueError::new_err("[tree_flatten] The argument should contain only arrays")
}

/// A new tree with every leaf replaced by what `f` makes of it.
pub(super) fn map<'py>(
    tree: &Bound<'py, PyAny>,
    f: Mapper<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = tree.py();
    if let Ok(list) = tree.cast::<PyList>() {
        let new = PyList::empty(py);
        for item in list {
            new.append(map(&item, f)?)?;
        }
        Ok(new.into_any())
    } else if let Ok(tuple) = tree.cast::<PyTuple>() {
        let new = tuple.iter().map(|item| map(&item, f)).collect::<PyResult<_>>()?;
        tuple_like(tuple, new)
    } else if let Ok(dict) = tree.cast::<PyDict>() {
        let new = PyDict::new(py);
        for (key, item) in items(dict) {
            new.set_item(key, map(&item, f)?)?;
        }
        Ok(new.into_any())
    } else {
        f(tree)
    }
}

/// A tuple of the type of another one, which may have named fields.
fn tuple_like<'py>(
    tuple: &Bound<'py, PyTuple>,
    items: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let new = PyTuple::new(tuple.py(), items)?;
    if tuple.is_exact_instance_of::<PyTuple>() {
        return Ok(new.into_any());
    }
    let ty: Bound<'py, PyType> = tuple.get_type();
    if ty.hasattr("_fields")? { ty.call1(new) } else { ty.call1((new.to_list(),)) }
}

/// A new tree with its arrays replaced, in order; other leaves are the same objects.
pub(super) fn unflatten<'py>(
    tree: &Bound<'py, PyAny>,
    arrays: &mut dyn Iterator<Item = Array>,
) -> PyResult<Bound<'py, PyAny>> {
    map(tree, &mut |leaf| match array_of(leaf) {
        Some(_) => next(leaf.py(), arrays),
        None => Ok(leaf.clone()),
    })
}

fn next<'py>(
    py: Python<'py>,
    arrays: &mut dyn Iterator<Item = Array>,
) -> PyResult<Bound<'py, PyAny>> {
    Out(arrays.next().ok_or_else(changed)?).into_pyobject(py)
}

pub(super) fn changed() -> PyErr {
    PyRuntimeError::new_err("a tree of arrays changed while a function was transformed")
}

/// Replaces every array in place by what `f` makes of it. Lists and dicts are written to; a tuple
/// is replaced by a new one where it lies in a list or dict, so the root must be one of these.
pub(super) fn update<'py>(
    tree: &Bound<'py, PyAny>,
    f: Updater<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(list) = tree.cast::<PyList>() {
        for index in 0..list.len() {
            list.set_item(index, update(&list.get_item(index)?, f)?)?;
        }
        Ok(tree.clone())
    } else if let Ok(tuple) = tree.cast::<PyTuple>() {
        let new = tuple.iter().map(|item| update(&item, f)).collect::<PyResult<_>>()?;
        tuple_like(tuple, new)
    } else if let Ok(dict) = tree.cast::<PyDict>() {
        for (key, item) in items(dict) {
            dict.set_item(key, update(&item, f)?)?;
        }
        Ok(tree.clone())
    } else if random_state::is_state(tree)? {
        let key = random_state::key(tree.py())?;
        if let Some(array) = array_of(&key)
            && let Some(array) = array_of(&f(array, &key)?)
        {
            random_state::set_key(tree.py(), array)?;
        }
        Ok(tree.clone())
    } else if let Some(array) = array_of(tree) {
        f(array, tree)
    } else {
        Ok(tree.clone())
    }
}

/// Replaces the arrays in place, in order.
pub(super) fn fill(
    tree: &Bound<'_, PyAny>,
    arrays: &mut dyn Iterator<Item = Array>,
) -> PyResult<()> {
    update(tree, &mut |_, old| next(old.py(), arrays)).map(drop)
}

/// A list or dict, an index or key of it, and what lies there.
type Place<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// What lies where in trees, so that it can be put back after a failure.
#[derive(Default)]
pub(super) struct Snapshot<'py>(Vec<Place<'py>>);

impl<'py> Snapshot<'py> {
    /// Remembers the arrays of a tree, and their places in lists and dicts.
    pub(super) fn add(&mut self, tree: &Bound<'py, PyAny>) -> PyResult<()> {
        if let Ok(list) = tree.cast::<PyList>() {
            for (index, item) in list.iter().enumerate() {
                self.add_child(tree, index.into_pyobject(tree.py())?.into_any(), item)?;
            }
        } else if let Ok(dict) = tree.cast::<PyDict>() {
            for (key, item) in items(dict) {
                self.add_child(tree, key, item)?;
            }
        } else if let Ok(tuple) = tree.cast::<PyTuple>() {
            // The tuple as it is comes back with its list or dict; what lies in it may be written.
            tuple.iter().try_for_each(|item| self.add(&item))?;
        } else if random_state::is_state(tree)? {
            self.0.push((tree.clone(), tree.clone(), random_state::key(tree.py())?));
        }
        Ok(())
    }

    fn add_child(
        &mut self,
        container: &Bound<'py, PyAny>,
        key: Bound<'py, PyAny>,
        item: Bound<'py, PyAny>,
    ) -> PyResult<()> {
        self.add(&item)?;
        if is_array(&item) || item.is_instance_of::<PyTuple>() {
            self.0.push((container.clone(), key, item));
        }
        Ok(())
    }

    /// Puts the arrays back where they were.
    pub(super) fn restore(self) -> PyResult<()> {
        for (container, key, item) in self.0 {
            if random_state::is_state(&container)? {
                if let Some(array) = array_of(&item) {
                    random_state::set_key(container.py(), array)?;
                }
            } else if let Ok(list) = container.cast::<PyList>() {
                let index: usize = key.extract()?;
                if index < list.len() {
                    list.set_item(index, item)?;
                }
            } else if let Ok(dict) = container.cast::<PyDict>() {
                dict.set_item(key, item)?;
            }
        }
        Ok(())
    }
}

/// A tree with a mark in the place of every array: what is left to know of it when the arrays are
/// elsewhere.
pub(super) fn structure<'py>(
    tree: &Bound<'py, PyAny>,
    strict: bool,
) -> PyResult<(Vec<Array>, Bound<'py, PyAny>)> {
    let mut arrays = Vec::new();
    let structure = map(tree, &mut |leaf| match array_of(leaf) {
        Some(array) => {
            arrays.push(array);
            mark(leaf.py())
        }
        None if strict => Err(not_an_array()),
        None => Ok(leaf.clone()),
    })?;
    Ok((arrays, structure))
}

/// A tree of a structure.
pub(super) fn from_structure<'py>(
    structure: &Bound<'py, PyAny>,
    arrays: &mut dyn Iterator<Item = Array>,
) -> PyResult<Bound<'py, PyAny>> {
    let mark = mark(structure.py())?;
    map(structure, &mut |leaf| {
        if leaf.is(&mark) { next(leaf.py(), arrays) } else { Ok(leaf.clone()) }
    })
}

fn mark(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static MARK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || Ok::<_, PyErr>(py.import("builtins")?.getattr("object")?.call0()?.unbind());
    Ok(MARK.get_or_try_init(py, make)?.bind(py).clone())
}

/// Calls `f` with every leaf and what stands for it in `prefix`: a tree of the same form, or of the
/// upper part of it.
pub(super) fn visit_with_prefix<'py>(
    tree: &Bound<'py, PyAny>,
    prefix: &Bound<'py, PyAny>,
    f: PairVisitor<'_, 'py>,
) -> PyResult<()> {
    if let Ok(list) = tree.cast::<PyList>() {
        let parts = prefix.cast::<PyList>().ok();
        check_prefix(prefix, list.len(), parts.map(PyListMethods::len))?;
        for (index, item) in list.iter().enumerate() {
            let part = parts.map_or_else(|| Ok(prefix.clone()), |parts| parts.get_item(index))?;
            visit_with_prefix(&item, &part, f)?;
        }
        Ok(())
    } else if let Ok(tuple) = tree.cast::<PyTuple>() {
        let parts = prefix.cast::<PyTuple>().ok();
        check_prefix(prefix, tuple.len(), parts.map(PyTupleMethods::len))?;
        for (index, item) in tuple.iter().enumerate() {
            let part = parts.map_or_else(|| Ok(prefix.clone()), |parts| parts.get_item(index))?;
            visit_with_prefix(&item, &part, f)?;
        }
        Ok(())
    } else if let Ok(dict) = tree.cast::<PyDict>() {
        let parts = prefix.cast::<PyDict>().ok();
        check_prefix(prefix, dict.len(), parts.map(PyDictMethods::len))?;
        for (key, item) in items(dict) {
            let part = match parts {
                None => prefix.clone(),
                Some(parts) => parts.get_item(&key)?.ok_or_else(|| {
                    PyValueError::new_err(
                        "[tree_visit] Tree is not a valid prefix tree of the first tree.",
                    )
                })?,
            };
            visit_with_prefix(&item, &part, f)?;
        }
        Ok(())
    } else {
        f(tree, prefix)
    }
}

/// A prefix is a container of the same kind and length, or no container.
fn check_prefix(prefix: &Bound<'_, PyAny>, len: usize, own: Option<usize>) -> PyResult<()> {
    let container = prefix.is_instance_of::<PyList>()
        || prefix.is_instance_of::<PyTuple>()
        || prefix.is_instance_of::<PyDict>();
    if own.map_or(!container, |own| own == len) {
        return Ok(());
    }
    Err(PyValueError::new_err(
        "[tree_map] Additional input tree is not a valid prefix of the first tree.",
    ))
}
