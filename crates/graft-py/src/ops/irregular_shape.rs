//! Functions on shapes and on lists of arrays that return one array or several, by their arguments.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::{Array, Result, ops};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use super::arguments::{Int, Shape, inputs, run};
use crate::bridge::{In, Out, unchecked};
use crate::error::to_py;

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(as_strided, module)?)?;
    module.add_function(wrap_pyfunction!(atleast_1d, module)?)?;
    module.add_function(wrap_pyfunction!(atleast_2d, module)?)?;
    module.add_function(wrap_pyfunction!(atleast_3d, module)?)?;
    module.add_function(wrap_pyfunction!(depends, module)?)?;
    module.add_function(wrap_pyfunction!(take, module)?)
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
    let shape = shape.map_or_else(|| a.shape().to_vec(), |shape| shape.0);
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
