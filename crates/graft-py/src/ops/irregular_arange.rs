//! `arange`, which takes where to stop first or second.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::{Dtype, ops};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::arguments::{DtypeArg, run};
use crate::bridge::Out;

/// Adds the function of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(arange, module)?)
}

/// A Python number.
#[derive(Clone, Copy, FromPyObject)]
enum Number {
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl Number {
    fn value(self) -> f64 {
        match self {
            Self::Bool(value) => value.into(),
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::Bool(_) => Dtype::Bool,
            Self::Int(value) if i32::try_from(value).is_ok() => Dtype::Int32,
            Self::Int(_) => Dtype::Int64,
            Self::Float(_) => Dtype::Float32,
        }
    }
}

/// Numbers from `start` to before `stop` in steps of `step`.
///
/// Called with one number, it counts from 0 to before it. Without a dtype the numbers say it:
/// integers give int32, or int64 if one needs it, others float32.
#[pyfunction]
#[pyo3(
    signature = (*numbers, start=None, stop=None, step=None, dtype=None, stream=None),
    text_signature = "(start=None, stop=None, step=None, dtype=None, *, stream=None)"
)]
fn arange(
    numbers: &Bound<'_, PyTuple>,
    start: Option<Number>,
    stop: Option<Number>,
    step: Option<Number>,
    dtype: Option<DtypeArg>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let at = |index: usize| -> PyResult<Option<Number>> {
        numbers.get_item(index).map_or(Ok(None), |number| number.extract())
    };
    let unclear = || PyTypeError::new_err("arange takes start, stop and step, or stop and step");
    let (start, stop) = match (numbers.len(), start, stop) {
        (0, start, Some(stop)) => (start, stop),
        (1, None, None) => (None, at(0)?.ok_or_else(unclear)?),
        (1, None, Some(stop)) => (at(0)?, stop),
        // Without a stop the first number is it.
        (2..=4, None, None) => match (at(0)?, at(1)?) {
            (start, Some(stop)) => (start, stop),
            (start, None) => (None, start.ok_or_else(unclear)?),
        },
        _ => return Err(unclear()),
    };
    let step = match (at(2)?, step) {
        (Some(_), Some(_)) => return Err(unclear()),
        (positional, named) => positional.or(named),
    };
    let dtype = match numbers.get_item(3) {
        Ok(_) if dtype.is_some() => return Err(unclear()),
        Ok(positional) => positional.extract()?,
        Err(_) => dtype,
    };
    let given = [start, Some(stop), step].into_iter().flatten().map(Number::dtype);
    let own = given.reduce(Dtype::promote).unwrap_or(Dtype::Int32);
    let dtype = dtype.map_or(own, |dtype| dtype.0);
    let (start, step) = (start.map_or(0.0, Number::value), step.map_or(1.0, Number::value));
    run(stream, || ops::arange(start, stop.value(), step, dtype)).map(Out)
}
