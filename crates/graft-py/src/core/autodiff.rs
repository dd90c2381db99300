//! Derivatives of Python functions.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use mlx_graft::{Array, Error, transforms};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyNone, PyTuple};

use super::transformed::{Callable, Transformation, Transformed};
use super::trees;
use crate::bridge::{Held, In, Out, array_of, is_array};
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(grad, module)?)?;
    module.add_function(wrap_pyfunction!(value_and_grad, module)?)?;
    module.add_function(wrap_pyfunction!(vjp, module)?)?;
    module.add_function(wrap_pyfunction!(jvp, module)?)
}

/// Numbers of arguments.
#[derive(FromPyObject)]
enum ArgNums {
    One(i32),
    Many(Vec<i32>),
}

/// Names of arguments.
#[derive(FromPyObject)]
enum ArgNames {
    One(String),
    Set(BTreeSet<String>),
    Many(Vec<String>),
}

impl ArgNames {
    fn none() -> Self {
        Self::Many(Vec::new())
    }
}

/// A function that returns the gradient of `fun` with respect to the arguments chosen: by default
/// the first.
///
/// `fun` returns a scalar array. A single number gives a tree like that argument, several give a
/// tuple; names give a tuple of that and a dict by name.
#[pyfunction]
#[pyo3(signature = (fun, argnums=None, argnames=ArgNames::none()), text_signature = "(fun, argnums=None, argnames=[])")]
fn grad(fun: Callable, argnums: Option<ArgNums>, argnames: ArgNames) -> PyResult<Transformed> {
    Ok(Transformed::new(fun, Gradient::new("[grad]", false, argnums, argnames)?))
}

/// A function that returns what `fun` returns, and the gradient as `grad` gives it.
///
/// `fun` returns a scalar array, or a tuple that begins with one.
#[pyfunction]
#[pyo3(signature = (fun, argnums=None, argnames=ArgNames::none()), text_signature = "(fun, argnums=None, argnames=[])")]
fn value_and_grad(
    fun: Callable,
    argnums: Option<ArgNums>,
    argnames: ArgNames,
) -> PyResult<Transformed> {
    Ok(Transformed::new(fun, Gradient::new("[value_and_grad]", true, argnums, argnames)?))
}

/// What is differentiated, and how errors begin.
struct Gradient {
    tag: &'static str,
    with_value: bool,
    argnums: Vec<usize>,
    argnames: BTreeSet<String>,
}

impl Gradient {
    fn new(
        tag: &'static str,
        with_value: bool,
        argnums: Option<ArgNums>,
        argnames: ArgNames,
    ) -> PyResult<Self> {
        let argnames: BTreeSet<String> = match argnames {
            ArgNames::One(name) => [name].into(),
            ArgNames::Set(names) => names,
            ArgNames::Many(names) => names.into_iter().collect(),
        };
        let mut numbers = match argnums {
            Some(ArgNums::One(number)) => vec![number],
            Some(ArgNums::Many(numbers)) => numbers,
            None if argnames.is_empty() => vec![0],
            None => Vec::new(),
        };
        numbers.sort_unstable();
        let fail = |text: String| Err(PyValueError::new_err(format!("{tag} {text}")));
        if numbers.is_empty() && argnames.is_empty() {
            return fail("Gradient wrt no argument requested".into());
        }
        if let Some(number) = numbers.first().filter(|number| **number < 0) {
            return fail(format!("Can't compute the gradient of negative argument index {number}"));
        }
        let same = |pair: &[i32]| (pair[0] == pair[1]).then_some(pair[0]);
        if let Some(number) = numbers.windows(2).find_map(same) {
            return fail(format!("Duplicate argument index {number} is not allowed."));
        }
        let argnums = numbers.into_iter().map(|number| number as usize).collect();
        Ok(Self { tag, with_value, argnums, argnames })
    }

    fn error(&self, text: &str) -> PyErr {
        PyValueError::new_err(format!("{} {text}", self.tag))
    }

