//! Python functions with rules of their own for transformations, and checkpoints.

use std::sync::{Arc, Mutex, PoisonError};

use mlx_graft::transforms::{self, CustomFunction};
use mlx_graft::{Array, ops};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::autodiff::closure_error;
use super::transformed::{Callable, Transformation, Transformed};
use super::trees;
use crate::bridge::{Held, Out, array_of, is_array};
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCustomFunction>()?;
    module.add_function(wrap_pyfunction!(checkpoint, module)?)
}

/// A function that returns what `fun` returns, and computes it again for a gradient in place of
/// keeping what lies between.
#[pyfunction]
fn checkpoint(fun: Callable) -> Transformed {
    Transformed::new(fun, Checkpoint)
}

struct Checkpoint;

impl Transformation for Checkpoint {
    fn call<'py>(
        &self,
        fun: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = Call::new(fun, args, kwargs, false)?;
        let function = call.function();
        let outputs = transforms::checkpoint(function)
            .and_then(|function| function.call(&call.inputs))
            .map_err(to_py)?;
        trees::from_structure(&call.outputs(fun.py())?, &mut outputs.into_iter())
    }
}

/// A function whose derivatives and vectorised form are given by rules.
///
/// Used as a decorator; its methods `vjp`, `jvp` and `vmap` are decorators of the rules. A rule that
/// is not given is found by transforming the function. Arrays that the function captures are
/// constants, without a gradient.
#[pyclass(name = "custom_function", module = "mlx_graft.core", weakref)]
struct PyCustomFunction {
    // None only after the garbage collector cleared it.
    function: Option<Py<PyAny>>,
    vjp: Option<Py<PyAny>>,
    jvp: Option<Py<PyAny>>,
    vmap: Option<Py<PyAny>>,
}

#[pymethods]
impl PyCustomFunction {
    #[new]
    fn new(f: Callable) -> Self {
        Self { function: Some(f.0), vjp: None, jvp: None, vmap: None }
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let (function, vjp, jvp, vmap) = {
            // Not borrowed while Python code runs, which may set a rule.
            let this = slf.borrow();
            let share = |object: &Option<Py<PyAny>>| object.as_ref().map(|o| o.clone_ref(py));
            (share(&this.function), share(&this.vjp), share(&this.jvp), share(&this.vmap))
        };
        let function = function.ok_or_else(|| {
            PyTypeError::new_err("the function was cleared by the garbage collector")
        })?;
        let function = function.bind(py);
        let kwargs = kwargs.unwrap_or_else(|| PyDict::new(py));
        if vjp.is_none() && jvp.is_none() && vmap.is_none() {
            return function.call(args, Some(&kwargs));
        }
        let call = Call::new(function, args, &kwargs, true)?;
        let mut custom = CustomFunction::new(call.function());
        if let Some(rule) = vjp {
            custom = custom.vjp(call.vjp(py, rule));
        }
        if let Some(rule) = jvp {
            custom = custom.jvp(call.jvp(py, rule));
        }
        if let Some(rule) = vmap {
            custom = custom.vmap(call.vmap(py, rule));
        }
        let outputs = custom.call(&call.inputs).map_err(to_py)?;
        trees::from_structure(&call.outputs(py)?, &mut outputs.into_iter())
    }

