//! The loss of mlx-lm's trainer.

use mlx_graft::transforms::{self, CustomFunction};
use mlx_graft::{Array, Dtype, ops};

use crate::Result;
use crate::models::{Decoder, Head};
use crate::nn::Context;

/// The mean cross-entropy of the next token, and the number of tokens it was taken over.
///
/// `tokens` is int32 `(B, T)`. `lengths` is int32 `(B, 2)`: the first and the last position of the
/// row that count as targets, from 0 and inclusive; what lies outside is padding. Source:
/// `default_loss` of mlx-lm's trainer.
///
/// Of rows that lie one behind the other, [`PackedBatch`](crate::data::PackedBatch), `tokens` is
/// `(1, T)` and `lengths` their spans, `(R, 3)`; the loss is that of the same rows side by side.
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
    let (hidden, mask) = if lengths.dim(-1)? == 3 {
        let (starts, mask) = packed_rows(lengths, length - 1)?;
        (model.hidden_of_packed(&inputs, &starts, ctx)?, mask)
    } else {
        (model.hidden(&inputs, None, ctx)?, padded_rows(lengths, length - 1)?)
    }; // (B, T - 1, D), (B, T - 1)
    let losses = token_losses(&model.head(), &hidden, &targets, model.vocab_size(), ctx)?;

    let masked = ops::multiply(&losses, &ops::astype(&mask, losses.dtype())?)?;
    let count = ops::sum(&mask, false)?;
    let total = ops::sum(&ops::astype(&masked, Dtype::Float32)?, false)?;
    Ok((ops::divide(&total, &ops::astype(&count, Dtype::Float32)?)?, count))
}

/// Column `index` of an array of shape `(B, N)`: `(B, 1)`.
fn column(lengths: &Array, index: i32) -> Result<Array> {
    Ok(ops::slice(lengths, &[0, index], &[lengths.dim(0)?, index + 1], &[1, 1])?)
}

/// Which of `length` targets count, `(B, length)`: the positions of the first and of the last are
/// given, int32 `(B, 2)`.
fn padded_rows(lengths: &Array, length: i32) -> Result<Array> {
    let steps = ops::arange(1.0, f64::from(length + 1), 1.0, Dtype::Int32)?;
    between(&steps, &column(lengths, 0)?, &column(lengths, 1)?)
}

/// Where the row of each of `length` targets begins, and which of them count, both `(1, length)`.
/// `spans`, int32 `(R, 3)`, are those of [`PackedBatch`](crate::data::PackedBatch).
fn packed_rows(spans: &Array, length: i32) -> Result<(Array, Array)> {
    let positions = ops::arange(0.0, f64::from(length), 1.0, Dtype::Int32)?;
    let starts = column(spans, 0)?; // (R, 1)
    let one = Array::scalar(1_i32)?;
    let steps = ops::add(&ops::subtract(&positions, &starts)?, &one)?; // (R, length)
    let first = ops::maximum(&column(spans, 1)?, &one)?;
    let counts = between(&steps, &first, &column(spans, 2)?)?;
    let begun = ops::where_(&ops::greater_equal(&steps, &one)?, &starts, &Array::scalar(0_i32)?)?;
    Ok((ops::max_axis(&begun, 0, true)?, ops::any_axis(&counts, 0, true)?))
}

fn between(x: &Array, first: &Array, last: &Array) -> Result<Array> {
    Ok(ops::logical_and(&ops::greater_equal(x, first)?, &ops::less_equal(x, last)?)?)
}

/// Logits that are held at a time: 16 MB of float32.
const LOGITS: i32 = 1 << 22;

/// Rows of a block of logits at least: below, the product with the output layer is slow.
const ROWS: i32 = 128;

/// How many of `rows` tokens have logits at the same time.
pub(super) fn rows_at_once(head: &Head, rows: i32, vocabulary: i32) -> i32 {
    let block = (LOGITS / vocabulary.max(1)).max(ROWS);
    if head.is_frozen() { block.min(rows) } else { rows }
}

