//! What an operation computes and moves at least.

use std::collections::HashSet;

use mlx_graft::Dtype;
use mlx_graft::profile::{Operand, Operation};

/// Operations whose result may be a view of an input: then they move nothing.
const VIEWS: [&str; 17] = [
    "AsStrided",
    "Broadcast",
    "BroadcastAxes",
    "Contiguous",
    "Copy",
    "CustomTransforms",
    "Depends",
    "ExpandDims",
    "Flatten",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "StopGradient",
    "Transpose",
    "Unflatten",
    "View",
];

/// Operations that read as much of their inputs as they write.
const PARTS: [&str; 5] = ["DynamicSlice", "Gather", "GatherAxis", "Slice", "Split"];

/// Whether the operation gave views of its inputs, and moved nothing.
pub fn is_view(operation: &Operation) -> bool {
    let shared = |output: &Operand| operation.inputs.iter().any(|i| i.buffer == output.buffer);
    VIEWS.contains(&operation.name.as_str()) && operation.outputs.iter().all(shared)
}

/// The bytes that the operation reads and writes at least: each input and each output once.
pub fn bytes(operation: &Operation) -> u64 {
    if is_view(operation) {
        return 0;
    }
    let written: usize = operation.outputs.iter().map(|output| output.bytes).sum();
    let read: usize = if PARTS.contains(&operation.name.as_str()) {
        let indices = operation.inputs.iter().skip(1).map(|input| input.bytes).sum::<usize>();
        written + indices
    } else {
        let mut seen = HashSet::new();
        let once = operation.inputs.iter().filter(|i| seen.insert((i.buffer, &i.shape)));
        once.map(|input| input.bytes).sum()
    };
    (read + written) as u64
}

/// The multiplications and additions of products of matrices and of attention, which is causal
/// unless it has a mask; `None` for other operations, whose speed is that of memory.
///
/// Names in lower case are this project's operations, the others are MLX's.
pub fn flops(operation: &Operation) -> Option<u64> {
    let shape = |i: usize| operation.inputs.get(i).map(|input| input.shape.as_slice());
    let product = match operation.name.as_str() {
        // One, or the sum of several of operands in pairs.
        "matmul" => {
            let inner = operation.inputs.iter().step_by(2).filter_map(|input| input.shape.last());
            elements(&operation.outputs.first()?.shape) * inner.sum::<i32>() as u64
        }
        "Matmul"
        | "AddMM"
        | "quantized_matmul"
        | "QuantizedMatmul"
        | "GatherMM"
        | "GatherQMM"
        | "gather_mm"
        | "gather_qmm"
        | "linear"
        | "quantized_matmul_each" => {
            let inner = *shape(0)?.last()? as u64;
            operation.outputs.iter().map(|output| elements(&output.shape) * inner).sum()
        }
        // The update adds as many terms to a sum as its rank is: the columns of the last input.
        "adapted_matmul" | "adapted_quantized_matmul" => {
            let inner = (shape(0)?.last()? + operation.inputs.last()?.shape.last()?) as u64;
            operation.outputs.iter().map(|output| elements(&output.shape) * inner).sum()
        }
        "scaled_dot_product_attention" | "ScaledDotProductAttention" => {
            let mask = operation.inputs.get(3);
            let (pairs, d, e) = attention(shape(0)?, shape(1)?, shape(2)?, mask)?;
            pairs * (d + e)
        }
        // The scores are computed again.
        "scaled_dot_product_attention_grad" => {
            let mask = operation.inputs.get(6);
            let (pairs, d, e) = attention(shape(0)?, shape(1)?, shape(2)?, mask)?;
            pairs * (3 * d + 2 * e)
        }
        _ => return None,
    };
    Some(2 * product)
}

