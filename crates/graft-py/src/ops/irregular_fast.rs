//! Functions of `fast` whose arguments choose the operation.
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use mlx_graft::fast;
use pyo3::prelude::*;

use super::arguments::run;
use crate::bridge::{In, Out};

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(rope, module)?)?;
    module.add_function(wrap_pyfunction!(scaled_dot_product_attention, module)?)?;
    Ok(())
}

/// Where a sequence starts.
#[derive(FromPyObject)]
enum Offset {
    /// At a known position.
    Number(i32),
    /// At a position in the graph, one for all sequences or one for each.
    Array(In),
}

/// Rotary position embedding (arXiv:2104.09864) of `dims` features of the last dimension, from
/// position `offset`, which may be an array.
#[pyfunction]
#[pyo3(signature = (a, dims, *, traditional, base, scale, offset, freqs=None, stream=None))]
#[allow(clippy::too_many_arguments)]
fn rope(
    a: In,
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    offset: Offset,
    freqs: Option<In>,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let options = fast::RopeOptions::default()
        .traditional(traditional)
        .base(base)
        .scale(scale)
        .freqs(freqs.as_deref());
    run(stream, || match &offset {
        Offset::Number(offset) => fast::rope(&a, dims, *offset, &options),
        Offset::Array(offset) => fast::rope_dynamic(&a, dims, offset, &options),
    })
    .map(Out)
}

/// What is added to the attention scores.
#[derive(FromPyObject)]
enum Mask {
    /// A kind of mask: `causal`.
    Mode(String),
    /// Booleans to keep, or numbers to add.
    Array(In),
}

/// `softmax(scale * q @ k.T + mask) @ v` for heads in the second dimension; `mask` is `None`,
/// `"causal"` or an array.
#[pyfunction]
#[pyo3(signature = (q, k, v, *, scale, mask=None, sinks=None, force_fused=false, stream=None), text_signature = "(q, k, v, *, scale, mask=None, sinks=None, force_fused=False, stream=None)")]
#[allow(clippy::too_many_arguments)]
fn scaled_dot_product_attention(
    q: In,
    k: In,
    v: In,
    scale: f32,
    mask: Option<Mask>,
    sinks: Option<In>,
    force_fused: bool,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Out> {
    let options = fast::ScaledDotProductAttentionOptions::default()
        .sinks(sinks.as_deref())
        .force_fused(force_fused);
    let options = match &mask {
        None => options,
        Some(Mask::Mode(mode)) => options.mask_mode(mode),
        Some(Mask::Array(mask)) => options.mask(&**mask),
    };
    run(stream, || fast::scaled_dot_product_attention(&q, &k, &v, scale, &options)).map(Out)
}
