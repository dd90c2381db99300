//! The discrete convolution of two sequences.

use std::str::FromStr;

use super::{Conv1dOptions, conv1d, flip, pad, reshape};
use crate::{Array, Error, Result};

/// How much of a convolution is returned, named as in `NumPy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConvolveMode {
    /// Wherever the sequences overlap: the sum of both lengths, minus 1.
    #[default]
    Full,
    /// The middle part, of the length of the longer sequence.
    Same,
    /// Where the shorter sequence lies within the longer.
    Valid,
}

/// From `full`, `same` or `valid`.
impl FromStr for ConvolveMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "full" => Ok(Self::Full),
            "same" => Ok(Self::Same),
            "valid" => Ok(Self::Valid),
            _ => Err(Error::invalid_argument(
                "convolve",
                format!("the mode is `full`, `same` or `valid`, not {name:?}"),
            )),
        }
    }
}

/// The discrete convolution of two sequences, as `numpy.convolve` defines it.
///
/// Shape: one dimension, as long as the mode says.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if an array has not one dimension, or no
/// elements.
///
/// ```
/// # use mlx_graft::{Array, ops};
/// let a = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[3])?;
/// let v = Array::from_slice(&[0.0_f32, 1.0], &[2])?;
/// let out = ops::convolve(&a, &v, ops::ConvolveMode::Full)?;
/// assert_eq!(out.to_vec::<f32>()?, [0.0, 1.0, 2.0, 3.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn convolve(a: &Array, v: &Array, mode: ConvolveMode) -> Result<Array> {
    if a.ndim() != 1 || v.ndim() != 1 || a.size() == 0 || v.size() == 0 {
        return Err(Error::invalid_argument(
            "convolve",
            format!("needs two sequences, not arrays of {:?} and {:?}", a.shape(), v.shape()),
        ));
    }
    let (long, short) = if a.size() < v.size() { (v, a) } else { (a, v) };
    let len = short.size() as i32;
    let mut input = reshape(long, &[1, -1, 1])?;
    // `conv1d` does not flip its weights.
    let weight = reshape(&flip(short)?, &[1, -1, 1])?;
    let padding = match mode {
        ConvolveMode::Full => len - 1,
        ConvolveMode::Valid => 0,
        ConvolveMode::Same if len % 2 == 1 => len / 2,
        ConvolveMode::Same => {
            let zero = Array::scalar(0)?;
            input = pad(&input, &[1], &[len / 2], &[len / 2 - 1], &zero, "constant")?;
            0
        }
    };
    let options = Conv1dOptions::default().padding(padding);
    reshape(&conv1d(&input, &weight, &options)?, &[-1])
}