/// How many pairs of a query and a key there are, and the lengths of keys and of values; `None` if
/// numbers decide which keys are seen.
fn attention(q: &[i32], k: &[i32], v: &[i32], mask: Option<&Operand>) -> Option<(u64, u64, u64)> {
    if mask.is_some_and(|mask| mask.dtype == Dtype::Int32) {
        return None;
    }
    let (&[batch, heads, queries, d], &[_, _, keys, _], &[.., e]) = (q, k, v) else { return None };
    let [batch, heads, queries, keys] = [batch, heads, queries, keys].map(|n| n as u64);
    let hidden = if mask.is_some() { 0 } else { queries * queries.saturating_sub(1) / 2 };
    Some((batch * heads * (queries * keys).saturating_sub(hidden), d as u64, e as u64))
}

fn elements(shape: &[i32]) -> u64 {
    shape.iter().map(|&length| length as u64).product()
}

#[cfg(test)]
mod tests {
    use mlx_graft::profile::{Timing, eval};
    use mlx_graft::{Array, ops};

    use super::*;
    use crate::Result;

    fn only(array: &Array) -> Result<Operation> {
        let operations = eval(&[array], Timing::Apart)?.operations;
        let mut work = operations.into_iter().filter(|operation| !is_view(operation));
        let operation = work.next().expect("an operation");
        assert!(work.next().is_none());
        Ok(operation)
    }

    fn ones(shape: &[i32]) -> Result<Array> {
        let array = ops::ones(shape, Dtype::Float32)?;
        array.eval()?;
        Ok(array)
    }

    #[test]
    fn products_cost_what_their_shapes_say() -> Result<()> {
        let (a, b) = (ones(&[2, 3, 5])?, ones(&[5, 7])?);
        for product in [ops::matmul(&a, &b)?, graft_kernels::matmul(&a, &b)?] {
            let operation = only(&product)?;
            assert_eq!(flops(&operation), Some(2 * 2 * 3 * 5 * 7));
            assert_eq!(bytes(&operation), 4 * (2 * 3 * 5 + 5 * 7 + 2 * 3 * 7));
        }
        let (v, w) = (ones(&[7, 5])?, ones(&[9, 5])?);
        let operation = only(&graft_kernels::linear_each(&a, &[&v, &w])?[0])?;
        assert_eq!(flops(&operation), Some(2 * 2 * 3 * 5 * (7 + 9)));
        assert_eq!(bytes(&operation), 4 * (2 * 3 * 5 + 5 * (7 + 9) + 2 * 3 * (7 + 9)));
        Ok(())
    }

    /// The derivative of several layers with respect to their rows is one operation.
    #[test]
    fn sums_of_products_are_counted_as_each_of_them() -> Result<()> {
        let (x, v, w) = (ones(&[64, 128])?, ones(&[256, 128])?, ones(&[300, 128])?);
        let cotangents = [ones(&[64, 256])?, ones(&[64, 300])?];
        let layers = move |x: &[Array]| graft_kernels::linear_each(&x[0], &[&v, &w]);
        let gradient = mlx_graft::transforms::vjp(layers, &[x], &cotangents)?.1.remove(0);
        let operations = eval(&[&gradient], Timing::Apart)?.operations;
        let products: u64 = operations.iter().filter_map(flops).sum();
        assert_eq!(products, 2 * 64 * 128 * (256 + 300));
        Ok(())
    }

    #[test]
    fn products_with_an_update_are_counted_with_it() -> Result<()> {
        let (x, w, a, b) =
            (ones(&[64, 256])?, ones(&[128, 256])?, ones(&[256, 8])?, ones(&[8, 128])?);
        let y = graft_kernels::adapted_matmul(&x, &w, &a, &b, 2.0)?;
        let operations = eval(&[&y], Timing::Apart)?.operations;
        let products: u64 = operations.iter().filter_map(flops).sum();
        let wanted = 2 * 64 * (256 * 128 + 256 * 8 + 8 * 128);
        assert_eq!(products, wanted);

        let w = ops::quantize(&w, &ops::QuantizeOptions::default())?;
        let packed = graft_kernels::Packed { w: &w[0], scales: &w[1], biases: Some(&w[2]) };
        let options = ops::QuantizedMatmulOptions::default();
        let y = graft_kernels::adapted_quantized_matmul(&x, packed, &options, &a, &b, 2.0)?;
        let operations = eval(&[&y], Timing::Apart)?.operations;
        assert_eq!(operations.iter().filter_map(flops).sum::<u64>(), wanted);
        Ok(())
    }

