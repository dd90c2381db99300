//! Rules between dtypes and between shapes, and the limits of dtypes.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::{Dtype, DtypeCategory, FloatLimits, IntLimits};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyTuple};

use crate::bridge::In;
use crate::error::to_py;
use crate::ops::arguments::{DtypeArg, Shape};

/// Adds the functions and classes of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<FInfo>()?;
    module.add_class::<IInfo>()?;
    module.add_function(wrap_pyfunction!(broadcast_shapes, module)?)?;
    module.add_function(wrap_pyfunction!(can_cast, module)?)?;
    module.add_function(wrap_pyfunction!(isdtype, module)?)?;
    module.add_function(wrap_pyfunction!(issubdtype, module)?)?;
    module.add_function(wrap_pyfunction!(result_type, module)?)
}

/// The dtype of an array, or a dtype itself.
fn dtype_of(op: &str, object: &Bound<'_, PyAny>) -> PyResult<Dtype> {
    if let Ok(array) = object.extract::<In>() {
        return Ok(array.dtype());
    }
    match object.extract::<DtypeArg>() {
        Ok(dtype) => Ok(dtype.0),
        Err(_) => Err(wanted(op, "an array or a dtype", object)),
    }
}

fn wanted(op: &str, what: &str, found: &Bound<'_, PyAny>) -> PyErr {
    let ty = found.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    PyValueError::new_err(format!("[{op}] expected {what}, not {ty}"))
}

/// The dtype to which all arguments are promoted.
#[pyfunction]
#[pyo3(signature = (*arrays_and_dtypes))]
fn result_type(arrays_and_dtypes: &Bound<'_, PyTuple>) -> PyResult<DtypeArg> {
    let mut promoted: Option<Dtype> = None;
    for object in arrays_and_dtypes {
        let dtype = dtype_of("result_type", &object)?;
        promoted = Some(promoted.map_or(dtype, |promoted| promoted.promote(dtype)));
    }
    promoted
        .map(DtypeArg)
        .ok_or_else(|| PyValueError::new_err("[result_type] needs an array or a dtype"))
}

/// Whether promoting both dtypes gives `to`.
#[pyfunction]
fn can_cast(from_: &Bound<'_, PyAny>, to: DtypeArg) -> PyResult<bool> {
    Ok(dtype_of("can_cast", from_)?.can_cast(to.0))
}

/// A dtype, or a category of dtypes.
#[derive(Clone, Copy)]
enum Kind {
    Dtype(Dtype),
    Category(DtypeCategory),
}

impl Kind {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(dtype) = object.extract::<DtypeArg>() {
            return Ok(Self::Dtype(dtype.0));
        }
        let class = object.py().import("mlx.core")?.getattr("DtypeCategory")?;
        if object.is_instance(&class)? {
            let name = object.getattr("name")?;
            let name = name.extract::<&str>()?;
            if let Some(category) = DtypeCategory::ALL.iter().find(|c| c.name() == name) {
                return Ok(Self::Category(*category));
            }
        }
        Err(wanted("issubdtype", "a dtype or a category", object))
    }
}

/// Whether a dtype or category is part of another.
#[pyfunction]
#[pyo3(signature = (arg1, arg2, /))]
fn issubdtype(arg1: &Bound<'_, PyAny>, arg2: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(match (Kind::of(arg1)?, Kind::of(arg2)?) {
        (Kind::Dtype(dtype), Kind::Dtype(other)) => dtype == other,
        (Kind::Dtype(dtype), Kind::Category(category)) => dtype.category().is_in(category),
        (Kind::Category(category), Kind::Category(other)) => category.is_in(other),
        (Kind::Category(_), Kind::Dtype(_)) => false,
    })
}

