//! What MLX takes for granted of its arguments, and what would end the process or reach into
//! foreign memory where it does not hold.
//!
//! MLX checks most arguments itself, and those errors stay its own. The functions here are called
//! for the rest, by rows of `ops.toml`: `check` before the call, `then` with its result. Where an
//! operation on no elements has a right answer, it is given; otherwise there is an error. They look
//! at shapes and options and cost a few comparisons.

mod cumulative;
mod division;
mod linalg;
mod pad;
mod quantized;

use std::sync::OnceLock;

pub(crate) use cumulative::{extreme, extreme_flat};
pub(crate) use division::{divisible, divmod};
pub(crate) use linalg::{
    finite, lu, named_norm, nan_for_infinity, nan_unless, nan_unless_pair, norm,
};
pub(crate) use pad::{everywhere, pad_value, pad_with, padding};
pub(crate) use quantized::{packing, picked, product, scales};

use crate::{Array, Dtype, Error, ErrorKind, Result, ops};

/// The bytes that a process can address on the machines that MLX runs on.
const ADDRESSABLE: u64 = 1 << 47;

/// The names of operations whose result may lie where their input does.
const VIEWS: [&str; 15] = [
    "as_strided",
    "broadcast_arrays",
    "broadcast_to",
    "diagonal",
    "expand_dims",
    "moveaxis",
    "slice",
    "split",
    "split_sections",
    "squeeze",
    "stop_gradient",
    "swapaxes",
    "transpose",
    "unstack",
    "view",
];

/// The result of an operation, if there can be such an array: MLX accepts lengths below zero and
/// sizes that overflow, and then reads and writes beyond what it allocated. Where the system gives
/// no memory, it writes to address zero.
#[inline]
pub(crate) fn possible(op: &'static str, out: Array) -> Result<Array> {
    let bytes = possible_lengths(op, out.shape(), out.dtype(), out.itemsize())?;
    if bytes > obtainable() && !VIEWS.contains(&op) {
        return Err(impossible(op, out.shape(), out.dtype()));
    }
    Ok(out)
}

/// The most bytes that an array can have: where the system refuses a request for more than memory
/// and swap together, as Linux does by default, their sum.
fn obtainable() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        if read("/proc/sys/vm/overcommit_memory").trim() == "1" {
            return ADDRESSABLE;
        }
        let memory = read("/proc/meminfo");
        let kilobytes = |name: &str| -> Option<u64> {
            let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_end_matches("kB").trim().parse().ok()
        };
        kilobytes("MemTotal:").map_or(ADDRESSABLE, |total| {
            total.saturating_add(kilobytes("SwapTotal:").unwrap_or(0)).saturating_mul(1024)
        })
    })
}

/// The bytes of an array that is yet to be made, if they can be addressed.
#[inline]
pub(crate) fn possible_lengths(
    op: &'static str,
    shape: &[i32],
    dtype: Dtype,
    itemsize: usize,
) -> Result<u64> {
    let mut bytes = itemsize as u64;
    let mut negative = false;
    for &length in shape {
        negative |= length < 0;
        bytes = bytes.saturating_mul(u64::from(length.unsigned_abs()));
    }
    if negative || bytes > ADDRESSABLE { Err(impossible(op, shape, dtype)) } else { Ok(bytes) }
}

#[cold]
fn impossible(op: &'static str, shape: &[i32], dtype: Dtype) -> Error {
    if shape.iter().any(|&length| length < 0) {
        let message = format!("the result would have shape {shape:?}: give no length below zero");
        return Error::invalid_argument(op, message);
    }
    Error::Mlx {
        kind: ErrorKind::OutOfMemory,
        op,
        message: format!(
            "the result would have shape {shape:?} of {dtype}, which is more than memory can hold: \
             compute it in parts"
        ),
    }
}

/// The result of an operation that MLX does not survive without elements; there is nothing to
/// compute then. The call was made all the same: it checked the arguments, and knows the dtype.
#[inline]
pub(crate) fn empty(out: Array) -> Result<Array> {
    if out.size() == 0 { ops::zeros(out.shape(), out.dtype()) } else { Ok(out) }
}

