//! An index applied to a shape.
//!
//! Every index becomes the same steps: a slice of the array, in which whole dimensions stay; a
//! gather of the dimensions that arrays index; and a new order of dimensions with some added. An
//! update takes the steps backwards.

use super::Index;
use super::item::Slice;
use crate::{Array, Dtype, Error, Result, ops};

/// What happens to a dimension of the array.
#[derive(Debug, Clone)]
enum Axis {
    /// A part stays.
    Part,
    /// One place, which drops it.
    One,
    /// Places that an array holds.
    Places(Array),
}

/// An index applied to the shape of an array.
#[derive(Debug)]
pub(super) struct Plan {
    /// The slice: starts, stops and steps.
    start: Vec<i32>,
    stop: Vec<i32>,
    step: Vec<i32>,
    /// The shape of the slice.
    part: Vec<i32>,
    axes: Vec<Axis>,
    /// Where the dimensions of arrays of indices go among those that stay; none without arrays.
    places_at: Option<usize>,
    /// Whether the dimensions that arrays index are no neighbours.
    separated: bool,
    /// The new dimensions in the result.
    added: Vec<i32>,
    op: &'static str,
}

/// A range as MLX takes it, and its number of places.
fn resolve(op: &'static str, slice: Slice, length: i32) -> Result<(i32, i32, i32, i32)> {
    let Slice { start, stop, step } = slice;
    if step == 0 || step == i32::MIN {
        return Err(Error::invalid_argument(op, "the step of a range is zero"));
    }
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |at: i32| if at < 0 { at.saturating_add(length) } else { at }.clamp(low, high);
    let first = start.map_or(if step > 0 { low } else { high }, place);
    let behind = stop.map_or(if step > 0 { high } else { low }, place);
    let distance = if step > 0 { behind - first } else { first - behind };
    let count = if distance > 0 { (distance - 1) / step.abs() + 1 } else { 0 };
    // To MLX, a stop of -1 is the last place; one before the first is far below.
    let behind = if behind < 0 { -length - 1 } else { behind };
    if count == 0 {
        return Ok((0, 0, 1, 0));
    }
    Ok((first, behind, step, count))
}

/// The places where a mask is true, along each of its dimensions.
fn places_of(op: &'static str, mask: &Array, shape: &[i32]) -> Result<Vec<Array>> {
    if mask.ndim() > shape.len() || mask.shape() != &shape[..mask.ndim()] {
        return Err(Error::invalid_argument(
            op,
            format!("a mask of shape {:?} for dimensions {shape:?}", mask.shape()),
        ));
    }
    let mut places = vec![Vec::new(); mask.ndim()];
    for (at, _) in mask.as_slice::<bool>()?.iter().enumerate().filter(|(_, set)| **set) {
        let mut rest = at as i32;
        for (axis, &length) in mask.shape().iter().enumerate().rev() {
            places[axis].push(rest % length);
            rest /= length;
        }
    }
    places.iter().map(|places| Array::from_slice(places, &[places.len() as i32])).collect()
}

fn too_many(op: &'static str, found: usize, ndim: usize) -> Error {
    Error::invalid_argument(op, format!("{found} indices for an array of {ndim} dimensions"))
}

impl Plan {
    pub(super) fn new(op: &'static str, array: &Array, indices: &[Index]) -> Result<Self> {
        let shape = array.shape();
        let is_mask = |array: &Array| array.dtype() == Dtype::Bool;
        let used: usize = indices
            .iter()
            .map(|index| match index {
                Index::Ellipsis | Index::NewAxis => 0,
                Index::Array(array) if is_mask(array) => array.ndim(),
                _ => 1,
            })
            .sum();
        let left = shape.len().checked_sub(used).ok_or_else(|| too_many(op, used, shape.len()))?;
        let whole = Index::from(..);
        let mut items: Vec<Index> = Vec::new();
        let mut has_ellipsis = false;
        for index in indices {
            match index {
                Index::Ellipsis if has_ellipsis => {
                    return Err(Error::invalid_argument(op, "more than one ellipsis"));
                }
                Index::Ellipsis => {
                    has_ellipsis = true;
                    items.extend(vec![whole.clone(); left]);
                }
                Index::Array(mask) if is_mask(mask) => {
                    if mask.ndim() == 0 {
                        return Err(Error::invalid_argument(op, "a mask without dimensions"));
                    }
                    let used = items.iter().filter(|item| !matches!(item, Index::NewAxis)).count();
                    items
                        .extend(places_of(op, mask, &shape[used..])?.into_iter().map(Index::Array));
                }
                index => items.push(index.clone()),
            }
        }
        if !has_ellipsis {
            items.extend(vec![whole; left]);
        }
        Self::of_items(op, shape, &items)
    }

