//! Vectorisation over an axis.
#![allow(unsafe_code)]

use crate::{Array, Closure, Error, Result, VectorArray, call, sys};

/// Calls `f`, written for single items, on whole batches at once.
///
/// `in_axes` has one entry per input: the axis that numbers the items, or `None` for an input that
/// all items share. `out_axes` has one entry per output.
///
/// # Errors
/// The function's own error, or what MLX reports, for example for an operation without a
/// vectorised form.
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])?;
/// let f = |x: &[Array]| Ok(vec![ops::sum(&x[0], false)?]);
/// let y = transforms::vmap(f, &[x], &[Some(0)], &[Some(0)])?;
/// assert_eq!(y[0].to_vec::<f32>()?, [3.0, 7.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn vmap<F, A>(
    f: F,
    inputs: &[A],
    in_axes: &[Option<i32>],
    out_axes: &[Option<i32>],
) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    vmap_with(f, inputs, in_axes, |_| Ok(out_axes.to_vec()))
}

/// As [`vmap`], with output axes that `out_axes` chooses when it sees the outputs for a single item.
///
/// # Errors
/// As [`vmap`], or the error of `out_axes`.
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])?;
/// let f = |x: &[Array]| Ok(vec![ops::square(&x[0])?]);
/// // The items are numbered by the last axis of each output.
/// let last = |outputs: &[Array]| Ok(outputs.iter().map(|y| Some(y.ndim() as i32)).collect());
/// let y = transforms::vmap_with(f, &[x], &[Some(0)], last)?;
/// assert_eq!(y[0].to_vec::<f32>()?, [1.0, 9.0, 4.0, 16.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn vmap_with<F, A, O>(
    f: F,
    inputs: &[A],
    in_axes: &[Option<i32>],
    out_axes: O,
) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
    O: FnOnce(&[Array]) -> Result<Vec<Option<i32>>>,
{
    const OP: &str = "vmap";
    if inputs.len() != in_axes.len() {
        return Err(Error::invalid_argument(
            OP,
            format!("{} inputs and {} input axes", inputs.len(), in_axes.len()),
        ));
    }
    // MLX writes -1 for "not vectorised", so that a negative axis must be counted from the front.
    let mut axes = Vec::with_capacity(in_axes.len());
    for (input, axis) in inputs.iter().zip(in_axes) {
        axes.push(match axis {
            None => -1,
            Some(axis) => {
                input.as_ref().dim(*axis)?;
                if *axis < 0 { axis + input.as_ref().ndim() as i32 } else { *axis }
            }
        });
    }
    let function = Closure::new(f);
    let inputs = VectorArray::from_arrays(inputs)?;
    let (mut traced_in, mut traced_out) = (VectorArray::new(), VectorArray::new());
    call::status(OP, || {
        // SAFETY: all handles are live; the axes are copied.
        unsafe {
            sys::mlx_detail_vmap_trace(
                traced_in.as_mut_raw(),
                traced_out.as_mut_raw(),
                function.as_raw(),
                inputs.as_raw(),
                axes.as_ptr(),
                axes.len(),
            )
        }
    })?;
    let outputs = traced_out.to_vec()?;
    let out_axes = out_axes(&outputs)?;
    if outputs.len() != out_axes.len() {
        return Err(Error::invalid_argument(
            OP,
            format!("{} outputs and {} output axes", outputs.len(), out_axes.len()),
        ));
    }
    // The result has one dimension more than the traced item.
    let ranks = outputs.iter().map(|output| output.ndim() as i32 + 1);
    let out_axes: Vec<i32> = ranks
        .zip(&out_axes)
        .map(|(rank, axis)| match *axis {
            None => Ok(-1),
            Some(axis) if (0..rank).contains(&axis) => Ok(axis),
            Some(axis) if (-rank..0).contains(&axis) => Ok(axis + rank),
            Some(axis) => {
                let message = format!("axis {axis} of an output with {rank} dimensions");
                Err(Error::invalid_argument(OP, message))
            }
        })
        .collect::<Result<_>>()?;
    let mut res = VectorArray::new();
    call::status(OP, || {
        // SAFETY: all handles are live; the axes are copied.
        unsafe {
            sys::mlx_detail_vmap_replace(
                res.as_mut_raw(),
                inputs.as_raw(),
                traced_in.as_raw(),
                traced_out.as_raw(),
                axes.as_ptr(),
                axes.len(),
                out_axes.as_ptr(),
                out_axes.len(),
            )
        }
    })?;
    res.to_vec()
}
