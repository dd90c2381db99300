//! Indices out of range are errors. MLX checks none, so that an operation would read or write
//! memory that is not the array's.
//!
//! The operations that take indices call this module first. Indices that are evaluated are read at
//! once. Others pass through a node of the graph, [`CheckIndices`], which fails the evaluation; the
//! operation behind it then sees zeros. On a GPU, which cannot run it, indices are moved to the
//! nearest that is in range. Neither helps where no index is in range, because the axis is empty or
//! shorter than the slice: that is an error at once, and for a trace that meets other shapes, before
//! anything of it runs.

use std::borrow::Cow;
use std::cell::Cell;

use super::check_node::{Bound, CheckIndices, Extent, Limit, Size, check_now, check_room};
use crate::{Array, DeviceType, Dtype, Error, Result, ops, stream};

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

/// Whether there are checks.
pub(crate) fn are_on() -> bool {
    !UNCHECKED.get()
}

/// Indices of the flat array.
pub(crate) fn flat<'i>(op: &'static str, a: &Array, indices: &'i Array) -> Result<Cow<'i, Array>> {
    let limit = Limit::new(Extent::Leading { without: 0 }, Size::Fixed(1), true);
    check(op, a, None, indices, vec![limit])
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
    let limit = Limit::new(Extent::Axis(axis), Size::Fixed(1), true);
    check(op, a, None, indices, vec![limit])
}

/// Classes along the last axis. MLX counts negative ones from the end on a CPU, and reads in front of
/// the array on a GPU, so none is allowed.
pub(crate) fn classes<'i>(
    op: &'static str,
    logits: &Array,
    targets: &'i Array,
) -> Result<Cow<'i, Array>> {
    let Some(axis) = logits.ndim().checked_sub(1) else {
        // MLX says so in its own words.
        return Ok(Cow::Borrowed(targets));
    };
    let limit = Limit::new(Extent::Axis(axis), Size::Fixed(1), false);
    check(op, logits, None, targets, vec![limit])
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
            let limit = Limit::new(Extent::Axis(axis), Size::Fixed(sizes[axis]), true);
            check(op, a, None, indices, vec![limit])
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
    let sizes: Vec<Size> = sizes.iter().map(|&size| Size::Fixed(size)).collect();
    start_of(op, a, None, start, axes, &sizes)
}

fn start_of<'i>(
    op: &'static str,
    a: &Array,
    update: Option<&Array>,
    start: &'i Array,
    axes: &[i32],
    sizes: &[Size],
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
    ops::contiguous(&*check(op, a, update, start, limits)?, false).map(Cow::Owned)
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
    let sizes: Vec<Size> = (0..a.ndim())
        .map(|axis| match axis.checked_sub(given) {
            Some(at) => Size::OfUpdate(at),
            None if selected(axis) => Size::Fixed(1),
            None => Size::Fixed(a.shape()[axis]),
        })
        .collect();
    start_of(op, a, Some(update), start, axes, &sizes)
}

/// Numbers of matrices in a batch.
pub(crate) fn batch<'i>(
    op: &'static str,
    a: &Array,
    indices: Option<&'i Array>,
) -> Result<Option<Cow<'i, Array>>> {
    indices.map(|indices| matrices(op, a, indices)).transpose()
}

/// [`batch`] of indices that are there.
pub(crate) fn matrices<'i>(
    op: &'static str,
    a: &Array,
    indices: &'i Array,
) -> Result<Cow<'i, Array>> {
    let limit = Limit::new(Extent::Leading { without: 2 }, Size::Fixed(1), false);
    check(op, a, None, indices, vec![limit])
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
    check(op, a, None, segments, vec![Limit::new(Extent::Axis(1), Size::Fixed(0), false)])
}

/// Steps of a slice: MLX divides by them.
pub(crate) fn steps(op: &'static str, strides: &[i32]) -> Result<()> {
    if strides.iter().any(|&stride| stride == 0 || stride == i32::MIN) {
        return Err(Error::invalid_argument(op, format!("steps of {strides:?}: one is zero")));
    }
    Ok(())
}