    fn of_items(op: &'static str, shape: &[i32], items: &[Index]) -> Result<Self> {
        let ndim = shape.len();
        let has_arrays = items.iter().any(|item| matches!(item, Index::Array(_)));
        let mut plan = Self {
            start: vec![0; ndim],
            stop: shape.to_vec(),
            step: vec![1; ndim],
            part: shape.to_vec(),
            axes: Vec::with_capacity(ndim),
            places_at: None,
            separated: false,
            added: Vec::new(),
            op,
        };
        // How many dimensions stay so far, and whether those that arrays index are neighbours.
        let (mut parts, mut separated, mut last) = (0, false, None);
        for (position, item) in items.iter().enumerate() {
            let at = plan.axes.len();
            let mut selects = |plan: &mut Self| {
                separated |= last.is_some_and(|last| last + 1 != position);
                last = Some(position);
                plan.places_at.get_or_insert(parts);
            };
            match item {
                Index::Int(place) => {
                    let length = shape[at];
                    let start = if *place < 0 { place.saturating_add(length) } else { *place };
                    if !(0..length).contains(&start) {
                        let (index, length) = (i64::from(*place), i64::from(length));
                        return Err(Error::Index { op, index, length });
                    }
                    (plan.start[at], plan.stop[at], plan.part[at]) = (start, start + 1, 1);
                    plan.axes.push(Axis::One);
                    if has_arrays {
                        selects(&mut plan);
                    }
                }
                Index::Array(array) => {
                    plan.axes.push(Axis::Places(array.clone()));
                    selects(&mut plan);
                }
                Index::Slice(slice) => {
                    (plan.start[at], plan.stop[at], plan.step[at], plan.part[at]) =
                        resolve(op, *slice, shape[at])?;
                    plan.axes.push(Axis::Part);
                    parts += 1;
                }
                // Ellipses were replaced by whole dimensions.
                Index::NewAxis | Index::Ellipsis => {}
            }
        }
        plan.separated = separated;
        if separated {
            plan.places_at = Some(0);
        }
        plan.added = plan.find_added(items);
        Ok(plan)
    }

    /// Where the new dimensions are in the result.
    fn find_added(&self, items: &[Index]) -> Vec<i32> {
        let (mut added, mut parts, mut at) = (Vec::new(), 0, 0);
        let mut places = self.places_at.map(|places_at| (places_at, self.places_ndim() as i32));
        for item in items {
            let is_selector = matches!(item, Index::Array(_) | Index::Int(_));
            // Separated, they are the first; neighbours are where the first of them is.
            if let Some((places_at, count)) = places
                && (self.separated || is_selector && parts == places_at)
            {
                at += count;
                places = None;
            }
            match item {
                Index::NewAxis => {
                    added.push(at);
                    at += 1;
                }
                Index::Slice(_) => {
                    parts += 1;
                    at += 1;
                }
                _ => {}
            }
        }
        added
    }

    /// The dimensions of the common shape of the arrays.
    fn places_ndim(&self) -> usize {
        let ndims = self.axes.iter().map(|axis| match axis {
            Axis::Places(array) => array.ndim(),
            _ => 0,
        });
        ndims.max().unwrap_or(0)
    }

    fn is_whole(&self, shape: &[i32]) -> bool {
        self.part == shape && self.step.iter().all(|&step| step == 1)
    }

    fn slice(&self, array: &Array) -> Result<Array> {
        if self.is_whole(array.shape()) {
            return Ok(array.clone());
        }
        ops::slice(array, &self.start, &self.stop, &self.step)
    }

    /// The dimensions that are not in the result, behind `offset` others.
    fn dropped(&self, offset: usize) -> Vec<i32> {
        let pairs = self.axes.iter().enumerate();
        pairs
            .filter(|(_, axis)| !matches!(axis, Axis::Part))
            .map(|(number, _)| (number + offset) as i32)
            .collect()
    }

    /// The arrays of places with their dimensions.
    fn places(&self) -> (Vec<&Array>, Vec<i32>) {
        let pairs = self.axes.iter().enumerate();
        pairs
            .filter_map(|(number, axis)| match axis {
                Axis::Places(array) => Some((array, number as i32)),
                _ => None,
            })
            .unzip()
    }

    /// Where `count` dimensions go that are the first, as an order of all.
    fn order(count: usize, at: usize, ndim: usize) -> Vec<i32> {
        let mut order: Vec<i32> = (count as i32..ndim as i32).collect();
        order.splice(at..at, 0..count as i32);
        order
    }

