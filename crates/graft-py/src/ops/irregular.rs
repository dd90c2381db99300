//! Functions whose arguments choose more than an axis: by hand, with their rows in `ops.toml` for
//! the stub and the parity test.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::{Dtype, ops};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::arguments::{Axes, DtypeArg, Int, IntOrShape, run};
use super::scalars::Operand;
use crate::bridge::{In, Out};

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(clip, module)?)?;
    module.add_function(wrap_pyfunction!(eye, module)?)?;
    module.add_function(wrap_pyfunction!(full, module)?)?;
    module.add_function(wrap_pyfunction!(full_like, module)?)?;
    module.add_function(wrap_pyfunction!(pad, module)?)?;
    module.add_function(wrap_pyfunction!(split, module)?)?;
    module.add_function(wrap_pyfunction!(tensordot, module)?)?;
    module.add_function(wrap_pyfunction!(trace, module)?)?;
    module.add_function(wrap_pyfunction!(tri, module)?)?;
    Ok(())
}

/// Elements limited to the range from `a_min` to `a_max`; `None` does not limit.
#[pyfunction]
#[pyo3(signature = (a, /, a_min, a_max, *, stream=None))]
fn clip(
    a: In,
    a_min: Option<Operand<'_>>,
    a_max: Option<Operand<'_>>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let beside = |bound: Operand<'_>| bound.array_beside(Some(a.dtype()));
    let a_min = a_min.map(beside).transpose()?;
    let a_max = a_max.map(beside).transpose()?;
    run(stream, || ops::clip(&a, a_min.as_deref(), a_max.as_deref())).map(Out)
}

/// A matrix with ones on the `k`th diagonal, square unless `m` is given.
#[pyfunction]
#[pyo3(signature = (n, m=None, k=Int(0), dtype=None, *, stream=None), text_signature = "(n, m=None, k=0, dtype=..., *, stream=None)")]
fn eye(
    n: Int<i32>,
    m: Option<Int<i32>>,
    k: Int<i32>,
    dtype: Option<DtypeArg>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let dtype = dtype.map_or(Dtype::Float32, |dtype| dtype.0);
    run(stream, || ops::eye(n.0, m.unwrap_or(n).0, k.0, dtype)).map(Out)
}

/// A matrix with ones at and below the `k`th diagonal, square unless `m` is given.
#[pyfunction]
#[pyo3(signature = (n, m=None, k=Int(0), dtype=None, *, stream=None), text_signature = "(n, m=None, k=0, dtype=..., *, stream=None)")]
fn tri(
    n: Int<i32>,
    m: Option<Int<i32>>,
    k: Int<i32>,
    dtype: Option<DtypeArg>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let dtype = dtype.map_or(Dtype::Float32, |dtype| dtype.0);
    run(stream, || ops::tri(n.0, m.unwrap_or(n).0, k.0, dtype)).map(Out)
}

/// An array filled with a value, which is broadcast.
#[pyfunction]
#[pyo3(signature = (shape, vals, dtype=None, *, stream=None))]
fn full(
    shape: IntOrShape,
    vals: Operand<'_>,
    dtype: Option<DtypeArg>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let vals = vals.array_beside(dtype.map(|dtype| dtype.0))?;
    run(stream, || ops::full(&shape.0, &vals, vals.dtype())).map(Out)
}

/// An array of the shape of another, filled with a value, which is broadcast.
#[pyfunction]
#[pyo3(signature = (a, vals, dtype=None, *, stream=None))]
fn full_like(
    a: In,
    vals: Operand<'_>,
    dtype: Option<DtypeArg>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let dtype = dtype.map_or(a.dtype(), |dtype| dtype.0);
    let vals = vals.array_beside(Some(dtype))?;
    run(stream, || ops::full_like(&a, &vals, dtype)).map(Out)
}

/// How wide the borders are.
#[derive(FromPyObject)]
enum PadWidth {
    /// The same everywhere.
    Same(i32),
    /// One number, the same everywhere, or two: before and after.
    Sides(Vec<i32>),
    /// Before and after, for each dimension.
    Pairs(Vec<Vec<i32>>),
}

