//! From the operands of a quantized product to what computes it.

use std::borrow::Cow;

use mlx_graft::primitive::{KernelError, OutputBuffer};

use super::operands::{self, Weight};
use super::output;
#[cfg(target_arch = "x86_64")]
use super::pairs;
use super::product::{self, Path, Product};
use crate::floats::Floats;
use crate::gather::{Groups, place};
use crate::tasks;

/// Numbers from which on rows are put in order by several threads.
const PARALLEL_FROM: usize = 1 << 16;

/// Whether an output is empty, or its sums are, of `length` terms: then it is written.
fn is_nothing(length: usize, output: &mut OutputBuffer<'_>) -> Result<bool, KernelError> {
    if length == 0 {
        output::fill_with_zeros(output)?;
    }
    Ok(length == 0 || output.size() == 0)
}

/// Multiplies rows and a stack of quantized matrices; the shapes of the stacks of both broadcast.
///
/// All rows are multiplied with the same matrix where there is only one.
pub(super) fn solve(
    x: Floats<'_>,
    [x_stack, stack]: [&[i32]; 2],
    weight: &Weight<'_>,
    transpose: bool,
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    let length = if transpose { weight.columns } else { weight.rows };
    if is_nothing(length, output)? {
        return Ok(());
    }
    #[cfg(target_arch = "x86_64")]
    if stack.is_empty()
        && let Some(x) = pairs::many_rows(x, length, transpose)
    {
        return pairs::write(x, weight, transpose, output);
    }
    let is_float32 = matches!(x, Floats::Float32(_));
    let x = operands::to_float32(x);
    let path = |rows| Path::of(weight.format, transpose, rows, is_float32);
    let one = |x, index, path| Product { x, length, weight, index, transpose, path };
    let products = if stack.is_empty() {
        vec![one(&*x, 0, path(x.len() / length))]
    } else {
        let shape = output.shape();
        let (batch, m) = (&shape[..shape.len() - 2], shape[shape.len() - 2] as usize);
        let at = |i: usize| {
            let start = place(i, batch, x_stack) * m * length;
            one(&x[start..start + m * length], place(i, batch, stack), path(m))
        };
        (0..batch.iter().product::<i32>() as usize).map(at).collect()
    };
    product::write_stacked(&products, output)
}

/// Multiplies the same rows and each of some quantized matrices, transposed: an output for each.
pub(super) fn solve_each(
    x: Floats<'_>,
    weights: &[Weight<'_>],
    outputs: &mut [OutputBuffer<'_>],
) -> Result<(), KernelError> {
    #[cfg(target_arch = "x86_64")]
    if let Some(x) = weights.first().and_then(|w| pairs::many_rows(x, w.columns, true)) {
        let mut products = weights.iter().zip(outputs);
        return products.try_for_each(|(weight, output)| pairs::write(x, weight, true, output));
    }
    let is_float32 = matches!(x, Floats::Float32(_));
    let x = operands::to_float32(x);
    let (mut products, mut written) = (Vec::new(), Vec::new());
    for (weight, output) in weights.iter().zip(outputs) {
        let length = weight.columns;
        if !is_nothing(length, output)? {
            let path = Path::of(weight.format, true, x.len() / length, is_float32);
            let product = Product { x: &x, length, weight, index: 0, transpose: true, path };
            written.push(output);
            products.push(product);
        }
    }
    product::write_each(&products, written)
}

/// Multiplies, pair by pair, matrices `lhs` of `x`, of `m` rows each, and matrices `rhs` of a stack
/// of `count` packed ones: all rows that meet a matrix at once.
pub(super) fn solve_picked(
    x: Floats<'_>,
    m: usize,
    [lhs, rhs]: [&[usize]; 2],
    (weight, count): (&Weight<'_>, usize),
    transpose: bool,
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    let length = if transpose { weight.columns } else { weight.rows };
    if is_nothing(length, output)? {
        return Ok(());
    }
    let is_float32 = matches!(x, Floats::Float32(_));
    let x = operands::to_float32(x);
    let groups = Groups::new(rhs, count);
    let sorted = in_order(&x, m * length, lhs, groups.order());
    let mut rest = &*sorted;
    let one = |(index, picks): (usize, &[usize])| {
        let x = rest.split_off(..picks.len() * m * length).expect("all that is picked");
        let path = Path::of(weight.format, transpose, picks.len() * m, is_float32);
        Product { x, length, weight, index, transpose, path }
    };
    let products: Vec<_> = groups.iter().map(one).collect();
    product::write_picked(&products, &groups, m, output)
}

/// Parts `lhs[order[0]]`, `lhs[order[1]]`, … of `x`, of `size` numbers each.
fn in_order<'x>(x: &'x [f32], size: usize, lhs: &[usize], order: &[usize]) -> Cow<'x, [f32]> {
    if x.len() == order.len() * size && order.iter().enumerate().all(|(i, &pick)| lhs[pick] == i) {
        return Cow::Borrowed(x);
    }
    let count = order.len() * size;
    Cow::Owned(tasks::filled(count, size, 0.0, count >= PARALLEL_FROM, |i, to| {
        to.copy_from_slice(&x[lhs[order[i]] * size..][..size]);
    }))
}