    /// Sets the rule for vector-Jacobian products: a function of the positional arguments (the
    /// argument itself if there is one), the cotangents and the outputs, which returns a tree like
    /// the arguments.
    fn vjp(mut slf: PyRefMut<'_, Self>, f: Callable) -> PyRefMut<'_, Self> {
        slf.vjp = Some(f.0);
        slf
    }

    /// Sets the rule for Jacobian-vector products: a function of the positional arguments (the
    /// argument itself if there is one) and their tangents, with `None` where there is none, which
    /// returns a tree like the outputs.
    fn jvp(mut slf: PyRefMut<'_, Self>, f: Callable) -> PyRefMut<'_, Self> {
        slf.jvp = Some(f.0);
        slf
    }

    /// Sets the rule for vectorisation: a function of the positional arguments (the argument itself
    /// if there is one) and their axes, with `None` where there is none, which returns the outputs
    /// and their axes.
    fn vmap(mut slf: PyRefMut<'_, Self>, f: Callable) -> PyRefMut<'_, Self> {
        slf.vmap = Some(f.0);
        slf
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&self.vjp)?;
        visit.call(&self.jvp)?;
        visit.call(&self.vmap)
    }

    fn __clear__(&mut self) {
        (self.function, self.vjp, self.jvp, self.vmap) = (None, None, None, None);
    }
}

/// Vectorised outputs and their axes.
type Mapped = (Vec<Array>, Vec<Option<i32>>);

/// Arguments without their arrays, and where the structure of what the function returned goes.
struct Form {
    /// The pair of positional and named arguments.
    arguments: Py<PyAny>,
    outputs: Arc<Mutex<Option<Py<PyAny>>>>,
    /// Whether the function returns arrays only.
    strict: bool,
}

impl Form {
    fn share(&self, py: Python<'_>) -> Self {
        Self {
            arguments: self.arguments.clone_ref(py),
            outputs: self.outputs.clone(),
            strict: self.strict,
        }
    }

    /// The arguments with these arrays.
    fn arguments<'py>(
        &self,
        py: Python<'py>,
        arrays: &[Array],
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        trees::from_structure(self.arguments.bind(py), &mut arrays.iter().cloned())?.extract()
    }

    /// The structure of what the function returned when it ran last.
    fn outputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = outputs.as_ref().map(|outputs| outputs.bind(py).clone());
        outputs.ok_or_else(|| PyRuntimeError::new_err("the function did not run"))
    }
}

/// A call of a Python function through MLX.
struct Call {
    function: Py<PyAny>,
    inputs: Vec<Array>,
    num_positional: usize,
    form: Form,
}

