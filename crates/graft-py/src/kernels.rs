//! The native operations of `graft-kernels`.

use graft_kernels::{Mask, Rope};
use mlx_graft::Result;
use mlx_graft::ops::{GatherQmmOptions, QuantizedMatmulOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::bridge::{self, In, Out};
use crate::error::to_py;
use crate::ops::arguments::{Int, run};

/// Registers the functions.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(matmul, module)?)?;
    module.add_function(wrap_pyfunction!(quantized_matmul, module)?)?;
    module.add_function(wrap_pyfunction!(gather_mm, module)?)?;
    module.add_function(wrap_pyfunction!(gather_qmm, module)?)?;
    module.add_function(wrap_pyfunction!(softmax, module)?)?;
    module.add_function(wrap_pyfunction!(logsumexp, module)?)?;
    module.add_function(wrap_pyfunction!(cross_entropy, module)?)?;
    module.add_function(wrap_pyfunction!(overwrite, module)?)?;
    module.add_function(wrap_pyfunction!(rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(layer_norm, module)?)?;
    module.add_function(wrap_pyfunction!(rope, module)?)?;
    module.add_function(wrap_pyfunction!(scaled_dot_product_attention, module)?)
}

fn finish(result: Result<mlx_graft::Array>) -> PyResult<Out> {
    result.map(Out).map_err(to_py)
}

/// The product of two arrays.
#[pyfunction]
fn matmul(a: In, b: In) -> PyResult<Out> {
    finish(graft_kernels::matmul(&a, &b))
}

/// The product with a quantized matrix, as `mlx.core.quantized_matmul`.
#[pyfunction]
#[pyo3(signature = (x, w, /, scales, biases=None, transpose=true, group_size=None, bits=None, mode="affine", *, stream=None))]
#[allow(clippy::too_many_arguments)] // those of mlx.core
fn quantized_matmul(
    x: In,
    w: In,
    scales: In,
    biases: Option<In>,
    transpose: bool,
    group_size: Option<Int<i32>>,
    bits: Option<Int<i32>>,
    mode: &str,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    run(stream, || {
        let options = QuantizedMatmulOptions::default()
            .biases(biases.as_deref())
            .transpose(transpose)
            .group_size(group_size.map(|number| number.0))
            .bits(bits.map(|number| number.0))
            .mode(mode);
        graft_kernels::quantized_matmul(&x, &w, &scales, &options)
    })
    .map(Out)
}

/// Products of matrices picked by indices, as `mlx.core.gather_mm`.
#[pyfunction]
#[pyo3(signature = (a, b, /, lhs_indices=None, rhs_indices=None, *, sorted_indices=false, stream=None))]
fn gather_mm(
    a: In,
    b: In,
    lhs_indices: Option<In>,
    rhs_indices: Option<In>,
    sorted_indices: bool,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    run(stream, || {
        let (lhs, rhs) = (lhs_indices.as_deref(), rhs_indices.as_deref());
        graft_kernels::gather_mm(&a, &b, lhs, rhs, sorted_indices)
    })
    .map(Out)
}

/// Products with quantized matrices picked by indices, as `mlx.core.gather_qmm`.
#[pyfunction]
#[pyo3(signature = (x, w, /, scales, biases=None, lhs_indices=None, rhs_indices=None, transpose=true, group_size=None, bits=None, mode="affine", *, sorted_indices=false, stream=None))]
#[allow(clippy::too_many_arguments)] // those of mlx.core
fn gather_qmm(
    x: In,
    w: In,
    scales: In,
    biases: Option<In>,
    lhs_indices: Option<In>,
    rhs_indices: Option<In>,
    transpose: bool,
    group_size: Option<Int<i32>>,
    bits: Option<Int<i32>>,
    mode: &str,
    sorted_indices: bool,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    run(stream, || {
        let options = GatherQmmOptions::default()
            .biases(biases.as_deref())
            .lhs_indices(lhs_indices.as_deref())
            .rhs_indices(rhs_indices.as_deref())
            .transpose(transpose)
            .group_size(group_size.map(|number| number.0))
            .bits(bits.map(|number| number.0))
            .mode(mode)
            .sorted_indices(sorted_indices);
        graft_kernels::gather_qmm(&x, &w, &scales, &options)
    })
    .map(Out)
}

/// The softmax over the last axis.
#[pyfunction]
fn softmax(a: In) -> PyResult<Out> {
    finish(graft_kernels::softmax(&a))
}

/// The logarithm of the sums of exponentials over the last axis.
#[pyfunction]
#[pyo3(signature = (a, *, keepdims=false))]
fn logsumexp(a: In, keepdims: bool) -> PyResult<Out> {
    finish(graft_kernels::logsumexp(&a, keepdims))
}

/// The cross-entropy of rows of logits.
#[pyfunction]
fn cross_entropy(logits: In, targets: In) -> PyResult<Out> {
    finish(graft_kernels::cross_entropy(&logits, &targets))
}

/// Makes the object `a` hold the array `b`, as `a[...] = b` does not for another shape or dtype.
#[pyfunction]
fn overwrite(a: &Bound<'_, PyAny>, b: In) -> PyResult<()> {
    bridge::overwrite(a.as_borrowed(), &b)
}

/// Root mean square normalisation.
#[pyfunction]
fn rms_norm(x: In, weight: Option<In>, eps: f32) -> PyResult<Out> {
    finish(graft_kernels::rms_norm(&x, weight.as_deref(), eps))
}

/// Layer normalisation.
#[pyfunction]
fn layer_norm(x: In, weight: Option<In>, bias: Option<In>, eps: f32) -> PyResult<Out> {
    finish(graft_kernels::layer_norm(&x, weight.as_deref(), bias.as_deref(), eps))
}

/// Rotary position embedding.
#[pyfunction]
#[pyo3(signature = (x, dims, *, traditional, base, scale, offset, freqs=None))]
fn rope(
    x: In,
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    offset: i32,
    freqs: Option<In>,
) -> PyResult<Out> {
    let rope = Rope { dims, traditional, base, scale, offset };
    finish(graft_kernels::rope(&x, rope, freqs.as_deref()))
}

/// What is passed as a mask.
#[derive(FromPyObject)]
enum MaskIn {
    Mode(String),
    Array(In),
}

/// Scaled dot-product attention.
#[pyfunction]
#[pyo3(signature = (q, k, v, *, scale, mask=None))]
fn scaled_dot_product_attention(
    q: In,
    k: In,
    v: In,
    scale: f32,
    mask: Option<MaskIn>,
) -> PyResult<Out> {
    let mask = match &mask {
        None => Mask::None,
        Some(MaskIn::Array(array)) => Mask::Array(array),
        Some(MaskIn::Mode(mode)) if mode == "causal" => Mask::Causal,
        Some(MaskIn::Mode(mode)) => {
            return Err(PyValueError::new_err(format!(
                "[scaled_dot_product_attention] mask must be \"causal\" or an array, not {mode:?}"
            )));
        }
    };
    finish(graft_kernels::scaled_dot_product_attention(&q, &k, &v, scale, mask))
}
