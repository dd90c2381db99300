//! Integer division, which a processor refuses to do by zero, and for the smallest number by -1.

use std::borrow::Cow;

use crate::{Array, Dtype, DtypeCategory, Error, Result, ops};

/// Dividend and divisor with the same quotient and remainder, and the divisor not zero; for a
/// divisor of zero, both are 0, as in `NumPy`.
///
/// Where the divisor is -1, 0 or 1, the quotient is their product and the remainder 0. So these
/// divide that product by 1. A single divisor that is known to be another, as most are, changes
/// nothing, and neither do floating-point numbers.
pub(crate) fn divisible<'a>(
    a: &'a Array,
    b: &'a Array,
) -> Result<(Cow<'a, Array>, Cow<'a, Array>)> {
    let integers = a.dtype().promote(b.dtype()).category().is_in(DtypeCategory::Integer);
    if !integers || known(b)?.is_some_and(|divisor| !matches!(divisor, -1 | 0)) {
        return Ok((Cow::Borrowed(a), Cow::Borrowed(b)));
    }
    let number = |value: i32| ops::astype(&Array::scalar(value)?, b.dtype());
    let one = number(1)?;
    let simple = if b.dtype().category() == DtypeCategory::Signedinteger {
        ops::equal(b, &ops::clip(b, Some(&number(-1)?), Some(&one))?)?
    } else {
        ops::less_equal(b, &one)?
    };
    let factor = ops::where_(&simple, b, &one)?;
    let divisor = ops::where_(&simple, &one, b)?;
    Ok((Cow::Owned(ops::multiply(a, &factor)?), Cow::Owned(divisor)))
}

/// The result of `divmod`; in a trace, from operations of their own. MLX's rule for a batch has one
/// axis for both results, and reads that of the remainder from whatever lies behind it. As there,
/// neither has a derivative.
pub(crate) fn divmod(out: Vec<Array>, a: &Array, b: &Array) -> Result<Vec<Array>> {
    if !a.is_tracer() && !b.is_tracer() {
        return Ok(out);
    }
    let dtype = a.dtype().promote(b.dtype());
    let (a, b) = (&ops::stop_gradient(a)?, &ops::stop_gradient(b)?);
    let (quotient, remainder) = match dtype.category() {
        DtypeCategory::Floating => (ops::floor_divide(a, b)?, ops::remainder(a, b)?),
        DtypeCategory::Signedinteger | DtypeCategory::Unsignedinteger => {
            let (quotient, remainder) = (ops::floor_divide(a, b)?, ops::remainder(a, b)?);
            // That of integers is rounded towards zero.
            let zero = Array::scalar(0)?;
            let is_negative = ops::not_equal(&ops::less(a, &zero)?, &ops::less(b, &zero)?)?;
            let is_above = ops::logical_and(&ops::not_equal(&remainder, &zero)?, &is_negative)?;
            (ops::subtract(&quotient, &ops::astype(&is_above, dtype)?)?, remainder)
        }
        _ => {
            return Err(Error::invalid_argument(
                "divmod",
                format!("operands of {dtype} in a trace: convert one of them to a number first"),
            ));
        }
    };
    Ok(vec![quotient, remainder])
}

/// The value of a single integer that is computed.
fn known(b: &Array) -> Result<Option<i64>> {
    if b.size() != 1 || b.is_tracer() || !b.is_available() {
        return Ok(None);
    }
    let value: i64 = match b.dtype() {
        Dtype::Int8 => b.item::<i8>()?.into(),
        Dtype::Int16 => b.item::<i16>()?.into(),
        Dtype::Int32 => b.item::<i32>()?.into(),
        Dtype::Int64 => b.item::<i64>()?,
        Dtype::Uint8 => b.item::<u8>()?.into(),
        Dtype::Uint16 => b.item::<u16>()?.into(),
        Dtype::Uint32 => b.item::<u32>()?.into(),
        // Only whether it is zero matters.
        Dtype::Uint64 => i64::try_from(b.item::<u64>()?).unwrap_or(i64::MAX),
        _ => return Ok(None),
    };
    Ok(Some(value))
}