    /// Whether the arguments chosen are there.
    fn check(&self, args: &Bound<'_, PyTuple>, kwargs: &Bound<'_, PyDict>) -> PyResult<()> {
        if let Some(number) = self.argnums.last().filter(|number| **number >= args.len()) {
            return Err(self.error(&format!(
                "Can't compute the gradient of argument index {number} because the function is \
                 called with only {} positional arguments.",
                args.len()
            )));
        }
        for name in &self.argnames {
            if !kwargs.contains(name)? {
                let names: Vec<String> = kwargs.keys().iter().map(|key| key.to_string()).collect();
                let names = names.join(",");
                return Err(self.error(&format!(
                    "Can't compute the gradient of keyword argument '{name}' because the function \
                     is called with the following keyword arguments {{{names},}}"
                )));
            }
        }
        Ok(())
    }

    /// Whether `fun` returned something that has a gradient.
    fn check_value(tag: &str, with_value: bool, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let error = |text: String| {
            Err(PyValueError::new_err(format!(
                "{tag} The return value of the function whose gradient we want to compute should \
                 be {text}"
            )))
        };
        if is_array(value) {
            return Ok(());
        }
        if !with_value {
            return error(format!("a scalar array; but {} was returned.", type_name(value)?));
        }
        let form = "(Union[array, tuple[array, Any, ...]])";
        let Ok(tuple) = value.cast::<PyTuple>() else {
            return error(format!(
                "either a scalar array or a tuple with the first value being a scalar array \
                 {form}; but {} was returned.",
                type_name(value)?
            ));
        };
        let Ok(first) = tuple.get_item(0) else {
            return error(
                "either a scalar array or a non-empty tuple. The first value should be a scalar \
                 array and the rest can be anything. Instead, we got an empty tuple."
                    .into(),
            );
        };
        if is_array(&first) {
            return Ok(());
        }
        error(format!(
            "either a scalar array or a tuple with the first value being a scalar array {form}; \
             but it was a tuple with the first value being of type {} .",
            type_name(&first)?
        ))
    }
}

/// The name of an object's type as messages of `mlx.core` give it.
pub(super) fn type_name(object: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(object.get_type().fully_qualified_name()?.to_string())
}

/// The arrays of the arguments, and which of them have a gradient.
#[derive(Default)]
struct Leaves<'py> {
    arrays: Vec<Array>,
    objects: Vec<Bound<'py, PyAny>>,
    argnums: Vec<i32>,
}

impl<'py> Leaves<'py> {
    /// Adds an argument; one that is to have a gradient contains only arrays.
    fn add(&mut self, argument: &Bound<'py, PyAny>, wanted: bool) -> PyResult<()> {
        let start = self.arrays.len();
        trees::visit(argument, &mut |leaf| {
            match array_of(leaf) {
                Some(array) => {
                    self.arrays.push(array);
                    self.objects.push(leaf.clone());
                }
                None if wanted => return Err(trees::not_an_array()),
                None => {}
            }
            Ok(())
        })?;
        if wanted {
            self.argnums.extend(start as i32..self.arrays.len() as i32);
        }
        Ok(())
    }
}

impl Transformation for Gradient {
    fn call<'py>(
        &self,
        fun: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = fun.py();
        self.check(args, kwargs)?;
        let chosen = |name: &Bound<'py, PyAny>| -> PyResult<bool> {
            Ok(self.argnames.contains(name.extract::<&str>()?))
        };
        let mut leaves = Leaves::default();
        for (index, argument) in args.iter().enumerate() {
            leaves.add(&argument, self.argnums.contains(&index))?;
        }
        for (name, argument) in kwargs {
            leaves.add(&argument, chosen(&name)?)?;
        }

        let call = Call {
            fun: fun.clone().unbind(),
            args: args.clone().unbind(),
            kwargs: kwargs.clone().unbind(),
            objects: leaves.objects.into_iter().map(Bound::unbind).collect(),
        };
        let returned = Rc::new(RefCell::new(None));
        let (own, tag, with_value) = (returned.clone(), self.tag, self.with_value);
        let traced = move |tracers: &[Array]| {
            Python::attach(|py| {
                let value = call.with_tracers(py, tracers)?;
                Self::check_value(tag, with_value, &value)?;
                let arrays = trees::flatten(&value, false)?;
                *own.borrow_mut() = Some(value.unbind());
                Ok(arrays)
            })
            .map_err(closure_error)
        };
        let (values, grads) =
            transforms::value_and_grad(traced, &leaves.argnums, &leaves.arrays).map_err(to_py)?;

        let mut grads = grads.into_iter();
        let mut like = |argument: &Bound<'py, PyAny>| trees::unflatten(argument, &mut grads);
        let positional = match self.argnums[..] {
            [] => PyNone::get(py).to_owned().into_any(),
            [number] => like(&args.get_item(number)?)?,
            _ => {
                let each = self.argnums.iter().map(|number| like(&args.get_item(*number)?));
                PyTuple::new(py, each.collect::<PyResult<Vec<_>>>()?)?.into_any()
            }
        };
        let grads = if self.argnames.is_empty() {
            positional
        } else {
            let named = PyDict::new(py);
            for (name, argument) in kwargs {
                if chosen(&name)? {
                    named.set_item(name, like(&argument)?)?;
                }
            }
            (positional, named).into_pyobject(py)?.into_any()
        };
        if !self.with_value {
            return Ok(grads);
        }
        let value = returned.take().ok_or_else(|| PyRuntimeError::new_err("nothing returned"))?;
        let value = trees::unflatten(value.bind(py), &mut values.into_iter())?;
        Ok((value, grads).into_pyobject(py)?.into_any())
    }
}

