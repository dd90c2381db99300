//! Quantized matrices.

use crate::{Array, Error, Result, ops};

/// The options of packing: MLX divides by both.
#[inline]
pub(crate) fn packing(op: &'static str, group_size: Option<i32>, bits: Option<i32>) -> Result<()> {
    for (name, value) in [("group size", group_size), ("number of bits", bits)] {
        if let Some(value) = value.filter(|&value| value < 1) {
            return Err(Error::invalid_argument(
                op,
                format!("a {name} of {value}: it must be positive; without it, the mode has one"),
            ));
        }
    }
    Ok(())
}

/// The scales of a quantized matrix: MLX compares the last lengths and those of the batch, but not
/// the rows, of which it reads as many as the matrix has.
#[inline]
pub(crate) fn scales(op: &'static str, w: &Array, scales: &Array) -> Result<()> {
    match (w.shape(), scales.shape()) {
        ([rows @ .., _], [scaled @ .., _]) if rows == scaled && !rows.is_empty() => Ok(()),
        (packed, found) => Err(rows(op, packed, found)),
    }
}

#[cold]
fn rows(op: &'static str, packed: &[i32], found: &[i32]) -> Error {
    let message = match packed {
        [rows @ .., _] if !rows.is_empty() => {
            let mut wanted: Vec<String> = rows.iter().map(ToString::to_string).collect();
            wanted.push("groups".to_string());
            format!(
                "scales of shape {found:?} for a quantized matrix of shape {packed:?}: each row needs \
                 its own, in a shape of ({})",
                wanted.join(", ")
            )
        }
        _ => {
            format!("a quantized matrix of shape {packed:?}: it must have at least two dimensions")
        }
    };
    Error::invalid_argument(op, message)
}

/// Matrices picked by indices: with none to pick from, MLX divides by zero, and no index is right.
#[inline]
pub(crate) fn picked(op: &'static str, a: &Array, indices: Option<&Array>) -> Result<()> {
    let [batch @ .., _, _] = a.shape() else { return Ok(()) };
    if batch.contains(&0) && indices.is_some_and(|indices| indices.size() > 0) {
        return Err(Error::invalid_argument(
            op,
            format!("indices of matrices in an array of shape {:?}, which has none", a.shape()),
        ));
    }
    Ok(())
}

/// A product, of which MLX divides by the lengths of both operands: sums of no terms are zero.
#[inline]
pub(crate) fn product(out: Array, x: &Array, w: &Array) -> Result<Array> {
    if x.size() == 0 || w.size() == 0 || out.size() == 0 {
        return ops::zeros(out.shape(), out.dtype());
    }
    Ok(out)
}