/// Which triangle of a matrix is read: MLX takes any other name for the upper one.
pub(crate) fn triangle(op: &'static str, uplo: &str) -> Result<()> {
    if matches!(uplo, "L" | "U") || UNCHECKED.get() {
        return Ok(());
    }
    Err(Error::invalid_argument(
        op,
        format!("{uplo:?} is no triangle: give \"L\" for the lower one or \"U\" for the upper one"),
    ))
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
    update: Option<&Array>,
    indices: &'i Array,
    limits: Vec<Limit>,
) -> Result<Cow<'i, Array>> {
    if UNCHECKED.get() {
        return Ok(Cow::Borrowed(indices));
    }
    integers(op, indices)?;
    let bounds = Bound::of_all(&limits, a.shape(), update.map(Array::shape).unwrap_or_default());
    // The lengths of a placeholder may be others when a compiled function runs.
    let traced = a.is_tracer() || update.is_some_and(Array::is_tracer);
    if !traced && indices.is_available() {
        check_now(op, indices, &bounds)?;
        return Ok(Cow::Borrowed(indices));
    }
    check_room(op, indices.shape(), &bounds)?;
    let mut inputs = vec![indices.clone()];
    if traced {
        for other in [Some(a), update].into_iter().flatten() {
            inputs.push(ops::stop_gradient(other)?);
        }
    }
    if stream::current_device()?.kind == DeviceType::Gpu {
        return clamp(op, limits, bounds, inputs).map(Cow::Owned);
    }
    CheckIndices::new(op, limits, bounds).apply(&inputs).map(Cow::Owned)
}

