//! Division of integers by zero, and of the smallest by -1, which processors refuse.

use mlx_graft::{Array, Dtype, Element, Result, ops, transforms};

/// Ways to have a divisor: computed, not computed yet, of a batch, and in a compiled function, which
/// takes a compiler a while, so for one dtype only.
fn all_ways(
    f: impl Fn(&Array, &Array) -> Result<Array> + Copy + 'static,
    a: &Array,
    b: &Array,
) -> Result<Vec<Array>> {
    let lazy = ops::add(b, &ops::zeros_like(b)?)?;
    let mapped = transforms::vmap(
        move |x| Ok(vec![f(&x[0], &x[1])?]),
        &[a.clone(), b.clone()],
        &[Some(0), Some(0)],
        &[Some(0)],
    )?;
    let mut found = vec![f(a, b)?, f(a, &lazy)?, mapped[0].clone()];
    if a.dtype() == Dtype::Int32 {
        let compiled = transforms::compile(move |x| Ok(vec![f(&x[0], &x[1])?]), false)?;
        found.extend(compiled.call(&[a, b])?);
    }
    Ok(found)
}

fn check<T: Element + PartialEq + std::fmt::Debug>(
    a: &[T],
    b: &[T],
    quotients: &[T],
    remainders: &[T],
) -> Result<()> {
    let length = [a.len() as i32];
    let (a, b) = (Array::from_slice(a, &length)?, Array::from_slice(b, &length)?);
    for found in all_ways(ops::floor_divide, &a, &b)? {
        assert_eq!(found.to_vec::<T>()?, quotients);
    }
    for found in all_ways(ops::remainder, &a, &b)? {
        assert_eq!(found.to_vec::<T>()?, remainders);
    }
    for found in all_ways(|a, b| Ok(ops::divmod(a, b)?[0].clone()), &a, &b)? {
        assert_eq!(found.to_vec::<T>()?, quotients);
    }
    for found in all_ways(|a, b| Ok(ops::divmod(a, b)?[1].clone()), &a, &b)? {
        assert_eq!(found.to_vec::<T>()?, remainders);
    }
    Ok(())
}

#[test]
fn by_zero_and_the_smallest_by_minus_one() -> Result<()> {
    macro_rules! signed {
        ($($ty:ty)*) => {$(
            check::<$ty>(
                &[7, 0, -7, <$ty>::MIN, <$ty>::MIN, 5, <$ty>::MAX, 6, <$ty>::MIN],
                &[0, 0, 0, -1, 0, -1, 1, 4, <$ty>::MIN],
                &[0, 0, 0, <$ty>::MIN, 0, -5, <$ty>::MAX, 1, 1],
                &[0, 0, 0, 0, 0, 0, 0, 2, 0],
            )?;
        )*};
    }
    macro_rules! unsigned {
        ($($ty:ty)*) => {$(
            check::<$ty>(
                &[7, 0, <$ty>::MAX, <$ty>::MAX, 6],
                &[0, 0, 0, 1, 4],
                &[0, 0, 0, <$ty>::MAX, 1],
                &[0, 0, 0, 0, 2],
            )?;
        )*};
    }
    signed!(i8 i16 i32 i64);
    unsigned!(u8 u16 u32 u64);
    Ok(())
}

#[test]
fn operands_of_different_dtypes() -> Result<()> {
    let dtypes = [Dtype::Bool, Dtype::Int8, Dtype::Uint8, Dtype::Int32, Dtype::Uint32];
    let a = Array::from_slice(&[1, 1], &[2])?;
    let b = Array::from_slice(&[0, 1], &[2])?;
    for left in dtypes {
        for right in dtypes {
            if (left, right) == (Dtype::Bool, Dtype::Bool) {
                continue;
            }
            let (a, b) = (ops::astype(&a, left)?, ops::astype(&b, right)?);
            let (quotient, remainder) = (ops::floor_divide(&a, &b)?, ops::remainder(&a, &b)?);
            assert_eq!(quotient.dtype(), left.promote(right));
            assert_eq!(remainder.dtype(), left.promote(right));
            assert_eq!(ops::astype(&quotient, Dtype::Int32)?.to_vec::<i32>()?, [0, 1]);
            assert_eq!(ops::astype(&remainder, Dtype::Int32)?.to_vec::<i32>()?, [0, 0]);
        }
    }
    Ok(())
}