    pub(super) fn get(&self, array: &Array) -> Result<Array> {
        let mut result = self.slice(array)?;
        match self.places_at {
            None => result = squeeze(&result, &self.dropped(0))?,
            Some(at) => {
                let (places, axes) = self.places();
                let mut sizes = self.part.clone();
                for &axis in &axes {
                    sizes[axis as usize] = 1;
                }
                let count = self.places_ndim();
                result = ops::gather(&result, &places, &axes, &sizes)?;
                result = squeeze(&result, &self.dropped(count))?;
                result = ops::transpose_axes(&result, &Self::order(count, at, result.ndim()))?;
            }
        }
        expand(&result, &self.added)
    }

    /// The array with the elements at the index replaced by `update` of them and `value`.
    pub(super) fn update(&self, array: &Array, value: &Array, update: Update) -> Result<Array> {
        let value = squeeze(&self.fitted(value, array.dtype())?, &self.added)?;
        if value.size() == 0 {
            return Ok(array.clone());
        }
        let (start, stop, step) = (&self.start[..], &self.stop[..], &self.step[..]);
        let Some(at) = self.places_at else {
            let value = expand(&value, &self.dropped(0))?;
            return match update {
                Update::Set => ops::slice_update(array, &value, start, stop, step),
                Update::Add => ops::slice_update_add(array, &value, start, stop, step),
                Update::Multiply => ops::slice_update_prod(array, &value, start, stop, step),
                Update::Maximum => ops::slice_update_max(array, &value, start, stop, step),
                Update::Minimum => ops::slice_update_min(array, &value, start, stop, step),
            };
        };
        let (places, axes) = self.places();
        let count = self.places_ndim();
        let mut order: Vec<i32> = (0..value.ndim() as i32).collect();
        order.rotate_left(at);
        order[count..].rotate_right(at);
        let value = expand(&ops::transpose_axes(&value, &order)?, &self.dropped(count))?;
        let part = self.slice(array)?;
        let part = match update {
            Update::Set => ops::scatter(&part, &places, &value, &axes),
            Update::Add => ops::scatter_add(&part, &places, &value, &axes),
            Update::Multiply => ops::scatter_prod(&part, &places, &value, &axes),
            Update::Maximum => ops::scatter_max(&part, &places, &value, &axes),
            Update::Minimum => ops::scatter_min(&part, &places, &value, &axes),
        }?;
        if self.is_whole(array.shape()) {
            return Ok(part);
        }
        ops::slice_update(array, &part, start, stop, step)
    }

    /// A value in the shape of what it replaces; it may have more dimensions of length 1 in front.
    fn fitted(&self, value: &Array, dtype: Dtype) -> Result<Array> {
        let shape = self.shape()?;
        let extra = value.ndim().saturating_sub(shape.len());
        let ones: Vec<i32> = (0..extra as i32).collect();
        let value = squeeze(&ops::astype(value, dtype)?, &ones)?;
        ops::broadcast_to(&value, &shape)
    }

    /// The shape that [`Plan::get`] gives.
    fn shape(&self) -> Result<Vec<i32>> {
        let (places, _) = self.places();
        let mut common: Vec<i32> = vec![1; self.places_ndim()];
        for array in places {
            for (length, &other) in common.iter_mut().rev().zip(array.shape().iter().rev()) {
                if *length == 1 {
                    *length = other;
                } else if other != 1 && other != *length {
                    return Err(Error::invalid_argument(
                        self.op,
                        "the shapes of the arrays of indices do not broadcast",
                    ));
                }
            }
        }
        let mut shape: Vec<i32> = self
            .axes
            .iter()
            .zip(&self.part)
            .filter(|(axis, _)| matches!(axis, Axis::Part))
            .map(|(_, &length)| length)
            .collect();
        if let Some(at) = self.places_at {
            shape.splice(at..at, common);
        }
        for &axis in &self.added {
            shape.insert(axis as usize, 1);
        }
        Ok(shape)
    }
}

/// What becomes of an element and the value for it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Update {
    /// The value.
    Set,
    /// Their sum.
    Add,
    /// Their product.
    Multiply,
    /// The larger.
    Maximum,
    /// The smaller.
    Minimum,
}

fn expand(array: &Array, axes: &[i32]) -> Result<Array> {
    if axes.is_empty() { Ok(array.clone()) } else { ops::expand_dims_axes(array, axes) }
}

fn squeeze(array: &Array, axes: &[i32]) -> Result<Array> {
    if axes.is_empty() { Ok(array.clone()) } else { ops::squeeze_axes(array, axes) }
}
