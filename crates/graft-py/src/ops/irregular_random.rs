//! Functions of `random` whose arguments choose the operation.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::{Dtype, ops, random};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arguments::{DtypeArg, Int, Shape, run};
use super::random_state::{self, next_key};
use super::scalars::Operand;
use crate::bridge::{In, Out};

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(bernoulli, module)?)?;
    module.add_function(wrap_pyfunction!(categorical, module)?)?;
    module.add_function(wrap_pyfunction!(permutation, module)?)?;
    module.add_function(wrap_pyfunction!(seed, module)?)?;
    module.add_function(wrap_pyfunction!(truncated_normal, module)?)?;
    Ok(())
}

/// Booleans that are true with probability `p`, of the shape of `p` unless one is given.
#[pyfunction]
#[pyo3(signature = (p=Operand::Float(0.5), shape=None, key=None, stream=None), text_signature = "(p=0.5, shape=None, key=None, stream=None)")]
fn bernoulli(
    py: Python<'_>,
    p: Operand<'_>,
    shape: Option<Shape>,
    key: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let key = next_key(py, key)?;
    let p = p.array()?;
    let shape = shape.map_or_else(|| p.shape().into(), |shape| shape.0);
    run(stream, || random::bernoulli(&p, &shape, Some(&key))).map(Out)
}

/// Indices drawn by unnormalised log-probabilities along an axis.
#[pyfunction]
#[pyo3(signature = (logits, axis=Int(-1), shape=None, num_samples=None, key=None, stream=None), text_signature = "(logits, axis=-1, shape=None, num_samples=None, key=None, stream=None)")]
fn categorical(
    py: Python<'_>,
    logits: In,
    axis: Int<i32>,
    shape: Option<Shape>,
    num_samples: Option<Int<i32>>,
    key: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let key = next_key(py, key)?;
    match (shape, num_samples) {
        (None, None) => run(stream, || random::categorical(&logits, axis.0, Some(&key))),
        (Some(Shape(shape)), None) => {
            run(stream, || random::categorical_shape(&logits, axis.0, &shape, Some(&key)))
        }
        (None, Some(Int(count))) => {
            run(stream, || random::categorical_num_samples(&logits, axis.0, count, Some(&key)))
        }
        (Some(_), Some(_)) => {
            Err(PyValueError::new_err("categorical takes `shape` or `num_samples`, not both"))
        }
    }
    .map(Out)
}

/// What is permuted.
#[derive(FromPyObject)]
enum Permuted {
    /// The numbers below it.
    Number(Int<i32>),
    /// The array along an axis.
    Array(In),
}

/// The numbers below `x`, or an array along an axis, in random order.
#[pyfunction]
#[pyo3(signature = (x, axis=Int(0), key=None, stream=None), text_signature = "(x, axis=0, key=None, stream=None)")]
fn permutation(
    py: Python<'_>,
    x: Permuted,
    axis: Int<i32>,
    key: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let key = next_key(py, key)?;
    run(stream, || match &x {
        Permuted::Number(count) => random::permutation_arange(count.0, Some(&key)),
        Permuted::Array(array) => random::permutation(array, axis.0, Some(&key)),
    })
    .map(Out)
}

/// Starts `mlx.core.random.state` of this thread from a seed.
#[pyfunction]
fn seed(py: Python<'_>, seed: Int<u64>) -> PyResult<()> {
    random_state::seed(py, seed.0)
}

/// Numbers from the standard normal distribution between two bounds, of their common shape unless
/// one is given.
#[pyfunction]
#[pyo3(signature = (lower, upper, shape=None, dtype=None, key=None, stream=None), text_signature = "(lower, upper, shape=None, dtype=..., key=None, stream=None)")]
fn truncated_normal(
    py: Python<'_>,
    lower: Operand<'_>,
    upper: Operand<'_>,
    shape: Option<Shape>,
    dtype: Option<DtypeArg>,
    key: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let key = next_key(py, key)?;
    let (lower, upper) = (lower.array()?, upper.array()?);
    let dtype = dtype.map_or(Dtype::Float32, |dtype| dtype.0);
    run(stream, || {
        let shape = match shape {
            Some(Shape(shape)) => shape,
            None => ops::broadcast_arrays(&[&lower, &upper])?[0].shape().into(),
        };
        random::truncated_normal(&lower, &upper, &shape, dtype, Some(&key))
    })
    .map(Out)
}