/// A divisor with what MLX gives for -7, 7 and 8.
const QUOTIENTS: [(i32, [i32; 3], [i32; 3]); 3] =
    [(3, [-2, 2, 2], [2, 1, 2]), (-3, [2, -2, -2], [-1, -2, -1]), (-1, [7, -7, -8], [0, 0, 0])];

/// A number as the divisor, and numbers with a fraction, divide as in MLX.
#[test]
fn what_is_safe_already() -> Result<()> {
    let a = Array::from_slice(&[-7, 7, 8], &[3])?;
    for (divisor, quotients, remainders) in QUOTIENTS {
        let divisor = Array::scalar(divisor)?;
        assert_eq!(ops::floor_divide(&a, &divisor)?.to_vec::<i32>()?, quotients);
        assert_eq!(ops::remainder(&a, &divisor)?.to_vec::<i32>()?, remainders);
    }
    let zero = Array::scalar(0.0_f32)?;
    let found = ops::floor_divide(&Array::scalar(1.0_f32)?, &zero)?.item::<f32>()?;
    assert!(found.is_infinite());
    assert!(ops::remainder(&Array::scalar(1.0_f32)?, &zero)?.item::<f32>()?.is_nan());
    assert!(ops::remainder(&a, &Array::from_slice(&[1, 2], &[2])?).is_err());
    Ok(())
}

/// In a batch, MLX itself reads the axis of the remainder from beyond what it has.
#[test]
fn quotient_and_remainder_in_traces() -> Result<()> {
    let ints = [&[-7, 7, 8, -8, i32::MIN, 0][..], &[3, -3, 3, -4, 3, 5]];
    let floats = [&[-7.5_f32, 7.5, -0.0, 8.0, -1e30, 0.3][..], &[2.0, -2.0, 3.0, -2.0, 3.0, 0.1]];
    let ints = ints.map(|x| Array::from_slice(x, &[6])).into_iter().collect::<Result<Vec<_>>>()?;
    let floats = floats.map(|x| Array::from_slice(x, &[6]));
    let floats = floats.into_iter().collect::<Result<Vec<_>>>()?;
    let f = |x: &[Array]| ops::divmod(&x[0], &x[1]);
    for inputs in [ints, floats] {
        let wanted = f(&inputs)?;
        let mapped = transforms::vmap(f, &inputs, &[Some(0); 2], &[Some(0); 2])?;
        let compiled = transforms::compile(f, false)?.call(&inputs)?;
        for (wanted, found) in wanted.iter().zip(&mapped).chain(wanted.iter().zip(&compiled)) {
            assert_eq!(found.dtype(), wanted.dtype());
            assert_eq!(found.to_bytes()?, wanted.to_bytes()?);
        }
    }
    // Neither result has a derivative, as outside of a trace.
    let [x, y] = [7.5_f32, 2.0].map(Array::scalar);
    let inputs = [x?, y?];
    let (_, tangents) = transforms::jvp(f, &inputs, &inputs)?;
    let (_, gradients) = transforms::vjp(f, &inputs, &f(&inputs)?)?;
    for derivative in tangents.iter().chain(&gradients) {
        assert_eq!(derivative.item::<f32>()?.to_bits(), 0);
    }
    let flags = Array::from_slice(&[true, false], &[2])?;
    let f = |x: &[Array]| ops::divmod(&x[0], &x[0]);
    let refused = transforms::vmap(f, &[flags], &[Some(0)], &[Some(0); 2]);
    assert_eq!(refused.unwrap_err().kind(), mlx_graft::ErrorKind::InvalidArgument);
    Ok(())
}
