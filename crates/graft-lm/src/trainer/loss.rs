//! The loss of mlx-lm's trainer.

use mlx_graft::{Array, Dtype, ops};

use crate::Result;
use crate::models::Decoder;
use crate::nn::Context;

/// The mean cross-entropy of the next token, and the number of tokens it was taken over.
///
/// `tokens` is int32 `(B, T)`. `lengths` is int32 `(B, 2)`: the first token that counts as a
/// target, and the length of the row; what lies outside is padding. Source: `default_loss` of
/// mlx-lm's trainer.
pub fn next_token_loss(
    model: &Decoder,
    tokens: &Array,
    lengths: &Array,
    ctx: &Context,
) -> Result<(Array, Array)> {
    let &[rows, length] = tokens.shape() else {
        return Err(mlx_graft::Error::invalid_argument(
            "loss",
            format!("tokens have shape {:?}, not (B, T)", tokens.shape()),
        )
        .into());
    };
    let inputs = ops::slice(tokens, &[0, 0], &[rows, length - 1], &[1, 1])?;
    let targets = ops::slice(tokens, &[0, 1], &[rows, length], &[1, 1])?;
    let logits = model.forward(&inputs, None, ctx)?; // (B, T - 1, V)

    let steps = ops::arange(1.0, f64::from(length), 1.0, Dtype::Int32)?;
    let starts = ops::slice(lengths, &[0, 0], &[rows, 1], &[1, 1])?;
    let ends = ops::slice(lengths, &[0, 1], &[rows, 2], &[1, 1])?;
    let mask =
        ops::logical_and(&ops::greater_equal(&steps, &starts)?, &ops::less_equal(&steps, &ends)?)?;

    let losses = graft_kernels::cross_entropy(&logits, &targets)?; // (B, T - 1)
    let masked = ops::multiply(&losses, &ops::astype(&mask, losses.dtype())?)?;
    let count = ops::sum(&mask, false)?;
    let total = ops::sum(&ops::astype(&masked, Dtype::Float32)?, false)?;
    Ok((ops::divide(&total, &ops::astype(&count, Dtype::Float32)?)?, count))
}