/// Whether a dtype is of a kind: another dtype, a name of the array API, or one of a tuple of them.
#[pyfunction]
fn isdtype(dtype: DtypeArg, kind: &Bound<'_, PyAny>) -> PyResult<bool> {
    let Ok(kinds) = kind.cast::<PyTuple>() else { return is_of_kind(dtype.0, kind) };
    for kind in kinds {
        if is_of_kind(dtype.0, &kind)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_of_kind(dtype: Dtype, kind: &Bound<'_, PyAny>) -> PyResult<bool> {
    if let Ok(other) = kind.extract::<DtypeArg>() {
        return Ok(dtype == other.0);
    }
    let Ok(name) = kind.extract::<&str>() else {
        return Err(wanted("isdtype", "a dtype, a name, or a tuple of them", kind));
    };
    let category = match name {
        "bool" => return Ok(dtype == Dtype::Bool),
        "signed integer" => DtypeCategory::Signedinteger,
        "unsigned integer" => DtypeCategory::Unsignedinteger,
        "integral" => DtypeCategory::Integer,
        "real floating" => DtypeCategory::Floating,
        "complex floating" => DtypeCategory::Complexfloating,
        "numeric" => DtypeCategory::Number,
        _ => {
            return Err(PyValueError::new_err(format!("[isdtype] there is no kind {name:?}")));
        }
    };
    Ok(dtype.category().is_in(category))
}

/// The shape to which arrays of the given shapes broadcast.
#[pyfunction]
#[pyo3(signature = (*shapes))]
fn broadcast_shapes<'py>(shapes: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyTuple>> {
    let mut common: Option<Vec<i32>> = None;
    for object in shapes {
        let Ok(Shape(shape)) = object.extract() else {
            return Err(wanted("broadcast_shapes", "a sequence of integers", &object));
        };
        common = Some(match common {
            None => shape.into_vec(),
            Some(common) => mlx_graft::broadcast_shapes(&common, &shape).map_err(to_py)?,
        });
    }
    let common = common.ok_or_else(|| PyValueError::new_err("[broadcast_shapes] needs a shape"))?;
    PyTuple::new(shapes.py(), common)
}

/// The limits of a floating-point dtype; those of the parts for a complex one.
#[pyclass(name = "finfo", module = "mlx_graft.core", frozen)]
struct FInfo(FloatLimits);

#[pymethods]
impl FInfo {
    #[new]
    #[pyo3(signature = (dtype, /))]
    fn new(dtype: DtypeArg) -> PyResult<Self> {
        FloatLimits::of(dtype.0).map(Self).map_err(to_py)
    }

    /// The bits of a number.
    #[getter]
    fn bits(&self) -> u32 {
        self.0.bits
    }

    /// The smallest number.
    #[getter]
    fn min(&self) -> f64 {
        self.0.min
    }

    /// The largest number.
    #[getter]
    fn max(&self) -> f64 {
        self.0.max
    }

    /// The distance from 1 to the next larger number.
    #[getter]
    fn eps(&self) -> f64 {
        self.0.eps
    }

    /// The smallest positive number of full precision.
    #[getter]
    fn smallest_normal(&self) -> f64 {
        self.0.smallest_normal
    }

    /// The dtype of the numbers.
    #[getter]
    fn dtype(&self) -> DtypeArg {
        DtypeArg(self.0.dtype)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let short = |number| PyFloat::new(py, number).call_method1("__format__", ("g",));
        let (min, max) = (short(self.0.min)?, short(self.0.max)?);
        Ok(format!("finfo(min={min}, max={max}, dtype={})", self.0.dtype))
    }
}

/// The limits of an integer dtype.
#[pyclass(name = "iinfo", module = "mlx_graft.core", frozen)]
struct IInfo(IntLimits);

#[pymethods]
impl IInfo {
    #[new]
    #[pyo3(signature = (dtype, /))]
    fn new(dtype: DtypeArg) -> PyResult<Self> {
        IntLimits::of(dtype.0).map(Self).map_err(to_py)
    }

    /// The smallest number.
    #[getter]
    fn min(&self) -> i64 {
        self.0.min
    }

    /// The largest number.
    #[getter]
    fn max(&self) -> u64 {
        self.0.max
    }

    /// The dtype of the numbers.
    #[getter]
    fn dtype(&self) -> DtypeArg {
        DtypeArg(self.0.dtype)
    }

    fn __repr__(&self) -> String {
        format!("iinfo(min={}, max={}, dtype={})", self.0.min, self.0.max, self.0.dtype)
    }
}
