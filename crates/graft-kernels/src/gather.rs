//! Which matrices of two stacks are multiplied with each other: what `gather_mm` and `gather_qmm`
//! have in common.

use mlx_graft::primitive::{InputBuffer, KernelError};
use mlx_graft::{Array, Dtype, Result, ops};

use crate::matmul::{broadcast, sum_to};

/// Which of both stacks come with indices. Without, all matrices of a stack are multiplied, in
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) lhs: bool,
    pub(crate) rhs: bool,
}

impl Given {
    /// Both come with indices.
    pub(crate) const BOTH: Self = Self { lhs: true, rhs: true };

    /// Which of these there are, or none of both.
    pub(crate) fn of([lhs, rhs]: [Option<&Array>; 2]) -> Option<Self> {
        let given = Self { lhs: lhs.is_some(), rhs: rhs.is_some() };
        (given.lhs || given.rhs).then_some(given)
    }

    /// The indices of both stacks, of those that there are.
    pub(crate) fn split<T>(self, indices: &[T]) -> [Option<&T>; 2] {
        let (lhs, rhs) = indices.split_at(usize::from(self.lhs));
        [lhs.first(), rhs.first().filter(|_| self.rhs)]
    }
}

/// The shape that products of stacks of these shapes and indices have, without that of each.
pub(crate) fn shape_of_products(
    stacks: [&[i32]; 2],
    indices: [Option<&[i32]>; 2],
) -> Option<Vec<i32>> {
    broadcast(indices[0].unwrap_or(stacks[0]), indices[1].unwrap_or(stacks[1]))
}

/// Whether these can be indices.
pub(crate) fn are_integers(indices: [Option<&Array>; 2]) -> bool {
    indices.into_iter().flatten().all(|indices| indices.dtype().is_integer())
}

/// Indices in a dtype that [`picked`] reads.
pub(crate) fn readable(indices: Option<&Array>) -> Result<Option<Array>> {
    let read = |indices: &Array| match indices.dtype() {
        Dtype::Uint32 | Dtype::Int32 | Dtype::Int64 => Ok(indices.clone()),
        _ => ops::astype(indices, Dtype::Int64),
    };
    indices.map(read).transpose()
}

/// The number of the matrix that each product takes from a stack of shape `stack`; `shape` is that
/// of all products.
pub(crate) fn picked(
    op: &'static str,
    indices: Option<&InputBuffer<'_>>,
    stack: &[i32],
    shape: &[i32],
) -> Result<Vec<usize>, KernelError> {
    let length: i64 = stack.iter().map(|&length| i64::from(length)).product();
    let count = shape.iter().product::<i32>() as usize;
    let own = indices.map_or(stack, InputBuffer::shape);
    let at = |i: usize| if own == shape { i } else { place(i, shape, own) };
    let Some(indices) = indices else { return Ok((0..count).map(at).collect()) };
    let numbers: Vec<i64> = match indices.dtype() {
        Dtype::Uint32 => indices.as_slice::<u32>()?.iter().map(|&index| index.into()).collect(),
        Dtype::Int32 => indices.as_slice::<i32>()?.iter().map(|&index| index.into()).collect(),
        _ => indices.as_slice::<i64>()?.to_vec(),
    };
    let number = |i: usize| {
        let index = numbers[at(i)];
        if (0..length).contains(&index) {
            Ok(index as usize)
        } else {
            Err(KernelError::index(op, index, length))
        }
    };
    (0..count).map(number).collect()
}

/// Where matrix `index` of a broadcast stack lies in a stack of shape `stack`.
pub(crate) fn place(mut index: usize, broadcast: &[i32], stack: &[i32]) -> usize {
    let (mut place, mut distance) = (0, 1);
    for (&length, &own) in broadcast.iter().rev().zip(stack.iter().rev()) {
        let (length, own) = (length as usize, own as usize);
        place += index % length % own * distance;
        index /= length;
        distance *= own;
    }
    place
}

/// Products by the matrix that they take, so that each matrix is read once for all of them.
pub(crate) struct Groups {
    order: Vec<usize>,
    starts: Vec<usize>,
}

impl Groups {
    /// Sorts products by the numbers of their matrices, of which there are `count`; those of one
    /// matrix stay in order.
    pub(crate) fn new(numbers: &[usize], count: usize) -> Self {
        let mut starts = vec![0; count + 1];
        for &number in numbers {
            starts[number + 1] += 1;
        }
        for i in 0..count {
            starts[i + 1] += starts[i];
        }
        let (mut next, mut order) = (starts.clone(), vec![0; numbers.len()]);
        for (product, &number) in numbers.iter().enumerate() {
            order[next[number]] = product;
            next[number] += 1;
        }
        Self { order, starts }
    }

    /// All products, each once.
    pub(crate) fn order(&self) -> &[usize] {
        &self.order
    }

    /// The matrices that are taken at all, each with its products.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &[usize])> {
        let ends = self.starts.windows(2).enumerate();
        ends.map(|(number, ends)| (number, &self.order[ends[0]..ends[1]]))
            .filter(|(_, products)| !products.is_empty())
    }
}

