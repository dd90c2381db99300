//! The convolution whose arguments are numbers, lists of them, or two lists.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::ops;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::arguments::{Int, IntOrInts, run};
use crate::bridge::{In, Out};

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(conv_general, module)?)
}

/// Zeros added around the input.
#[derive(FromPyObject)]
enum Padding {
    /// As many on both sides.
    Same(IntOrInts),
    /// So many below and so many above.
    Sides(Vec<Vec<i32>>),
}

/// Convolution over any number of dimensions; `flip` makes it a true convolution.
///
/// A number stands for all dimensions, a list has one for each, and two lists of padding are that
/// below and that above.
#[pyfunction]
#[pyo3(
    signature = (
        input, weight, /, stride=IntOrInts(vec![1]), padding=Padding::Same(IntOrInts(vec![0])),
        kernel_dilation=IntOrInts(vec![1]), input_dilation=IntOrInts(vec![1]), groups=Int(1),
        flip=false, *, stream=None
    ),
    text_signature = "(input, weight, /, stride=1, padding=0, kernel_dilation=1, input_dilation=1, groups=1, flip=False, *, stream=None)"
)]
#[allow(clippy::too_many_arguments)]
fn conv_general(
    input: In,
    weight: In,
    stride: IntOrInts,
    padding: Padding,
    kernel_dilation: IntOrInts,
    input_dilation: IntOrInts,
    groups: Int<i32>,
    flip: bool,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let (low, high) = match padding {
        Padding::Same(IntOrInts(both)) => (both.clone(), both),
        Padding::Sides(sides) => <[Vec<i32>; 2]>::try_from(sides)
            .map_err(|_| PyTypeError::new_err("two lists of padding are needed: below, above"))?
            .into(),
    };
    let options = ops::ConvGeneralOptions::default()
        .stride(&stride.0)
        .padding([&low, &high])
        .kernel_dilation(&kernel_dilation.0)
        .input_dilation(&input_dilation.0)
        .groups(groups.0)
        .flip(flip);
    run(stream, || ops::conv_general(&input, &weight, &options)).map(Out)
}