/// [`empty`] of two results.
pub(crate) fn empty_pair((first, second): (Array, Array)) -> Result<(Array, Array)> {
    Ok((empty(first)?, empty(second)?))
}

/// The lengths into which an axis is split: MLX divides by their product to deduce one.
pub(crate) fn lengths(op: &'static str, shape: &[i32]) -> Result<()> {
    if shape.iter().any(|&length| length < -1) {
        return Err(Error::invalid_argument(
            op,
            format!("a shape of {shape:?}: a length is at least zero, or -1 to be deduced"),
        ));
    }
    if shape.contains(&-1) && shape.contains(&0) {
        return Err(Error::invalid_argument(
            op,
            format!("a shape of {shape:?}: no length can be deduced beside 0, so give it instead"),
        ));
    }
    Ok(())
}

/// The weight of a convolution, `(C_out, …, C_in)`: MLX divides by the groups and the channels, and
/// ends the process for a window without elements.
pub(crate) fn convolution(op: &'static str, weight: &Array, groups: i32) -> Result<()> {
    if groups < 1 {
        let message = format!("{groups} groups: there must be at least one");
        return Err(Error::invalid_argument(op, message));
    }
    if weight.shape().iter().skip(1).any(|&length| length == 0) {
        return Err(Error::invalid_argument(
            op,
            format!(
                "a weight of shape {:?}: its window and its input channels must not be empty",
                weight.shape()
            ),
        ));
    }
    Ok(())
}

/// Lists with a number for each dimension of a window, or one for all: of others, MLX compares the
/// lengths only after it has read as many numbers as there are dimensions.
pub(crate) fn per_dimension(
    op: &'static str,
    input: &Array,
    lists: &[(&str, &[i32])],
) -> Result<()> {
    let dimensions = input.ndim().saturating_sub(2);
    if !(1..=3).contains(&dimensions) {
        // MLX says so in its own words.
        return Ok(());
    }
    match lists.iter().find(|(_, list)| list.len() > 1 && list.len() != dimensions) {
        Some((name, list)) => Err(Error::invalid_argument(
            op,
            format!(
                "{name} of {list:?} for {dimensions} dimensions: give one number for all, or one \
                 for each"
            ),
        )),
        None => Ok(()),
    }
}

/// The length of a Walsh-Hadamard transform: MLX takes any multiple of 12, 20 or 28 for one times a
/// power of two, and then writes behind the array.
pub(crate) fn hadamard(op: &'static str, a: &Array) -> Result<()> {
    let Some(&length) = a.shape().last().filter(|_| a.size() > 0) else {
        // One element, or none, of which MLX says so in its own words.
        return Ok(());
    };
    let twos = length.trailing_zeros();
    let power = match length >> twos {
        1 => Some(twos),
        3 | 5 | 7 => twos.checked_sub(2),
        _ => None,
    };
    if power.is_some_and(|power| power <= 26) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        op,
        format!(
            "a last dimension of {length}: it must be m * 2^k with m of 1, 12, 20 or 28 and k up to \
             26, so pad it"
        ),
    ))
}

/// The place of an axis, which counts from the end if it is negative.
pub(crate) fn axis(op: &'static str, a: &Array, axis: i32) -> Result<usize> {
    let ndim = a.ndim() as i32;
    if (-ndim..ndim).contains(&axis) {
        return Ok(axis.rem_euclid(ndim) as usize);
    }
    let allowed = match ndim {
        0 => "there is none".to_string(),
        _ => format!("give one from {} to {}", -ndim, ndim - 1),
    };
    let message = format!("axis {axis} of an array of {ndim} dimensions: {allowed}");
    Err(Error::invalid_argument(op, message))
}

/// Axes: MLX divides by the number of dimensions.
pub(crate) fn axes(op: &'static str, a: &Array, axes: &[i32]) -> Result<()> {
    axes.iter().try_for_each(|&number| axis(op, a, number).map(drop))
}

/// The heads of keys: MLX divides by their number.
pub(crate) fn heads(op: &'static str, keys: &Array) -> Result<()> {
    match keys.shape() {
        [_, 0, _, _] => Err(Error::invalid_argument(
            op,
            format!("keys of shape {:?}: there must be at least one head", keys.shape()),
        )),
        _ => Ok(()),
    }
}