/// Adds up, in `float32`, the arrays `(…, M, N)` that belong to the same matrix of a stack of
/// `shape`, whose indices are those given.
pub(crate) fn sum_by(x: &Array, indices: Option<&Array>, shape: &[i32]) -> Result<Array> {
    if x.size() == 0 {
        return ops::zeros(shape, x.dtype());
    }
    let Some(indices) = indices else { return sum_to(x, shape) };
    let wide = ops::astype(x, Dtype::Float32)?;
    let (batch, matrix) = x.shape().split_at(x.ndim() - 2);
    let (stack, _) = shape.split_at(shape.len() - 2);
    let of = |stack: &[i32]| [&[stack.iter().product()], matrix].concat();
    let indices = ops::flatten(&ops::broadcast_to(indices, batch)?, 0, -1)?;
    let updates = ops::expand_dims(&ops::reshape(&wide, &of(batch))?, 1)?;
    let zeros = ops::zeros(&of(stack), Dtype::Float32)?;
    let sum = ops::scatter_add_single(&zeros, &indices, &updates, 0)?;
    ops::astype(&ops::reshape(&sum, shape)?, x.dtype())
}

/// The common length of the dimensions that `vmap` maps.
pub(crate) fn mapped_length(inputs: &[Array], axes: &[Option<i32>]) -> Result<i32> {
    let mut lengths = inputs.iter().zip(axes).filter_map(|(x, axis)| axis.map(|axis| x.dim(axis)));
    lengths.next().unwrap_or(Ok(1))
}

/// One stack of operands with the dimension that `vmap` maps in front, if it has it.
pub(crate) fn to_front(x: &Array, axis: Option<i32>) -> Result<Array> {
    axis.map_or_else(|| Ok(x.clone()), |axis| ops::moveaxis(x, axis, 0))
}

/// An operand of a product that `vmap` maps.
pub(crate) struct Mapped<'a> {
    /// The shape of the stack, which has the mapped dimension in front if it `leads`.
    pub(crate) stack: &'a [i32],
    pub(crate) leads: bool,
    /// The indices that are given, with their mapped axis.
    pub(crate) indices: Option<&'a (&'a Array, Option<i32>)>,
}

/// Indices of both operands with the mapped dimension in front of theirs, of `length` or 1.
pub(crate) fn mapped_indices(length: i32, operands: [Mapped<'_>; 2]) -> Result<[Array; 2]> {
    let one = |Mapped { stack, leads, indices }: Mapped<'_>| {
        let stack = &stack[usize::from(leads)..];
        let count: i32 = stack.iter().product();
        let counted = |count: i32, step: i32| {
            ops::arange(0.0, f64::from(count * step), f64::from(step), Dtype::Int64)
        };
        let indices = match indices {
            Some(&(indices, Some(axis))) => ops::moveaxis(indices, axis, 0)?,
            Some(&(indices, None)) => ops::expand_dims(indices, 0)?,
            None => ops::reshape(&counted(count, 1)?, &[&[1], stack].concat())?,
        };
        if !leads || count == 0 {
            return Ok(indices);
        }
        // What is out of range must not become an index of the next stack.
        let zero = Array::scalar(0_i64)?;
        let is_valid = ops::logical_and(
            &ops::greater_equal(&indices, &zero)?,
            &ops::less(&indices, &Array::scalar(i64::from(count))?)?,
        )?;
        let column: Vec<i32> = (1..indices.ndim() as i32).collect();
        let offsets = ops::expand_dims_axes(&counted(length, count)?, &column)?;
        ops::where_(&is_valid, &ops::add(&indices, &offsets)?, &Array::scalar(-1_i64)?)
    };
    let [lhs, rhs] = operands;
    let (lhs, rhs) = (one(lhs)?, one(rhs)?);
    // They broadcast from the right: the mapped dimension must stay leftmost.
    let most = lhs.ndim().max(rhs.ndim());
    let padded = |indices: Array| {
        let missing: Vec<i32> = (1..=(most - indices.ndim()) as i32).collect();
        if missing.is_empty() { Ok(indices) } else { ops::expand_dims_axes(&indices, &missing) }
    };
    Ok([padded(lhs)?, padded(rhs)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_grouped_in_order() {
        let groups = Groups::new(&[3, 0, 3, 1, 0], 5);
        let found: Vec<_> = groups.iter().map(|(i, products)| (i, products.to_vec())).collect();
        assert_eq!(found, [(0, vec![1, 4]), (1, vec![3]), (3, vec![0, 2])]);
        assert_eq!(groups.order(), [1, 4, 3, 0, 2]);
        assert_eq!(Groups::new(&[], 0).iter().count(), 0);
    }

    #[test]
    fn places_of_a_broadcast_stack() {
        let places = |stack: &[i32]| (0..6).map(|i| place(i, &[2, 3], stack)).collect::<Vec<_>>();
        assert_eq!(places(&[2, 3]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(places(&[2, 1]), [0, 0, 0, 1, 1, 1]);
        assert_eq!(places(&[3]), [0, 1, 2, 0, 1, 2]);
        assert_eq!(places(&[]), [0; 6]);
    }
}