/// The cross-entropy of each token, `(B, T)`, of hidden vectors `(B, T, D)` and targets `(B, T)`.
fn token_losses(
    head: &Head,
    hidden: &Array,
    targets: &Array,
    vocabulary: i32,
    ctx: &Context,
) -> Result<Array> {
    let rows = hidden.dim(0)? * hidden.dim(1)?;
    let block = rows_at_once(head, rows, vocabulary);
    // What a GPU runs stays the graph of mlx-lm.
    if block >= rows || !graft_kernels::is_active()? {
        return Ok(graft_kernels::cross_entropy(&head.forward(hidden, ctx)?, targets)?);
    }
    let (head, training) = (head.clone(), ctx.is_training());
    let losses = CustomFunction::new(move |inputs| {
        Ok(block_losses(&head, &inputs[0], &inputs[1], block, training)?)
    })
    .vjp(|inputs, cotangents, outputs| {
        let slopes = ops::astype(&ops::expand_dims(&cotangents[0], -1)?, outputs[1].dtype())?;
        Ok(vec![ops::multiply(&outputs[1], &slopes)?, ops::zeros_like(&inputs[1])?])
    })
    .call(&[ops::flatten(hidden, 0, 1)?, ops::flatten(targets, 0, 1)?])?;
    Ok(ops::reshape(&losses[0], targets.shape())?)
}

