//! Where a Fourier transform is scaled.

use std::str::FromStr;

use crate::{Error, sys};

/// Which transforms are divided by the number of elements, named as in `NumPy`.
///
/// ```
/// # use mlx_graft::{Array, fft};
/// let a = Array::from_slice(&[1.0_f32, 1.0, 1.0, 1.0], &[4])?;
/// let half = fft::rfft(&a, 4, 0, fft::Norm::Ortho)?;
/// assert_eq!(mlx_graft::ops::real(&half)?.to_vec::<f32>()?, [2.0, 0.0, 0.0]);
/// assert_eq!("ortho".parse::<fft::Norm>()?, fft::Norm::Ortho);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Norm {
    /// The inverse ones.
    #[default]
    Backward,
    /// Both kinds, by the square root.
    Ortho,
    /// The forward ones.
    Forward,
}

impl Norm {
    pub(crate) fn as_raw(self) -> sys::mlx_fft_norm {
        match self {
            Self::Backward => sys::MLX_FFT_NORM_BACKWARD,
            Self::Ortho => sys::MLX_FFT_NORM_ORTHO,
            Self::Forward => sys::MLX_FFT_NORM_FORWARD,
        }
    }
}

/// From `backward`, `ortho` or `forward`.
impl FromStr for Norm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "backward" => Ok(Self::Backward),
            "ortho" => Ok(Self::Ortho),
            "forward" => Ok(Self::Forward),
            _ => Err(Error::invalid_argument(
                "fft",
                format!("the norm is `backward`, `ortho` or `forward`, not {name:?}"),
            )),
        }
    }
}