/// The first of the inputs, moved to the nearest indices that are in range, by operations of MLX.
fn clamp(
    op: &'static str,
    limits: Vec<Limit>,
    bounds: Vec<Bound>,
    mut inputs: Vec<Array>,
) -> Result<Array> {
    let number = |value: i64| Array::scalar(value);
    let column = |of: &dyn Fn(&Limit, &Bound) -> Result<Array>| -> Result<Array> {
        let values = limits.iter().zip(&bounds).map(|(limit, bound)| of(limit, bound));
        let values = values.collect::<Result<Vec<_>>>()?;
        if let [value] = &values[..] { Ok(value.clone()) } else { ops::stack(&values) }
    };
    let count = |a: &Array, axes: &[i32]| ops::number_of_elements(a, axes, false, Dtype::Int64);
    let lengths = column(&|limit, bound| match inputs.get(1) {
        Some(a) => count(a, &limit.extent.axes(a.ndim())),
        None => number(bound.length),
    })?;
    let sizes = column(&|limit, bound| match (limit.size, inputs.get(2)) {
        (Size::OfUpdate(axis), Some(update)) => count(update, &[axis as i32]),
        _ => number(bound.size),
    })?;
    let zero = number(0)?;
    let mut wide = ops::astype(&inputs[0], Dtype::Int64)?;
    if limits[0].negative {
        wide = ops::where_(&ops::less(&wide, &zero)?, &ops::add(&wide, &lengths)?, &wide)?;
    }
    let last = ops::maximum(&ops::subtract(&lengths, &sizes)?, &zero)?;
    inputs[0] = ops::clip(&wide, Some(&zero), Some(&last))?;
    if inputs.len() == 1 {
        return Ok(inputs.remove(0));
    }
    CheckIndices::of_shapes(op, limits, bounds).apply(&inputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, transforms};

    /// What a GPU does, here with the operations of the CPU.
    #[test]
    fn clamped_indices_are_in_range() -> Result<()> {
        let a = ops::zeros(&[4, 5], Dtype::Float32)?;
        let axis = |axis, size, negative| {
            vec![Limit::new(Extent::Axis(axis), Size::Fixed(size), negative)]
        };
        let indices = Array::from_slice(&[-9, -5, -1, 0, 3, 4, 5, 99], &[8])?;
        for traced in [false, true] {
            let clamped = |limits: &[Limit]| -> Result<Vec<i64>> {
                let bounds = Bound::of_all(limits, a.shape(), &[]);
                let mut inputs = vec![indices.clone()];
                inputs.extend(traced.then(|| a.clone()));
                clamp("test", limits.to_vec(), bounds, inputs)?.to_vec()
            };
            assert_eq!(clamped(&axis(1, 1, true))?, [0, 0, 4, 0, 3, 4, 4, 4]);
            assert_eq!(clamped(&axis(0, 3, true))?, [0, 0, 1, 0, 1, 1, 1, 1]);
            assert_eq!(clamped(&axis(1, 1, false))?, [0, 0, 0, 0, 3, 4, 4, 4]);
            let flat = Limit::new(Extent::Leading { without: 0 }, Size::Fixed(1), true);
            assert_eq!(clamped(&[flat])?, [11, 15, 19, 0, 3, 4, 5, 19]);
            let two = [axis(0, 1, false), axis(1, 1, false)].concat();
            assert_eq!(clamped(&two.repeat(4))?, [0, 0, 0, 0, 3, 4, 3, 4]);
        }
        let large = Array::from_slice(&[u64::MAX, 2], &[2])?;
        let (limits, bounds) = (axis(0, 1, true), Bound::of_all(&axis(0, 1, true), &[4, 5], &[]));
        assert_eq!(clamp("test", limits, bounds, vec![large])?.to_vec::<i64>()?, [3, 2]);
        Ok(())
    }

    /// There too a trace refuses lengths and updates for which no index is in range.
    #[test]
    fn clamped_indices_need_a_range() -> Result<()> {
        let limits = vec![Limit::new(Extent::Axis(0), Size::OfUpdate(0), false)];
        let f = transforms::compile(
            move |v: &[Array]| {
                let bounds = Bound::of_all(&limits, v[1].shape(), v[2].shape());
                Ok(vec![clamp("test", limits.clone(), bounds, v.to_vec())?])
            },
            true,
        )?;
        let indices = Array::from_slice(&[-1, 1, 9], &[3])?;
        let zeros = |length| ops::zeros(&[length], Dtype::Float32);
        let call = |a, update| f.call(&[indices.clone(), zeros(a)?, zeros(update)?]);
        assert_eq!(call(5, 2)?[0].to_vec::<i64>()?, [0, 1, 3]);
        assert_eq!(call(9, 5)?[0].to_vec::<i64>()?, [0, 1, 4]);
        assert_eq!(call(5, 5)?[0].to_vec::<i64>()?, [0, 0, 0]);
        for (a, update) in [(5, 6), (0, 1), (1, 2)] {
            let error = call(a, update).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        }
        let none = f.call(&[ops::zeros(&[0], Dtype::Int32)?, zeros(1)?, zeros(2)?])?;
        assert_eq!(none[0].shape(), [0]);
        // Vectorized over everything.
        let rows = |v: &[Array]| {
            let limits = vec![Limit::new(Extent::Axis(0), Size::OfUpdate(0), false)];
            let bounds = Bound::of_all(&limits, v[1].shape(), v[2].shape());
            Ok(vec![clamp("test", limits, bounds, v.to_vec())?])
        };
        let inputs = [
            Array::from_slice(&[-1, 9], &[2, 1])?,
            ops::zeros(&[5, 2], Dtype::Float32)?,
            ops::zeros(&[2, 3], Dtype::Float32)?,
        ];
        let axes = [Some(0), Some(1), Some(0)];
        let mapped = transforms::vmap(rows, &inputs, &axes, &[Some(0)])?;
        assert_eq!(mapped[0].to_vec::<i64>()?, [0, 2]);
        Ok(())
    }
}
