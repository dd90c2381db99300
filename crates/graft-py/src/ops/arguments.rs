//! Python arguments as operations take them.

use mlx_graft::stream::on_stream;
use pyo3::exceptions::{PyOverflowError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList, PyTuple};
use smallvec::{SmallVec, smallvec};

pub(crate) use crate::bridge::DtypeArg;
use crate::bridge::{In, StreamOrDevice, wrong_type};
use crate::error::to_py;

/// An integer. One that is too large for `T` is of the wrong type, as in `mlx.core`.
#[derive(Clone, Copy)]
pub(crate) struct Int<T>(pub(crate) T);

impl<'a, 'py, T> FromPyObject<'a, 'py> for Int<T>
where
    T: FromPyObject<'a, 'py, Error = PyErr>,
{
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Self).map_err(|_| wrong_type("an integer of fewer bits", object))
    }
}

/// A sequence of integers.
pub(crate) struct Ints(pub(crate) Vec<i32>);

impl<'py> FromPyObject<'_, 'py> for Ints {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let integers = integers(object);
        integers
            .map(|integers| Self(integers.into_vec()))
            .ok_or_else(|| wrong_type("a sequence of integers", object))
    }
}

/// The elements of a sequence, if they are integers. Most are tuples and lists, which need no search
/// for a protocol.
#[inline]
fn integers(object: Borrowed<'_, '_, PyAny>) -> Option<Lengths> {
    let mut integers = Lengths::new();
    if let Ok(tuple) = object.cast::<PyTuple>() {
        for item in tuple.iter_borrowed() {
            integers.push(item.extract().ok()?);
        }
    } else if let Ok(list) = object.cast::<PyList>() {
        for item in list.iter() {
            integers.push(item.extract().ok()?);
        }
    } else {
        integers = object.extract::<Vec<i32>>().ok()?.into();
    }
    Some(integers)
}

/// One axis or several.
pub(crate) enum Axes {
    /// An integer.
    One(i32),
    /// A sequence of integers.
    Many(Vec<i32>),
}

impl<'py> FromPyObject<'_, 'py> for Axes {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let sequence = object.is_instance_of::<PyTuple>() || object.is_instance_of::<PyList>();
        if !sequence && let Ok(axis) = object.extract() {
            return Ok(Self::One(axis));
        }
        integers(object)
            .map(|integers| Self::Many(integers.into_vec()))
            .ok_or_else(|| wrong_type("an integer or a sequence of them", object))
    }
}

/// A sequence of integers; one integer counts as a sequence of one.
pub(crate) struct IntOrInts(pub(crate) Vec<i32>);

impl<'py> FromPyObject<'_, 'py> for IntOrInts {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(match object.extract()? {
            Axes::One(value) => vec![value],
            Axes::Many(values) => values,
        }))
    }
}

/// A number for each of `N` dimensions; one number counts for all.
pub(crate) struct Each<const N: usize>(pub(crate) [i32; N]);

impl<'py, const N: usize> FromPyObject<'_, 'py> for Each<N> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let numbers = match object.extract()? {
            Axes::One(number) => Ok([number; N]),
            Axes::Many(numbers) => numbers.try_into(),
        };
        numbers.map(Self).map_err(|_| wrong_type(&format!("an integer or {N} of them"), object))
    }
}

/// The lengths of dimensions. One that is too large overflows.
#[derive(Default)]
pub(crate) struct Shape(pub(crate) Lengths);

/// Allocates for more dimensions than this only.
type Lengths = SmallVec<[i32; 8]>;

impl<'py> FromPyObject<'_, 'py> for Shape {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Some(lengths) = integers(object) {
            return Ok(Self(lengths));
        }
        let lengths: Vec<i64> = object.extract().map_err(|_| wrong_type("a shape", object))?;
        lengths.into_iter().map(length).collect::<PyResult<_>>().map(Self)
    }
}

/// A shape; an integer counts as one of one dimension. What is neither raises what `mlx.core` raises.
pub(crate) struct IntOrShape(pub(crate) Lengths);

impl<'py> FromPyObject<'_, 'py> for IntOrShape {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let ill_typed =
            |error: PyErr| PyRuntimeError::new_err(error.value(object.py()).to_string());
        if object.is_instance_of::<PyInt>() {
            return Ok(Self(smallvec![length(object.extract().map_err(ill_typed)?)?]));
        }
        match object.extract::<Shape>() {
            Ok(shape) => Ok(Self(shape.0)),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => Err(error),
            Err(error) => Err(ill_typed(error)),
        }
    }
}

fn length(value: i64) -> PyResult<i32> {
    i32::try_from(value).map_err(|_| {
        PyOverflowError::new_err(format!(
            "a length of {value} is too large: MLX has 32 bits for it"
        ))
    })
}

/// All positional arguments as arrays. Others raise what `mlx.core` raises for them.
pub(crate) fn inputs(arguments: &Bound<'_, PyTuple>) -> PyResult<Vec<In>> {
    let array = |argument: Bound<'_, PyAny>| argument.extract();
    let arrays: PyResult<Vec<In>> = arguments.iter().map(array).collect();
    arrays.map_err(|error| PyRuntimeError::new_err(error.value(arguments.py()).to_string()))
}

/// Runs an operation on a stream of Python's, or on the one in scope.
#[inline]
pub(crate) fn run<T>(
    stream: Option<&Bound<'_, PyAny>>,
    f: impl FnOnce() -> mlx_graft::Result<T>,
) -> PyResult<T> {
    match stream {
        None => f(),
        Some(stream) => stream
            .extract::<StreamOrDevice>()?
            .into_stream()
            .and_then(|stream| on_stream(&stream, f)),
    }
    .map_err(to_py)
}