    #[test]
    fn packed_products_read_packed_weights() -> Result<()> {
        let (x, w) = (ones(&[9, 64])?, ones(&[32, 64])?);
        let parts = ops::quantize(&w, &ops::QuantizeOptions::default().group_size(64).bits(4))?;
        mlx_graft::transforms::eval(&parts)?;
        let options =
            ops::QuantizedMatmulOptions::default().biases(&parts[2]).group_size(64).bits(4);
        let y = graft_kernels::quantized_matmul(&x, &parts[0], &parts[1], &options)?;
        let operation = only(&y)?;
        assert_eq!(flops(&operation), Some(2 * 9 * 64 * 32));
        let weight = 32 * 64 / 2 + 2 * 4 * 32;
        assert_eq!(bytes(&operation), 4 * (9 * 64 + 9 * 32) + weight);

        // Of two matrices at once, of which the second has half of the rows.
        let half = |x: &Array| ops::contiguous(&ops::split(x, 2, 0)?[0], false);
        let halves = parts.iter().map(half).collect::<mlx_graft::Result<Vec<_>>>()?;
        mlx_graft::transforms::eval(&halves)?;
        let packed = [&parts, &halves].map(|parts| graft_kernels::Packed {
            w: &parts[0],
            scales: &parts[1],
            biases: Some(&parts[2]),
        });
        let operation = only(&graft_kernels::quantized_matmul_each(&x, &packed, &options)?[1])?;
        assert_eq!(flops(&operation), Some(2 * 9 * 64 * (32 + 16)));
        assert_eq!(bytes(&operation), 4 * 9 * (64 + 32 + 16) + weight + weight / 2);
        Ok(())
    }

    #[test]
    fn attention_counts_the_pairs_that_are_seen() -> Result<()> {
        let (q, k, v) = (ones(&[2, 4, 3, 8])?, ones(&[2, 2, 3, 8])?, ones(&[2, 2, 3, 6])?);
        let causal = graft_kernels::Mask::Causal;
        let out = graft_kernels::scaled_dot_product_attention(&q, &k, &v, 1.0, causal)?;
        // Of three queries, the first sees one key and the last all three.
        assert_eq!(flops(&only(&out)?), Some(2 * 2 * 4 * (1 + 2 + 3) * (8 + 6)));
        Ok(())
    }

    #[test]
    fn views_move_nothing_and_copies_do() -> Result<()> {
        let x = ones(&[6, 4])?;
        let view = eval(&[ops::transpose(&x)?], Timing::Apart)?.operations.remove(0);
        assert!(is_view(&view));
        assert_eq!(bytes(&view), 0);
        let copy = ops::contiguous(&ops::transpose(&x)?, false)?;
        assert_eq!(bytes(&only(&copy)?), 2 * 4 * 6 * 4);
        let twice = only(&ops::multiply(&x, &x)?)?;
        assert_eq!((bytes(&twice), flops(&twice)), (2 * 4 * 6 * 4, None));
        let rows = Array::from_slice(&[0_i32, 2], &[2])?;
        // What takes checks its indices first, which are evaluated here.
        let taken = eval(&[ops::take_axis(&x, &rows, 0)?], Timing::Apart)?.operations;
        let gather = taken.iter().find(|operation| operation.name == "Gather").expect("a gather");
        assert_eq!(bytes(gather), 2 * 4 * 2 * 4 + 8);
        Ok(())
    }
}