impl PadWidth {
    /// Before and after, for each of so many dimensions.
    fn pairs(self, ndim: usize) -> PyResult<Vec<(i32, i32)>> {
        let wrong = || PyTypeError::new_err("the width of a border is a number or a pair of them");
        match self {
            Self::Same(width) => Ok(vec![(width, width); ndim]),
            Self::Sides(widths) => match widths[..] {
                [width] => Ok(vec![(width, width); ndim]),
                [low, high] => Ok(vec![(low, high); ndim]),
                _ => Err(wrong()),
            },
            Self::Pairs(pairs) => {
                let pair = |pair: &Vec<i32>| match pair[..] {
                    [low, high] => Ok((low, high)),
                    _ => Err(wrong()),
                };
                let pairs = pairs.iter().map(pair).collect::<PyResult<Vec<_>>>()?;
                Ok(if let [pair] = pairs[..] { vec![pair; ndim] } else { pairs })
            }
        }
    }
}

/// The array with borders of a value, or of its own elements.
#[pyfunction]
#[pyo3(signature = (a, /, pad_width, mode="constant", constant_values=Operand::Int(0), *, stream=None), text_signature = "(a, /, pad_width, mode='constant', constant_values=0, *, stream=None)")]
fn pad(
    a: In,
    pad_width: PadWidth,
    mode: &str,
    constant_values: Operand<'_>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let value = constant_values.array_beside(Some(a.dtype()))?;
    let pairs = pad_width.pairs(a.ndim())?;
    let axes: Vec<i32> = (0..pairs.len() as i32).collect();
    let (low, high): (Vec<i32>, Vec<i32>) = pairs.into_iter().unzip();
    run(stream, || ops::pad(&a, &axes, &low, &high, &value, mode)).map(Out)
}

/// An array cut along an axis into equal parts, or at the given indices.
#[pyfunction]
#[pyo3(signature = (a, /, indices_or_sections, axis=0, *, stream=None))]
fn split(
    a: In,
    indices_or_sections: Axes,
    axis: i32,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<Out>> {
    run(stream, || match indices_or_sections {
        Axes::One(parts) => ops::split(&a, parts, axis),
        Axes::Many(indices) => ops::split_sections(&a, &indices, axis),
    })
    .map(|arrays| arrays.into_iter().map(Out).collect())
}

/// Which axes are contracted.
#[derive(FromPyObject)]
enum Contraction {
    /// The last ones of the first operand with the first ones of the second.
    Number(i32),
    /// Those of the first operand, those of the second.
    Lists(Vec<Vec<i32>>),
}

/// Sums of products over the last `axes` dimensions of `a` and the first of `b`, or over the axes
/// in two lists.
#[pyfunction]
#[pyo3(signature = (a, b, /, axes=Contraction::Number(2), *, stream=None), text_signature = "(a, b, /, axes=2, *, stream=None)")]
fn tensordot(a: In, b: In, axes: Contraction, stream: Option<&Bound<'_, PyAny>>) -> PyResult<Out> {
    match &axes {
        Contraction::Number(axes) => run(stream, || ops::tensordot_axis(&a, &b, *axes)),
        Contraction::Lists(lists) => match &lists[..] {
            [first, second] => run(stream, || ops::tensordot(&a, &b, first, second)),
            _ => Err(PyValueError::new_err(format!(
                "tensordot needs two lists of axes, one for each operand, not {}",
                lists.len()
            ))),
        },
    }
    .map(Out)
}

/// Sums of diagonals of the matrices in two dimensions.
#[pyfunction]
#[pyo3(signature = (a, /, offset=0, axis1=0, axis2=1, dtype=None, *, stream=None))]
fn trace(
    a: In,
    offset: i32,
    axis1: i32,
    axis2: i32,
    dtype: Option<DtypeArg>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let dtype = dtype.map(|dtype| dtype.0);
    let options =
        ops::TraceOptions::default().offset(offset).axis1(axis1).axis2(axis2).dtype(dtype);
    run(stream, || ops::trace_axes(&a, &options)).map(Out)
}