/// A call of a Python function whose arguments get tracers in the place of their arrays.
struct Call {
    fun: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Py<PyDict>,
    objects: Vec<Py<PyAny>>,
}

impl Call {
    /// Calls the function. It sees the lists and dicts of the caller, which hold tracers meanwhile.
    fn with_tracers<'py>(&self, py: Python<'py>, tracers: &[Array]) -> PyResult<Bound<'py, PyAny>> {
        let tree = PyList::new(py, [self.args.bind(py).as_any(), self.kwargs.bind(py).as_any()])?;
        let filled = trees::fill(&tree, &mut tracers.iter().cloned());
        let result = filled.and_then(|()| {
            let args = tree.get_item(0)?.cast_into::<PyTuple>()?;
            let kwargs = tree.get_item(1)?.cast_into::<PyDict>()?;
            self.fun.bind(py).call(args, Some(&kwargs))
        });
        // The originals come back, except where the function wrote something else.
        let originals: HashMap<usize, &Py<PyAny>> =
            tracers.iter().map(Array::id).zip(&self.objects).collect();
        let restored = trees::update(&tree, &mut |array, object| {
            Ok(originals.get(&array.id()).map_or(object.clone(), |own| own.bind(py).clone()))
        });
        let value = result?;
        restored?;
        Ok(value)
    }
}

/// A Python exception on its way through MLX.
pub(super) fn closure_error(error: PyErr) -> Error {
    Error::closure(error)
}

/// Arguments that are sequences of arrays.
type Arrays = Vec<In>;
/// Values and products.
type Products = (Vec<Out>, Vec<Out>);

/// What `fun` returns at `primals`, and the products of the cotangents with its Jacobian.
#[pyfunction]
fn vjp(fun: Callable, primals: Arrays, cotangents: Arrays) -> PyResult<Products> {
    objects(transforms::vjp(function(fun), &primals, &cotangents))
}

/// What `fun` returns at `primals`, and the products of its Jacobian with the tangents.
#[pyfunction]
fn jvp(fun: Callable, primals: Arrays, tangents: Arrays) -> PyResult<Products> {
    if primals.len() != tangents.len() {
        return Err(PyValueError::new_err(
            "[jvp] Number of inputs does not match number of tangents.",
        ));
    }
    objects(transforms::jvp(function(fun), &primals, &tangents))
}

fn objects(products: mlx_graft::Result<(Vec<Array>, Vec<Array>)>) -> PyResult<Products> {
    let objects = |arrays: Vec<Array>| arrays.into_iter().map(Out).collect();
    let (values, products) = products.map_err(to_py)?;
    Ok((objects(values), objects(products)))
}

/// A Python function of arrays that returns an array or a sequence of them.
fn function(fun: Callable) -> impl Fn(&[Array]) -> mlx_graft::Result<Vec<Array>> + 'static {
    let fun = Held::new(fun.0);
    move |inputs: &[Array]| {
        Python::attach(|py| {
            let inputs = PyTuple::new(py, inputs.iter().cloned().map(Out))?;
            let output = fun.bind(py).call1(inputs)?;
            if let Some(array) = array_of(&output) {
                return Ok(vec![array]);
            }
            match output.extract::<Arrays>() {
                Ok(arrays) => Ok(arrays.into_iter().map(In::into_array).collect()),
                Err(_) => Err(PyRuntimeError::new_err("std::bad_cast")),
            }
        })
        .map_err(closure_error)
    }
}
