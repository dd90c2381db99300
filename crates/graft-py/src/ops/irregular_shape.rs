//! Functions on shapes and on lists of arrays that return one array or several, by their arguments.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::{Array, Result, ops};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use super::arguments::{Axes, Int, Shape, inputs, run};
use crate::bridge::{In, Out, unchecked};
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(as_strided, module)?)?;
    module.add_function(wrap_pyfunction!(atleast_1d, module)?)?;
    module.add_function(wrap_pyfunction!(atleast_2d, module)?)?;
    module.add_function(wrap_pyfunction!(atleast_3d, module)?)?;
    module.add_function(wrap_pyfunction!(depends, module)?)?;
    module.add_function(wrap_pyfunction!(meshgrid, module)?)?;
    module.add_function(wrap_pyfunction!(put_along_axis, module)?)?;
    module.add_function(wrap_pyfunction!(roll, module)?)?;
    module.add_function(wrap_pyfunction!(take, module)?)?;
    module.add_function(wrap_pyfunction!(take_along_axis, module)?)
}

/// One array, or several.
#[derive(IntoPyObject)]
enum OneOrMany {
    One(Out),
    Many(Vec<Out>),
}

/// A view of the flat elements with any shape, strides and offset, counted in elements.
///
/// Without a shape it has that of `a`, without strides it is dense.
#[pyfunction]
#[pyo3(signature = (a, /, shape=None, strides=None, offset=Int(0), *, stream=None), text_signature = "(a, /, shape=None, strides=None, offset=0, *, stream=None)")]
fn as_strided(
    a: In,
    shape: Option<Shape>,
    strides: Option<Vec<i64>>,
    offset: Int<usize>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let shape = shape.map_or_else(|| a.shape().into(), |shape| shape.0);
    let strides = strides.unwrap_or_else(|| dense(&shape));
    run(stream, || ops::strided_view(&a, &shape, &strides, offset.0)).map(Out)
}

/// The strides of a row-contiguous array.
fn dense(shape: &[i32]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * i64::from(shape[axis]);
    }
    strides
}

/// Each array with at least one dimension.
#[pyfunction]
#[pyo3(signature = (*arys, stream=None))]
fn atleast_1d(arys: &Bound<'_, PyTuple>, stream: Option<&Bound<'_, PyAny>>) -> PyResult<OneOrMany> {
    each(ops::atleast_1d, arys, stream)
}

/// Each array with at least two dimensions.
#[pyfunction]
#[pyo3(signature = (*arys, stream=None))]
fn atleast_2d(arys: &Bound<'_, PyTuple>, stream: Option<&Bound<'_, PyAny>>) -> PyResult<OneOrMany> {
    each(ops::atleast_2d, arys, stream)
}

/// Each array with at least three dimensions.
#[pyfunction]
#[pyo3(signature = (*arys, stream=None))]
fn atleast_3d(arys: &Bound<'_, PyTuple>, stream: Option<&Bound<'_, PyAny>>) -> PyResult<OneOrMany> {
    each(ops::atleast_3d, arys, stream)
}

/// An operation on each array; a single one is returned as it is.
fn each(
    op: fn(&Array) -> Result<Array>,
    arrays: &Bound<'_, PyTuple>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<OneOrMany> {
    let arrays = inputs(arrays)?;
    run(stream, || match &arrays[..] {
        [array] => Ok(OneOrMany::One(Out(op(array)?))),
        arrays => arrays
            .iter()
            .map(|array| op(array).map(Out))
            .collect::<Result<_>>()
            .map(OneOrMany::Many),
    })
}

/// The inputs, evaluated only after the dependencies.
#[pyfunction]
#[pyo3(signature = (inputs, dependencies, /))]
fn depends(inputs: &Bound<'_, PyAny>, dependencies: &Bound<'_, PyAny>) -> PyResult<OneOrMany> {
    let (inputs, single) = arrays(inputs)?;
    let (dependencies, _) = arrays(dependencies)?;
    let mut outputs = ops::depends(&inputs, &dependencies).map_err(to_py)?;
    match outputs.pop() {
        Some(output) if single => Ok(OneOrMany::One(Out(output))),
        last => Ok(OneOrMany::Many(outputs.into_iter().chain(last).map(Out).collect())),
    }
}

