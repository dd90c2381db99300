//! Lengths, axes and norms of Fourier transforms as `mlx.core.fft` takes them.

use mlx_graft::Array;
use mlx_graft::fft::Norm;
use pyo3::PyResult;
use pyo3::exceptions::PyValueError;

use super::arguments::{Axes, Int, Ints, Shape};
use crate::error::to_py;

/// What a transform reads along its last axis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spectrum {
    /// As many elements as it writes.
    Full,
    /// The half that a real signal of `2 * (n - 1)` elements has.
    Half,
}

impl Spectrum {
    /// The length of the transform of a whole dimension.
    fn length(self, dim: i32) -> i32 {
        match self {
            Self::Full => dim,
            Self::Half => 2 * (dim - 1),
        }
    }
}

/// The length along an axis: all of it, if none is given.
pub(super) fn length(
    n: Option<Int<i32>>,
    a: &Array,
    axis: i32,
    spectrum: Spectrum,
) -> PyResult<i32> {
    match n {
        Some(Int(n)) => Ok(n),
        None => Ok(spectrum.length(a.dim(axis).map_err(to_py)?)),
    }
}

/// The lengths along the axes, and the axes: all of each, of all, if none are given.
pub(super) fn lengths(
    op: &str,
    s: Option<Shape>,
    axes: Option<Ints>,
    a: &Array,
    spectrum: Spectrum,
) -> PyResult<(Vec<i32>, Vec<i32>)> {
    let axes = match (&s, axes) {
        (_, Some(Ints(axes))) => axes,
        (None, None) => (0..a.ndim() as i32).collect(),
        (Some(_), None) => {
            return Err(PyValueError::new_err(format!("{op} with `s` needs `axes` too")));
        }
    };
    if let Some(Shape(lengths)) = s {
        return Ok((lengths.into_vec(), axes));
    }
    let dims: mlx_graft::Result<Vec<i32>> = axes.iter().map(|&axis| a.dim(axis)).collect();
    let mut lengths = dims.map_err(to_py)?;
    if let Some(last) = lengths.last_mut() {
        *last = spectrum.length(*last);
    }
    Ok((lengths, axes))
}

/// The axes, all if none are given.
pub(super) fn axes_or_all(axes: Option<Axes>, a: &Array) -> Vec<i32> {
    match axes {
        None => (0..a.ndim() as i32).collect(),
        Some(Axes::One(axis)) => vec![axis],
        Some(Axes::Many(axes)) => axes,
    }
}

/// The norm of that name.
pub(super) fn parse_norm(name: &str) -> PyResult<Norm> {
    name.parse().map_err(to_py)
}
