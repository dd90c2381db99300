//! The limits of numbers of a dtype.

use crate::{Dtype, DtypeCategory, Error, Result};

/// The limits of a floating-point dtype; those of the parts for a complex one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FloatLimits {
    /// The bits of a number.
    pub bits: u32,
    /// The smallest number.
    pub min: f64,
    /// The largest number.
    pub max: f64,
    /// The distance from 1 to the next larger number.
    pub eps: f64,
    /// The smallest positive number of full precision.
    pub smallest_normal: f64,
    /// The dtype of the numbers: float32 for complex64.
    pub dtype: Dtype,
}

impl FloatLimits {
    /// The limits of a dtype.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if it is no floating-point one.
    ///
    /// ```
    /// # use mlx_graft::{Dtype, FloatLimits};
    /// assert_eq!(FloatLimits::of(Dtype::Float16)?.max, 65504.0);
    /// assert!(FloatLimits::of(Dtype::Int8).is_err());
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn of(dtype: Dtype) -> Result<Self> {
        // The digits of the significand and the largest exponent, of numbers `0.1… * 2^exponent`.
        let (dtype, digits, exponent) = match dtype {
            Dtype::Float16 => (dtype, 11, 16),
            Dtype::Bfloat16 => (dtype, 8, 128),
            Dtype::Float32 | Dtype::Complex64 => (Dtype::Float32, 24, 128),
            Dtype::Float64 => (dtype, 53, 1024),
            _ => {
                return Err(Error::invalid_argument(
                    "finfo",
                    format!("{dtype} is no floating-point dtype"),
                ));
            }
        };
        let eps = f64::exp2(f64::from(1 - digits));
        // One step below the power of two, which for float64 is not a number itself.
        let max = (2.0 - eps) * f64::exp2(f64::from(exponent - 1));
        Ok(Self {
            bits: 8 * dtype.size() as u32,
            min: -max,
            max,
            eps,
            smallest_normal: f64::exp2(f64::from(2 - exponent)),
            dtype,
        })
    }
}

/// The limits of an integer dtype.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntLimits {
    /// The smallest number.
    pub min: i64,
    /// The largest number.
    pub max: u64,
    /// The dtype of the numbers.
    pub dtype: Dtype,
}

impl IntLimits {
    /// The limits of a dtype.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if it is no integer one.
    ///
    /// ```
    /// # use mlx_graft::{Dtype, IntLimits};
    /// let limits = IntLimits::of(Dtype::Int8)?;
    /// assert_eq!((limits.min, limits.max), (-128, 127));
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn of(dtype: Dtype) -> Result<Self> {
        let bits = 8 * dtype.size();
        match dtype.category() {
            DtypeCategory::Signedinteger => {
                Ok(Self { min: i64::MIN >> (64 - bits), max: u64::MAX >> (65 - bits), dtype })
            }
            DtypeCategory::Unsignedinteger => {
                Ok(Self { min: 0, max: u64::MAX >> (64 - bits), dtype })
            }
            _ => Err(Error::invalid_argument("iinfo", format!("{dtype} is no integer dtype"))),
        }
    }
}