/// An array, or a sequence of arrays; whether it was one.
fn arrays(object: &Bound<'_, PyAny>) -> PyResult<(Vec<In>, bool)> {
    match object.extract() {
        Ok(array) => Ok((vec![array], true)),
        Err(_) => match object.extract() {
            Ok(arrays) => Ok((arrays, false)),
            Err(_) => Err(PyRuntimeError::new_err("depends takes arrays and sequences of them")),
        },
    }
}

/// Where `take` takes elements from.
enum Indices {
    /// One place.
    One(i32),
    /// Several, by an array of integers.
    Many(In),
}

impl<'py> FromPyObject<'_, 'py> for Indices {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if !object.is_instance_of::<PyInt>() {
            return object.extract().map(Self::Many);
        }
        let index = object.extract();
        index.map(Self::One).map_err(|_| PyRuntimeError::new_err("the index has more than 32 bits"))
    }
}

/// Elements at indices, of the flat array or along an axis.
///
/// Raises: The axis is out of range, or the index, if it is one number. Arrays of indices are not
/// checked.
#[pyfunction]
#[pyo3(signature = (a, /, indices, axis=None, *, stream=None))]
fn take(
    a: In,
    indices: Indices,
    axis: Option<Int<i32>>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    run(stream, || match (indices, axis) {
        (Indices::One(index), None) => ops::take_index(&ops::flatten(&a, 0, -1)?, index, 0),
        (Indices::One(index), Some(Int(axis))) => ops::take_index(&a, index, axis),
        (Indices::Many(indices), None) => unchecked(|| ops::take(&a, &indices)),
        (Indices::Many(indices), Some(Int(axis))) => {
            unchecked(|| ops::take_axis(&a, &indices, axis))
        }
    })
    .map(Out)
}

/// Elements along an axis, or of the flat array, at indices that have one entry for each result.
#[pyfunction]
#[pyo3(signature = (a, /, indices, axis=None, *, stream=None))]
fn take_along_axis(
    a: In,
    indices: In,
    axis: Option<Int<i32>>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let take = || match axis {
        None => ops::take_along_axis(&ops::reshape(&a, &[-1])?, &indices, 0),
        Some(Int(axis)) => ops::take_along_axis(&a, &indices, axis),
    };
    run(stream, || unchecked(take)).map(Out)
}

/// The array with values stored along an axis, or in the flat array, at indices.
#[pyfunction]
#[pyo3(signature = (a, /, indices, values, axis, *, stream=None))]
fn put_along_axis(
    a: In,
    indices: In,
    values: In,
    axis: Option<Int<i32>>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let put = || match axis {
        None => {
            let flat = ops::reshape(&a, &[-1])?;
            ops::reshape(&ops::put_along_axis(&flat, &indices, &values, 0)?, a.shape())
        }
        Some(Int(axis)) => ops::put_along_axis(&a, &indices, &values, axis),
    };
    run(stream, || unchecked(put)).map(Out)
}

/// Elements shifted along axes, those that leave coming back on the other side.
#[pyfunction]
#[pyo3(signature = (a, /, shift, axis=None, *, stream=None))]
fn roll(
    a: In,
    shift: Axes,
    axis: Option<Axes>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let shifts = match (shift, &axis) {
        (Axes::Many(shifts), _) => shifts,
        (Axes::One(shift), Some(Axes::Many(axes))) => vec![shift; axes.len()],
        (Axes::One(shift), _) => vec![shift],
    };
    run(stream, || match &axis {
        None => ops::roll(&a, &shifts),
        Some(Axes::One(axis)) => ops::roll_axis(&a, &shifts, *axis),
        Some(Axes::Many(axes)) => ops::roll_axes(&a, &shifts, axes),
    })
    .map(Out)
}

/// Coordinate grids from coordinate vectors; `indexing` is `xy` or `ij`.
#[pyfunction]
#[pyo3(signature = (*arrays, sparse=false, indexing="xy", stream=None), text_signature = "(*arrays, sparse=False, indexing='xy', stream=None)")]
fn meshgrid<'py>(
    arrays: &Bound<'py, PyTuple>,
    sparse: bool,
    indexing: &str,
    stream: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let vectors = inputs(arrays)?;
    let grids = run(stream, || ops::meshgrid(&vectors, sparse, indexing))?;
    PyTuple::new(arrays.py(), grids.into_iter().map(Out))
}
