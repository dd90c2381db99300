//! Functions of `random` whose arguments choose the operation.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::{Dtype, ops, random};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arguments::{DtypeArg, run};
use super::scalars::Operand;
use crate::bridge::{In, Out};

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(bernoulli, module)?)?;
    module.add_function(wrap_pyfunction!(categorical, module)?)?;
    module.add_function(wrap_pyfunction!(permutation, module)?)?;
    module.add_function(wrap_pyfunction!(truncated_normal, module)?)?;
    Ok(())
}

/// Booleans that are true with probability `p`, of the shape of `p` unless one is given.
#[pyfunction]
#[pyo3(signature = (p=Operand::Float(0.5), shape=None, key=None, stream=None), text_signature = "(p=0.5, shape=None, key=None, stream=None)")]
fn bernoulli(
    p: Operand<'_>,
    shape: Option<Vec<i32>>,
    key: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let p = p.array()?;
    let shape = shape.unwrap_or_else(|| p.shape().to_vec());
    run(stream, || random::bernoulli(&p, &shape, key.as_deref())).map(Out)
}

/// Indices drawn by unnormalised log-probabilities along an axis.
#[pyfunction]
#[pyo3(signature = (logits, axis=-1, shape=None, num_samples=None, key=None, stream=None), text_signature = "(logits, axis=-1, shape=None, num_samples=None, key=None, stream=None)")]
fn categorical(
    logits: In,
    axis: i32,
    shape: Option<Vec<i32>>,
    num_samples: Option<i32>,
    key: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let key = key.as_deref();
    match (shape, num_samples) {
        (None, None) => run(stream, || random::categorical(&logits, axis, key)),
        (Some(shape), None) => {
            run(stream, || random::categorical_shape(&logits, axis, &shape, key))
        }
        (None, Some(count)) => {
            run(stream, || random::categorical_num_samples(&logits, axis, count, key))
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
    Number(i32),
    /// The array along an axis.
    Array(In),
}

/// The numbers below `x`, or an array along an axis, in random order.
#[pyfunction]
#[pyo3(signature = (x, axis=0, key=None, stream=None))]
fn permutation(
    x: Permuted,
    axis: i32,
    key: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let key = key.as_deref();
    run(stream, || match &x {
        Permuted::Number(count) => random::permutation_arange(*count, key),
        Permuted::Array(array) => random::permutation(array, axis, key),
    })
    .map(Out)
}

/// Numbers from the standard normal distribution between two bounds, of their common shape unless
/// one is given.
#[pyfunction]
#[pyo3(signature = (lower, upper, shape=None, dtype=None, key=None, stream=None), text_signature = "(lower, upper, shape=None, dtype=..., key=None, stream=None)")]
fn truncated_normal(
    lower: Operand<'_>,
    upper: Operand<'_>,
    shape: Option<Vec<i32>>,
    dtype: Option<DtypeArg>,
    key: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let (lower, upper) = (lower.array()?, upper.array()?);
    let dtype = dtype.map_or(Dtype::Float32, |dtype| dtype.0);
    run(stream, || {
        let shape = match shape {
            Some(shape) => shape,
            None => ops::broadcast_arrays(&[&lower, &upper])?[0].shape().to_vec(),
        };
        random::truncated_normal(&lower, &upper, &shape, dtype, key.as_deref())
    })
    .map(Out)
}