impl Call {
    fn new<'py>(
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
        strict: bool,
    ) -> PyResult<Self> {
        let (positional, args) = trees::structure(args, false)?;
        let (named, kwargs) = trees::structure(kwargs, false)?;
        let num_positional = positional.len();
        let arguments = (args, kwargs).into_pyobject(function.py())?.into_any().unbind();
        Ok(Self {
            function: function.clone().unbind(),
            inputs: positional.into_iter().chain(named).collect(),
            num_positional,
            form: Form { arguments, outputs: Arc::default(), strict },
        })
    }

    fn outputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.form.outputs(py)
    }

    /// The function, of arrays.
    fn function(&self) -> impl Fn(&[Array]) -> mlx_graft::Result<Vec<Array>> + 'static {
        let held =
            Python::attach(|py| Held::new((self.function.clone_ref(py), self.form.share(py))));
        move |inputs: &[Array]| {
            let (function, form) = &*held;
            Python::attach(|py| {
                let (args, kwargs) = form.arguments(py, inputs)?;
                let returned = function.bind(py).call(args, Some(&kwargs))?;
                let (arrays, structure) = trees::structure(&returned, form.strict)?;
                let mut outputs = form.outputs.lock().unwrap_or_else(PoisonError::into_inner);
                let former = outputs.replace(structure.unbind());
                // Freeing it may run Python code, which may come back here.
                drop(outputs);
                drop(former);
                Ok(arrays)
            })
            .map_err(closure_error)
        }
    }

    /// A rule for vector-Jacobian products, of arrays.
    fn vjp(
        &self,
        py: Python<'_>,
        rule: Py<PyAny>,
    ) -> impl Fn(&[Array], &[Array], &[Array]) -> mlx_graft::Result<Vec<Array>> + 'static {
        let held = Held::new((rule, self.form.share(py)));
        let num_positional = self.num_positional;
        move |primals: &[Array], cotangents: &[Array], outputs: &[Array]| {
            let (rule, form) = &*held;
            Python::attach(|py| {
                let (args, kwargs) = form.arguments(py, primals)?;
                let structure = form.outputs(py)?;
                let like = |arrays: &[Array]| {
                    trees::from_structure(&structure, &mut arrays.iter().cloned())
                };
                let rule = rule.bind(py);
                let given = (one_or_all(&args)?, like(cotangents)?, like(outputs)?);
                products(&rule.call(given, Some(&kwargs))?, primals, num_positional)
            })
            .map_err(closure_error)
        }
    }

    /// A rule for Jacobian-vector products, of arrays.
    fn jvp(
        &self,
        py: Python<'_>,
        rule: Py<PyAny>,
    ) -> impl Fn(&[Array], &[Array], &[usize]) -> mlx_graft::Result<Vec<Array>> + 'static {
        let held = Held::new((rule, self.form.share(py)));
        move |primals: &[Array], tangents: &[Array], argnums: &[usize]| {
            let (rule, form) = &*held;
            Python::attach(|py| {
                let (args, kwargs) = form.arguments(py, primals)?;
                positional_only("jvp", &kwargs)?;
                let mut index = 0;
                let tangents = trees::map(&args, &mut |leaf| {
                    if !is_array(leaf) {
                        return Ok(py.None().into_bound(py));
                    }
                    let position = argnums.iter().position(|n| *n == index);
                    index += 1;
                    match position.and_then(|position| tangents.get(position)) {
                        Some(tangent) => Out(tangent.clone()).into_pyobject(py),
                        None => Ok(py.None().into_bound(py)),
                    }
                })?;
                let tangents = one_or_all(&tangents.cast_into()?)?;
                let products = rule.bind(py).call1((one_or_all(&args)?, tangents))?;
                trees::flatten(&products, false)
            })
            .map_err(closure_error)
        }
    }

    /// A rule for vectorisation, of arrays.
    fn vmap(
        &self,
        py: Python<'_>,
        rule: Py<PyAny>,
    ) -> impl Fn(&[Array], &[Option<i32>]) -> mlx_graft::Result<Mapped> + 'static {
        let held = Held::new((rule, self.form.share(py)));
        move |inputs: &[Array], axes: &[Option<i32>]| {
            let (rule, form) = &*held;
            Python::attach(|py| {
                let (args, kwargs) = form.arguments(py, inputs)?;
                positional_only("vmap", &kwargs)?;
                let mut axes = axes.iter();
                let axes = trees::map(&args, &mut |leaf| {
                    let axis = match array_of(leaf) {
                        Some(_) => axes.next().copied().flatten(),
                        None => None,
                    };
                    Ok(axis.into_pyobject(py)?.into_any())
                })?;
                let axes = one_or_all(&axes.cast_into()?)?;
                let result = rule.bind(py).call1((one_or_all(&args)?, axes))?;
                let pair = result.cast_into::<PyTuple>().ok().filter(|pair| pair.len() == 2);
                let pair = pair.ok_or_else(|| {
                    PyValueError::new_err(
                        "[custom vmap] Vmap function should return a tuple with 2 items.",
                    )
                })?;
                let (mut outputs, mut axes) = (Vec::new(), Vec::new());
                trees::visit_with_prefix(
                    &pair.get_item(0)?,
                    &pair.get_item(1)?,
                    &mut |leaf, axis| {
                        if let Some(array) = array_of(leaf) {
                            outputs.push(array);
                            axes.push(axis.extract()?);
                        }
                        Ok(())
                    },
                )?;
                Ok((outputs, axes))
            })
            .map_err(closure_error)
        }
    }
}

/// The only argument, or the tuple of all.
fn one_or_all<'py>(args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    if args.len() == 1 { args.get_item(0) } else { Ok(args.clone().into_any()) }
}

fn positional_only(rule: &str, kwargs: &Bound<'_, PyDict>) -> PyResult<()> {
    if kwargs.is_empty() {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "[custom {rule}] Function should only accept positional arguments"
    )))
}

/// The products that a rule returned, one for each array of the arguments. `None` stands for zeros,
/// as does what is missing for arguments by name: rules are not asked for these.
fn products(
    returned: &Bound<'_, PyAny>,
    primals: &[Array],
    num_positional: usize,
) -> PyResult<Vec<Array>> {
    let mut products = Vec::new();
    trees::visit(returned, &mut |leaf| {
        let array = array_of(leaf);
        if array.is_some() || leaf.is_none() {
            products.push(array);
        }
        Ok(())
    })?;
    if products.len() >= num_positional {
        products.resize(primals.len(), None);
    }
    let zeros = |(product, primal): (Option<Array>, &Array)| match product {
        Some(product) => Ok(product),
        None => ops::zeros_like(primal).map_err(to_py),
    };
    products.into_iter().zip(primals).map(zeros).collect()
}
