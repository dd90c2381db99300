//! Scaled dot-product attention with grouped heads.

use graft_kernels::Projections;
use mlx_graft::{Array, Dtype, ops};

use super::{KeysValues, QuantizedRows, Rope, constant};
use crate::Result;

/// Which keys a query may see.
#[derive(Debug, Clone)]
pub enum Mask {
    /// All of them.
    None,
    /// Those that are not later.
    Causal,
    /// Those that are not later, from a first one: int32 `(1, T)`.
    From(Array),
}

/// The first key that each of `length` tokens behind `offset` others sees, int32 `(1, T)`, if it sees
/// its own and `window - 1` before it. One below zero stands for the first there is.
pub fn window_start(length: i32, offset: i32, window: i32) -> Result<Array> {
    let from = offset + 1 - window;
    let starts = ops::arange(f64::from(from), f64::from(from + length), 1.0, Dtype::Int32)?;
    Ok(ops::expand_dims(&starts, 0)?)
}

/// Rotates queries and keys, the first of which have the position `offset`, and attends to the keys
/// and values that `held` makes of them: `(B, T, H * E)`.
pub fn rope_attention(
    new: Projections<'_>,
    rope: &Rope,
    offset: i32,
    mask: &Mask,
    scale: f32,
    held: impl FnOnce(Array, Array) -> Result<KeysValues>,
) -> Result<Array> {
    let q = rope.forward(new.queries, new.heads, offset)?; // (B, H, T, D)
    let k = rope.forward(new.keys, new.kv_heads, offset)?;
    let v = ops::unflatten(new.values, -1, &[new.kv_heads, -1])?;
    let v = ops::transpose_axes(&v, &[0, 2, 1, 3])?;
    let out = scaled_dot_product_attention(&q, &held(k, v)?, scale, mask)?;
    Ok(ops::flatten(&ops::transpose_axes(&out, &[0, 2, 1, 3])?, -2, -1)?)
}

/// `softmax(scale * q @ k.T + mask) @ v`.
///
/// `q` is `(B, H, T, D)`, keys and values are `(B, K, S, D)` with `K` a divisor of `H`. Returns
/// `(B, H, T, D)`. Where the CPU kernels are active, packed keys and values are unpacked for them.
pub fn scaled_dot_product_attention(
    q: &Array,
    keys_values: &KeysValues,
    scale: f32,
    mask: &Mask,
) -> Result<Array> {
    let mask_of_kernel = match mask {
        Mask::None => graft_kernels::Mask::None,
        Mask::Causal => graft_kernels::Mask::Causal,
        Mask::From(first) => graft_kernels::Mask::From(first),
    };
    let dense = |k: &Array, v: &Array| {
        Ok(graft_kernels::scaled_dot_product_attention(q, k, v, scale, mask_of_kernel)?)
    };
    match keys_values {
        KeysValues::Dense(k, v) => dense(k, v),
        KeysValues::Quantized(k, v) if graft_kernels::is_active()? => {
            dense(&k.dequantize()?, &v.dequantize()?)
        }
        KeysValues::Quantized(k, v) => quantized_attention(q, k, v, scale, mask),
    }
}

/// Source: `quantized_scaled_dot_product_attention` of mlx-lm's `models/base.py`.
fn quantized_attention(
    q: &Array,
    k: &QuantizedRows,
    v: &QuantizedRows,
    scale: f32,
    mask: &Mask,
) -> Result<Array> {
    let [batch, heads, length, dim] = query_shape(q)?;
    let (groups, keys) = (k.weight.dim(1)?, k.weight.dim(2)?);
    let shared = |rows: &QuantizedRows| {
        rows.map_with_index(|_, part| Ok(ops::expand_dims(part, 2)?)) // (B, K, 1, S, D)
    };
    let scaled = ops::multiply(q, &constant(scale, q.dtype())?)?;
    let scaled = ops::reshape(&scaled, &[batch, groups, heads / groups, length, dim])?;
    let scores = shared(k)?.matmul(&scaled, true)?; // (B, K, R, T, S)
    let seen_from = |first: &Array| masked(&scores, &graft_kernels::visible_from(first, keys)?);
    let scores = match mask {
        Mask::None => scores,
        Mask::Causal => seen_from(&ops::zeros(&[1, length], Dtype::Int32)?)?,
        Mask::From(first) => seen_from(first)?,
    };
    let weights = graft_kernels::softmax(&scores)?;
    let out = shared(v)?.matmul(&weights, false)?; // (B, K, R, T, D)
    Ok(ops::reshape(&out, &[batch, heads, length, dim])?)
}

/// Scores of which those that are not allowed are as small as can be.
fn masked(scores: &Array, allowed: &Array) -> Result<Array> {
    let hidden = constant(f32::MIN, Dtype::Float32)?;
    let hidden = ops::astype(&hidden, scores.dtype())?;
    Ok(ops::where_(allowed, scores, &hidden)?)
}

fn query_shape(q: &Array) -> Result<[i32; 4]> {
    q.shape().try_into().map_err(|_| {
        mlx_graft::Error::invalid_argument(
            "scaled_dot_product_attention",
            format!("q has shape {:?}, not (B, H, T, D)", q.shape()),
        )
        .into()
    })
}

#[cfg(test)]
mod tests {
    use mlx_graft::random;

    use super::*;
    use crate::nn::Quantization;

    fn packed(x: &Array) -> Result<QuantizedRows> {
        let quantization = Quantization { group_size: 32, bits: 4, mode: "affine".into() };
        let parts = ops::quantize(x, &ops::QuantizeOptions::default().group_size(32).bits(4))?;
        let [weight, scales, biases] = parts.try_into().expect("three arrays");
        Ok(QuantizedRows { weight, scales, biases, quantization })
    }

    #[test]
    fn packed_keys_and_values_give_what_unpacked_ones_give() -> Result<()> {
        let normal = |seed: u64, shape: &[i32]| {
            random::normal(shape, &random::LocScaleOptions::default().key(&random::key(seed)?))
        };
        let q = normal(0, &[2, 4, 3, 32])?;
        let (k, v) = (packed(&normal(1, &[2, 2, 7, 32])?)?, packed(&normal(2, &[2, 2, 7, 32])?)?);
        let (dense_k, dense_v) = (k.dequantize()?, v.dequantize()?);
        let first = Mask::From(Array::from_slice(&[3, 0, 5], &[1, 3])?);
        let window = Mask::From(window_start(3, 4, 2)?);
        for mask in [Mask::None, Mask::Causal, first, window] {
            let ours = quantized_attention(&q, &k, &v, 0.2, &mask)?.to_vec::<f32>()?;
            let dense = KeysValues::Dense(dense_k.clone(), dense_v.clone());
            let dense = scaled_dot_product_attention(&q, &dense, 0.2, &mask)?.to_vec::<f32>()?;
            for (a, b) in ours.iter().zip(&dense) {
                assert!((a - b).abs() < 1e-5, "{mask:?}: {a} {b}");
            }
        }
        Ok(())
    }
}
