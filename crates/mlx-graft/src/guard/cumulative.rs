//! Running extremes. MLX looks for the element that each comes from where the two are equal, which
//! a NaN never is, and adds the gradient to an index that is none.

use super::empty;
use crate::{Array, DtypeCategory, Result, index, ops};

/// `ops::cummax_axis` or `ops::cummin_axis`.
type Scan = fn(&Array, i32, bool, bool) -> Result<Array>;

/// The result of a running extreme of the flat array.
#[inline]
pub(crate) fn extreme_flat(
    out: Array,
    scan: Scan,
    a: &Array,
    reverse: bool,
    inclusive: bool,
) -> Result<Array> {
    if has_gradient(a) {
        extreme(out, scan, &ops::flatten(a, 0, -1)?, 0, reverse, inclusive)
    } else {
        empty(out)
    }
}

/// The result of a running extreme: `out`, as elements of `a` where it may get a gradient.
///
/// Gradients are those of MLX: of equal elements, the last in the direction of the scan has it all.
/// What comes from a NaN has none.
#[inline]
pub(crate) fn extreme(
    out: Array,
    scan: Scan,
    a: &Array,
    axis: i32,
    reverse: bool,
    inclusive: bool,
) -> Result<Array> {
    if has_gradient(a) && out.size() > 0 {
        elements(&out, scan, a, axis, reverse, inclusive)
    } else {
        empty(out)
    }
}

fn has_gradient(a: &Array) -> bool {
    a.is_tracer() && a.dtype().category().is_in(DtypeCategory::Inexact)
}

fn elements(
    out: &Array,
    scan: Scan,
    a: &Array,
    axis: i32,
    reverse: bool,
    inclusive: bool,
) -> Result<Array> {
    let (out, still) = (ops::stop_gradient(out)?, ops::stop_gradient(a)?);
    let reached = if inclusive { out.clone() } else { scan(&still, axis, reverse, true)? };
    let own = ops::equal(&still, &reached)?;
    // Places from 1 on, counted because a trace without shapes holds for other lengths too.
    let all = ops::equal(&own, &own)?;
    let places = ops::cumsum_axis(&all, axis, &ops::CumulativeOptions::default())?;
    let (one, none) = (Array::scalar(1)?, Array::scalar(if reverse { i32::MAX } else { 0 })?);
    let own = ops::where_(&own, &places, &none)?;
    let (owner, within) = if reverse {
        let owner = ops::cummin_axis(&own, axis, true, inclusive)?;
        let within = ops::minimum(&owner, &ops::max_axis(&places, axis, true)?)?;
        (owner, within)
    } else {
        let owner = ops::cummax_axis(&own, axis, false, inclusive)?;
        let within = ops::maximum(&owner, &one)?;
        (owner, within)
    };
    let place = ops::subtract(&within, &one)?;
    let taken = index::in_range(|| ops::take_along_axis(&still, &place, axis))?;
    let mut same = ops::equal(&taken, &out)?;
    if !inclusive {
        // The start may be equal to an element by chance: both are infinite.
        same = ops::logical_and(&same, &ops::equal(&owner, &within)?)?;
    }
    // What is no element stands behind the elements: a choice between the two would multiply its
    // cotangent, which may be infinite as the start is, by zero.
    let length = ops::max_axis(&places, axis, true)?;
    let behind = ops::subtract(&ops::add(&places, &length)?, &one)?;
    let place = ops::stop_gradient(&ops::where_(&same, &place, &behind)?)?;
    let all = ops::concatenate_axis(&[a, &out], axis)?;
    index::in_range(|| ops::take_along_axis(&all, &place, axis))
}