/// The losses `(N,)` of hidden vectors `(N, D)`, and in training their derivatives `(N, D)`, one
/// block of logits after the other: so neither all logits nor their gradient are ever held. The
/// derivatives come with the losses, as computing logits again would cost a product more. Source:
/// Hsu et al., 2024, "Liger Kernel".
fn block_losses(
    head: &Head,
    hidden: &Array,
    targets: &Array,
    block: i32,
    training: bool,
) -> Result<Vec<Array>> {
    let (rows, dim) = (hidden.dim(0)?, hidden.dim(1)?);
    let (mut losses, mut slopes): (Vec<Array>, Vec<Array>) = (Vec::new(), Vec::new());
    for start in (0..rows).step_by(block as usize) {
        let end = (start + block).min(rows);
        let mut x = ops::slice(hidden, &[start, 0], &[end, dim], &[1, 1])?;
        let targets = ops::slice(targets, &[start], &[end], &[1])?;
        // One after the other, or the scheduler could hold the logits of all.
        let before: Vec<&Array> = losses.last().into_iter().chain(slopes.last()).collect();
        if !before.is_empty() {
            x = ops::depends(&[&x], &before)?.swap_remove(0);
        }
        let head = head.clone();
        let loss = move |x: &[Array]| {
            let logits = head.forward(&x[0], &Context::eval())?; // (N, V)
            Ok(vec![graft_kernels::cross_entropy(&logits, &targets)?])
        };
        if training {
            let ones = ops::ones(&[end - start], x.dtype())?;
            let (mut values, mut products) = transforms::vjp(loss, &[x], &[ones])?;
            losses.push(values.swap_remove(0));
            slopes.push(products.swap_remove(0));
        } else {
            losses.push(loss(&[x])?.swap_remove(0));
        }
    }
    let mut outputs = vec![ops::concatenate_axis(&losses, 0)?];
    if training {
        outputs.push(ops::concatenate_axis(&slopes, 0)?);
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use mlx_graft::random;

    use super::*;
    use crate::nn::{
        Embedding, Linear, LinearKind, Param, Quantization, Quantized, QuantizedWeight,
    };

    fn normal(seed: u64, shape: &[i32]) -> Result<Array> {
        let options = random::LocScaleOptions::default();
        let key = random::key(seed)?;
        Ok(random::normal(shape, &options.key(&key))?)
    }

    fn heads() -> Result<Vec<Head>> {
        let weight = normal(1, &[50, 32])?;
        let options = ops::QuantizeOptions::default().group_size(32).bits(4);
        let parts = ops::quantize(&weight, &options)?;
        let packed = QuantizedWeight {
            weight: Param::frozen(parts[0].clone()),
            scales: Param::frozen(parts[1].clone()),
            biases: Some(Param::frozen(parts[2].clone())),
            quantization: Quantization { group_size: 32, bits: 4, mode: "affine".into() },
        };
        let heads = vec![
            Head::Linear(Linear::dense(weight.clone(), None)),
            Head::Embedding(Embedding::dense(weight)),
            Head::Linear(Linear::from_kind(LinearKind::Quantized(Quantized {
                packed,
                bias: None,
            }))),
        ];
        Ok(heads)
    }

    #[test]
    fn blocks_give_what_all_logits_give() -> Result<()> {
        let hidden = normal(2, &[11, 32])?;
        let targets: Vec<i32> = (0..11).map(|i| i * 7 % 50).collect();
        let targets = Array::from_slice(&targets, &[11])?;
        let close = |a: &Array, b: &Array| -> Result<()> {
            let (a, b) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
            assert_eq!(a.len(), b.len());
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
            Ok(())
        };
        for head in heads()? {
            let (h, t) = (head.clone(), targets.clone());
            let whole = move |x: &[Array]| {
                Ok(vec![graft_kernels::cross_entropy(&h.forward(&x[0], &Context::eval())?, &t)?])
            };
            let ones = ops::ones(&[11], Dtype::Float32)?;
            let (losses, slopes) = transforms::vjp(whole, std::slice::from_ref(&hidden), &[ones])?;
            for block in [1, 4, 11] {
                let found = block_losses(&head, &hidden, &targets, block, true)?;
                close(&found[0], &losses[0])?;
                close(&found[1], &slopes[0])?;
                let found = block_losses(&head, &hidden, &targets, block, false)?;
                assert_eq!(found.len(), 1);
                close(&found[0], &losses[0])?;
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_flow_through_blocks() -> Result<()> {
        // So many words that the tokens make two blocks.
        let (tokens, words) = (ROWS + 7, LOGITS / ROWS);
        let weight = ops::multiply(&normal(1, &[words, 4])?, &Array::scalar(0.1_f32)?)?;
        let head = Linear::dense(weight, None);
        let frozen = Head::Linear(head);
        for (_, param) in match &frozen {
            Head::Linear(linear) => crate::nn::Module::params(linear),
            Head::Embedding(_) => Vec::new(),
        } {
            param.set_trainable(false);
        }
        assert!(rows_at_once(&frozen, tokens, words) < tokens);
        let hidden = normal(2, &[1, tokens, 4])?;
        let targets = ops::broadcast_to(&Array::scalar(3_i32)?, &[1, tokens])?;
        let mask = normal(3, &[1, tokens])?;
        let weighted = move |losses: &Array| ops::sum(&ops::multiply(losses, &mask)?, false);
        let (w, t, f) = (weighted.clone(), targets.clone(), frozen.clone());
        let blocks = move |x: &[Array]| {
            let ctx = Context::train(random::key(0)?);
            Ok(vec![w(&token_losses(&f, &x[0], &t, words, &ctx)?)?])
        };
        let whole = move |x: &[Array]| {
            let logits = frozen.forward(&x[0], &Context::eval())?;
            Ok(vec![weighted(&graft_kernels::cross_entropy(&logits, &targets)?)?])
        };
        let inputs = std::slice::from_ref(&hidden);
        let (found, found_slopes) = transforms::value_and_grad(blocks, &[0], inputs)?;
        let (wanted, wanted_slopes) = transforms::value_and_grad(whole, &[0], inputs)?;
        let difference = found[0].item::<f32>()? - wanted[0].item::<f32>()?;
        assert!(difference.abs() < 1e-3, "{difference}");
        let (a, b) = (found_slopes[0].to_vec::<f32>()?, wanted_slopes[0].to_vec::<f32>()?);
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        Ok(())
    }
}
