//! Scaled dot-product attention with grouped heads.

use mlx_graft::{Array, Dtype, fast, ops};

use super::{constant, matmul};
use crate::Result;

/// Which keys a query may see.
#[derive(Debug, Clone)]
pub enum Mask {
    /// All of them.
    None,
    /// Those that are not later.
    Causal,
    /// Where a boolean array of shape `(T, S)` is true.
    Array(Array),
}

/// A boolean mask of shape `(T, S)`, `S = offset + T`: a key is seen if it is not later than the
/// query and, with a window, at most `window - 1` earlier.
pub fn causal_mask(length: i32, offset: i32, window: Option<i32>) -> Result<Array> {
    let range = |from: i32, to: i32, shape: [i32; 2]| -> Result<Array> {
        let positions = ops::arange(f64::from(from), f64::from(to), 1.0, Dtype::Int32)?;
        Ok(ops::reshape(&positions, &shape)?)
    };
    let queries = range(offset, offset + length, [length, 1])?;
    let keys = range(0, offset + length, [1, offset + length])?;
    let mask = ops::greater_equal(&queries, &keys)?;
    match window {
        None => Ok(mask),
        Some(window) => {
            let end = ops::add(&keys, &Array::scalar(window)?)?;
            Ok(ops::logical_and(&mask, &ops::less(&queries, &end)?)?)
        }
    }
}

/// `softmax(scale * q @ k.T + mask) @ v`.
///
/// `q` is `(B, H, T, D)`, `k` and `v` are `(B, K, S, D)` with `K` a divisor of `H`. Returns
/// `(B, H, T, D)`. Where the CPU kernels are active the products run on them; everywhere else it
/// is `mx.fast.scaled_dot_product_attention`.
pub fn scaled_dot_product_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: &Mask,
) -> Result<Array> {
    if !graft_kernels::is_active()? {
        let (mode, array) = match mask {
            Mask::None => ("", None),
            Mask::Causal => ("causal", None),
            Mask::Array(array) => ("array", Some(array)),
        };
        return Ok(fast::scaled_dot_product_attention(q, k, v, scale, mode, array, None, false)?);
    }
    let &[batch, heads, length, dim] = q.shape() else {
        return Err(mlx_graft::Error::invalid_argument(
            "scaled_dot_product_attention",
            format!("q has shape {:?}, not (B, H, T, D)", q.shape()),
        )
        .into());
    };
    let (groups, keys) = (k.dim(1)?, k.dim(2)?);
    let repeats = heads / groups;
    let scaled = ops::multiply(q, &constant(scale, q.dtype())?)?;
    // Heads of a group share keys, so they become rows of one product: (B, K, R * T, D)
    let rows = ops::reshape(&scaled, &[batch, groups, repeats * length, dim])?;
    let scores = matmul(&rows, &ops::swapaxes(k, -1, -2)?)?; // (B, K, R * T, S)
    let scores = ops::reshape(&scores, &[batch, groups, repeats, length, keys])?;
    let weights = match mask {
        Mask::None => graft_kernels::softmax(&scores)?,
        Mask::Causal => graft_kernels::causal_softmax(&scores)?,
        Mask::Array(allowed) => {
            let hidden = constant(f32::MIN, Dtype::Float32)?;
            let hidden = ops::astype(&hidden, scores.dtype())?;
            graft_kernels::softmax(&ops::where_(allowed, &scores, &hidden)?)?
        }
    };
    let weights = ops::reshape(&weights, &[batch, groups, repeats * length, keys])?;
    let out = matmul(&weights, v)?; // (B, K, R * T, D)
    Ok(ops::reshape(&out, &[batch, heads, length, dim])?)
}
