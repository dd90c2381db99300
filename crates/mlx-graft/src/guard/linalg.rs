//! Matrices for LAPACK, of which the reference implementation ends the process for some arguments.

use std::borrow::Cow;

use crate::{Array, Result, ops};

/// The result of an LU factorization: MLX does not survive a matrix without elements, whose
/// pivots leave the rows as they are.
pub(crate) fn lu(out: Vec<Array>, a: &Array) -> Result<Vec<Array>> {
    if a.size() > 0 {
        return Ok(out);
    }
    out.iter()
        .map(|part| match part.shape() {
            [.., rows] if part.size() > 0 => {
                let rows = ops::arange(0.0, f64::from(*rows), 1.0, part.dtype())?;
                ops::broadcast_to(&rows, part.shape())
            }
            shape => ops::zeros(shape, part.dtype()),
        })
        .collect()
}

/// The array with NaN for infinity: with NaN a singular value decomposition fails with an error, with
/// infinity it may end the process.
pub(crate) fn nan_for_infinity(a: &Array) -> Result<Array> {
    let nan = ops::astype(&Array::scalar(f32::NAN)?, a.dtype())?;
    ops::where_(&ops::isfinite(a)?, a, &nan)
}

/// What a norm is computed of: those of matrices that are singular values begin with a decomposition.
pub(crate) fn norm<'a>(a: &'a Array, ord: f64, axis: Option<&[i32]>) -> Result<Cow<'a, Array>> {
    if [2.0, -2.0].contains(&ord) && axis.map_or(a.ndim(), <[i32]>::len) == 2 {
        nan_for_infinity(a).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(a))
    }
}

/// [`norm`] by name.
pub(crate) fn named_norm<'a>(a: &'a Array, ord: &str) -> Result<Cow<'a, Array>> {
    if ord == "nuc" { nan_for_infinity(a).map(Cow::Owned) } else { Ok(Cow::Borrowed(a)) }
}

/// Which matrices are finite, with 1 for both dimensions, and these with zeros for the others: the
/// eigenvalues of others end the process.
pub(crate) fn finite(a: &Array) -> Result<(Array, Array)> {
    if a.ndim() < 2 {
        // MLX says so in its own words.
        return Ok((Array::scalar(true)?, a.clone()));
    }
    let finite = ops::all_axes(&ops::isfinite(a)?, &[-2, -1], true)?;
    let zero = ops::astype(&Array::scalar(0)?, a.dtype())?;
    let safe = ops::where_(&finite, a, &zero)?;
    Ok((finite, safe))
}

/// The result for finite matrices, NaN for the others; `finite` has the dimensions of `out`, or two
/// in the place of its last one.
pub(crate) fn nan_unless(finite: &Array, out: &Array) -> Result<Array> {
    let finite =
        if finite.ndim() > out.ndim() { ops::squeeze_axis(finite, -1)? } else { finite.clone() };
    let nan = ops::astype(&Array::scalar(f32::NAN)?, out.dtype())?;
    ops::where_(&finite, out, &nan)
}

/// [`nan_unless`] of eigenvalues and eigenvectors.
pub(crate) fn nan_unless_pair(
    finite: &Array,
    (values, vectors): &(Array, Array),
) -> Result<(Array, Array)> {
    Ok((nan_unless(finite, values)?, nan_unless(finite, vectors)?))
}
