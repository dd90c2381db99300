//! Indices out of range are errors. MLX checks none, so that an operation would read or write
//! memory that is not the array's.
//!
//! The operations that take indices call this module first. Indices that are evaluated are read at
//! once. Others pass through a node of the graph, [`CheckIndices`], which fails the evaluation; the
//! operation behind it then sees zeros. A GPU has no such node: there, indices are moved to the
//! nearest that is in range.

use std::borrow::Cow;
use std::cell::Cell;

use super::check_node::{CheckIndices, Extent, Limit};
use crate::{Array, Device, DeviceType, Dtype, Error, Result, ops, primitive};

thread_local! {
    static UNCHECKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` without the checks, as MLX itself works; also what `f` calls builds its graph without.
pub(super) fn without<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            UNCHECKED.set(self.0);
        }
    }
    let _restore = Restore(UNCHECKED.replace(true));
    f()
}

/// Indices of the flat array.
pub(crate) fn flat<'i>(op: &'static str, a: &Array, indices: &'i Array) -> Result<Cow<'i, Array>> {
    check(op, a, indices, vec![Limit::new(Extent::Leading { without: 0 }, 1, true)])
}

/// Indices along an axis.
pub(crate) fn along<'i>(
    op: &'static str,
    a: &Array,
    indices: &'i Array,
    axis: i32,
) -> Result<Cow<'i, Array>> {
    let ndim = a.ndim() as i32;
    if !(-ndim..ndim).contains(&axis) {
        // MLX says so in its own words.
        return Ok(Cow::Borrowed(indices));
    }
    let axis = axis.rem_euclid(ndim) as usize;
    check(op, a, indices, vec![Limit::new(Extent::Axis(axis), 1, true)])
}

/// Where slices of `sizes` start, one array for each axis.
pub(crate) fn starts<'i, A: AsRef<Array>>(
    op: &'static str,
    a: &Array,
    indices: &'i [A],
    axes: &[i32],
    sizes: &[i32],
) -> Result<Vec<Cow<'i, Array>>> {
    let ndim = a.ndim();
    let fits = sizes.len() == ndim
        && indices.len() == axes.len()
        && axes.iter().all(|&axis| (0..ndim as i32).contains(&axis));
    indices
        .iter()
        .enumerate()
        .map(|(i, indices)| {
            let indices = indices.as_ref();
            if !fits {
                // MLX says so in its own words; of booleans it says it in a way that ends the
                // process.
                return integers(op, indices).map(|()| Cow::Borrowed(indices));
            }
            let axis = axes[i] as usize;
            check(op, a, indices, vec![Limit::new(Extent::Axis(axis), sizes[axis], true)])
        })
        .collect()
}

/// Where slices start that `updates` replace, whose last dimensions are the sizes.
pub(crate) fn updates<'i, A: AsRef<Array>>(
    op: &'static str,
    a: &Array,
    indices: &'i [A],
    updates: &Array,
    axes: &[i32],
) -> Result<Vec<Cow<'i, Array>>> {
    let shape = updates.shape();
    let sizes = shape.len().checked_sub(a.ndim()).map_or(&[][..], |skip| &shape[skip..]);
    starts(op, a, indices, axes, sizes)
}

/// Where a slice of `sizes` starts, one number for each axis; row-contiguous, as MLX reads it so.
pub(crate) fn start<'i>(
    op: &'static str,
    a: &Array,
    start: &'i Array,
    axes: &[i32],
    sizes: &[i32],
) -> Result<Cow<'i, Array>> {
    if UNCHECKED.get() {
        return Ok(Cow::Borrowed(start));
    }
    let ndim = a.ndim() as i32;
    let fits = start.size() == axes.len()
        && sizes.len() == a.ndim()
        && axes.iter().all(|axis| (-ndim..ndim).contains(axis));
    if !fits || axes.is_empty() {
        return Ok(Cow::Borrowed(start));
    }
    let limits = axes
        .iter()
        .map(|axis| {
            let axis = axis.rem_euclid(ndim) as usize;
            Limit::new(Extent::Axis(axis), sizes[axis], false)
        })
        .collect();
    ops::contiguous(&*check(op, a, start, limits)?, false).map(Cow::Owned)
}

/// Where a slice that `update` replaces starts, one number for each axis.
pub(crate) fn update_start<'i>(
    op: &'static str,
    a: &Array,
    update: &Array,
    start: &'i Array,
    axes: &[i32],
) -> Result<Cow<'i, Array>> {
    let Some(given) = a.ndim().checked_sub(update.ndim()) else {
        return Err(Error::invalid_argument(
            op,
            format!("an update of {} dimensions for an array of {}", update.ndim(), a.ndim()),
        ));
    };
    // What the update has no dimension for, it replaces at one place or wholly.
    let selected = |axis: usize| {
        axes.iter().any(|&a_axis| a_axis.rem_euclid(a.ndim().max(1) as i32) as usize == axis)
    };
    let sizes: Vec<i32> = (0..a.ndim())
        .map(|axis| match axis.checked_sub(given) {
            Some(at) => update.shape()[at].min(a.shape()[axis]),
            None if selected(axis) => 1,
            None => a.shape()[axis],
        })
        .collect();
    self::start(op, a, start, axes, &sizes)
}

/// Numbers of matrices in a batch.
pub(crate) fn batch<'i>(
    op: &'static str,
    a: &Array,
    indices: Option<&'i Array>,
) -> Result<Option<Cow<'i, Array>>> {
    let limit = Limit::new(Extent::Leading { without: 2 }, 1, false);
    indices.map(|indices| check(op, a, indices, vec![limit])).transpose()
}

/// Starts and ends of segments of the inner dimension of a matrix product.
pub(crate) fn segments<'i>(
    op: &'static str,
    a: &Array,
    b: &Array,
    segments: &'i Array,
) -> Result<Cow<'i, Array>> {
    let (&[_, columns], &[rows, _]) = (a.shape(), b.shape()) else {
        return Ok(Cow::Borrowed(segments));
    };
    if columns != rows && !UNCHECKED.get() {
        return Err(Error::invalid_argument(
            op,
            format!("the inner lengths {columns} and {rows} differ"),
        ));
    }
    check(op, a, segments, vec![Limit::new(Extent::Axis(1), 0, false)])
}

/// Steps of a slice: MLX divides by them.
pub(crate) fn steps(op: &'static str, strides: &[i32]) -> Result<()> {
    if strides.iter().any(|&stride| stride == 0 || stride == i32::MIN) {
        return Err(Error::invalid_argument(op, format!("steps of {strides:?}: one is zero")));
    }
    Ok(())
}

fn integers(op: &'static str, indices: &Array) -> Result<()> {
    let dtype = indices.dtype();
    if dtype.is_integer() {
        return Ok(());
    }
    Err(Error::invalid_argument(op, format!("indices must be integers, not {dtype}")))
}

/// The indices, of which each is in range or the evaluation fails. `limits` are those of
/// neighbours, over and over.
fn check<'i>(
    op: &'static str,
    a: &Array,
    indices: &'i Array,
    limits: Vec<Limit>,
) -> Result<Cow<'i, Array>> {
    if UNCHECKED.get() {
        return Ok(Cow::Borrowed(indices));
    }
    integers(op, indices)?;
    // The lengths of a placeholder may be others when a compiled function runs.
    let traced = a.is_tracer();
    if !traced && indices.is_available() {
        let lengths: Vec<i64> = limits.iter().map(|limit| limit.extent.length(a.shape())).collect();
        super::check_node::check_now(op, indices, &limits, &lengths)?;
        return Ok(Cow::Borrowed(indices));
    }
    if Device::default_device()?.kind == DeviceType::Gpu {
        return clamp(a, indices, &limits, traced).map(Cow::Owned);
    }
    let node = CheckIndices::new(op, limits, a.shape());
    let checked = if traced {
        primitive::apply(node, &[indices, &ops::stop_gradient(a)?])?
    } else {
        primitive::apply(node, &[indices])?
    };
    Ok(Cow::Owned(checked[0].clone()))
}

/// The indices, moved to the nearest that is in range, by operations of MLX.
fn clamp(a: &Array, indices: &Array, limits: &[Limit], traced: bool) -> Result<Array> {
    let number = |value: i64| Array::scalar(value);
    let column = |of: &dyn Fn(&Limit) -> Result<Array>| -> Result<Array> {
        let values = limits.iter().map(of).collect::<Result<Vec<_>>>()?;
        if let [value] = &values[..] { Ok(value.clone()) } else { ops::stack(&values) }
    };
    let lengths = column(&|limit| {
        if traced {
            ops::number_of_elements(a, &limit.extent.axes(a.ndim()), false, Dtype::Int64)
        } else {
            number(limit.extent.length(a.shape()))
        }
    })?;
    let sizes = column(&|limit| number(i64::from(limit.size)))?;
    let zero = number(0)?;
    let mut wide = ops::astype(indices, Dtype::Int64)?;
    if limits[0].negative {
        wide = ops::where_(&ops::less(&wide, &zero)?, &ops::add(&wide, &lengths)?, &wide)?;
    }
    let last = ops::maximum(&ops::subtract(&lengths, &sizes)?, &zero)?;
    ops::clip(&wide, Some(&zero), Some(&last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a GPU does, here with the operations of the CPU.
    #[test]
    fn clamped_indices_are_in_range() -> Result<()> {
        let a = ops::zeros(&[4, 5], Dtype::Float32)?;
        let axis = |axis, size, negative| vec![Limit::new(Extent::Axis(axis), size, negative)];
        let indices = Array::from_slice(&[-9, -5, -1, 0, 3, 4, 5, 99], &[8])?;
        for traced in [false, true] {
            let clamped = |limits: &[Limit]| -> Result<Vec<i64>> {
                clamp(&a, &indices, limits, traced)?.to_vec()
            };
            assert_eq!(clamped(&axis(1, 1, true))?, [0, 0, 4, 0, 3, 4, 4, 4]);
            assert_eq!(clamped(&axis(0, 3, true))?, [0, 0, 1, 0, 1, 1, 1, 1]);
            assert_eq!(clamped(&axis(1, 1, false))?, [0, 0, 0, 0, 3, 4, 4, 4]);
            let flat = Limit::new(Extent::Leading { without: 0 }, 1, true);
            assert_eq!(clamped(&[flat])?, [11, 15, 19, 0, 3, 4, 5, 19]);
            let two = [axis(0, 1, false), axis(1, 1, false)].concat();
            assert_eq!(clamped(&two.repeat(4))?, [0, 0, 0, 0, 3, 4, 3, 4]);
        }
        let large = Array::from_slice(&[u64::MAX, 2], &[2])?;
        assert_eq!(clamp(&a, &large, &axis(0, 1, true), false)?.to_vec::<i64>()?, [3, 2]);
        Ok(())
    }
}
