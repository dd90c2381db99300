//! Arithmetic on slices in loops that the compiler turns into vector instructions.
//!
//! Everything here is called inside of what [`pulp::Arch::dispatch`] runs, and inlined into it: what
//! is not is not compiled for the wide registers. That holds for what is dispatched too, so it is a
//! type with an inlined `call`: a closure is inlined only if it is short.
#![allow(clippy::inline_always)]

/// Partial results of a reduction. They are many, and their number is not known to the compiler in
/// the loop: it would hold a few in scalar registers.
const LANES: usize = 256;

/// Elements whose exponentials are summed at once, on the stack.
const BLOCK: usize = 256;

/// Combines the elements with `op`, whose neutral element is `neutral`, in no particular order.
#[inline(always)]
fn reduce<const N: usize>(
    inputs: [&[f32]; N],
    neutral: f32,
    value: impl Fn([f32; N]) -> f32,
    op: impl Fn(f32, f32) -> f32,
) -> f32 {
    let length = inputs[0].len();
    let mut buffer = [neutral; LANES];
    let lanes = &mut buffer[..length.min(LANES)];
    for start in (0..length).step_by(LANES) {
        let lanes = &mut lanes[..(length - start).min(LANES)];
        let inputs = inputs.map(|input| &input[start..start + lanes.len()]);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = op(*lane, value(inputs.map(|input| input[i])));
        }
    }
    let mut rest = lanes;
    while rest.len() > 1 {
        let (first, second) = rest.split_at_mut(rest.len().div_ceil(2));
        for (a, &mut b) in first.iter_mut().zip(second) {
            *a = op(*a, b);
        }
        rest = first;
    }
    rest.first().copied().unwrap_or(neutral)
}

/// The sum of `x`.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    reduce([x], 0.0, |[x]| x, |a, b| a + b)
}

/// The sum of the products of neighbours; `y` is at least as long as `x`.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    reduce([x, y], 0.0, |[x, y]| x * y, |a, b| a + b)
}

/// The largest number of `x`, which is negative infinity where there is none.
#[inline(always)]
pub(crate) fn maximum(x: &[f32]) -> f32 {
    reduce([x], f32::NEG_INFINITY, |[x]| x, |a, b| if b > a { b } else { a })
}

/// The sum of `exp(x - shift)`.
#[inline(always)]
pub(crate) fn sum_exp(x: &[f32], shift: f32) -> f32 {
    let mut buffer = [0.0; BLOCK];
    let mut total = 0.0;
    for x in x.chunks(BLOCK) {
        let block = &mut buffer[..x.len()];
        for (y, &x) in block.iter_mut().zip(x) {
            *y = exp(x - shift);
        }
        total += sum(block);
    }
    total
}

/// `exp(x)` within two units of the last place; 0 where the result is below the normal numbers.
///
/// `x` is split into `n ln 2 + r`, and `exp(r)` is a polynomial of degree 7 on |r| ≤ ln 2 / 2.
/// Source of the coefficients: `expf` of the Cephes library (Moshier, 1992).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// exp(SMALLEST) is the smallest result, a bit above the smallest normal number.
    const SMALLEST: f32 = -87.33;
    /// exp(LARGEST) is infinite.
    const LARGEST: f32 = 88.8;
    /// Adding it rounds to a whole number, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first times `n` is exact.
    const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

    // Comparisons with NaN are false, so that it passes through.
    let bounded = if x < SMALLEST { SMALLEST } else { x };
    let bounded = if bounded > LARGEST { LARGEST } else { bounded };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * LN_2[0] - n * LN_2[1];
    let mut y = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        y = y * r + coefficient;
    }
    let y = y * r * r + r + 1.0;
    // 2ⁿ in two factors, as n may be 128.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned());
    let y = y * power(n >> 1) * power(n.wrapping_sub(n >> 1));
    if x < SMALLEST { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::{dot, exp, maximum, sum, sum_exp};

    #[test]
    fn exp_is_within_two_units() {
        for i in -87_300..=88_722 {
            let x = i as f32 / 1000.0;
            let wanted = f64::from(x).exp();
            let unit = f64::from((wanted as f32).next_up()) - f64::from(wanted as f32);
            let error = (f64::from(exp(x)) - wanted).abs() / unit;
            assert!(error < 2.0, "exp({x}) = {} is {error} units off", exp(x));
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // these are exact
    fn exp_at_its_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        for x in [f32::NEG_INFINITY, f32::MIN, -1000.0, -87.4] {
            assert_eq!(exp(x).to_bits(), 0, "{x}");
        }
        for x in [88.73, 1000.0, f32::MAX, f32::INFINITY] {
            assert_eq!(exp(x), f32::INFINITY, "{x}");
        }
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
    }

    #[test]
    #[allow(clippy::float_cmp)] // sums of small whole numbers are exact
    fn reductions_take_every_element() {
        for length in [0_u16, 1, 2, 31, 32, 33, 63, 64, 100, 255, 256, 257, 700] {
            let x: Vec<f32> = (1..=length).map(f32::from).collect();
            let n = f32::from(length);
            assert_eq!(sum(&x), n * (n + 1.0) / 2.0);
            assert_eq!(dot(&x, &vec![2.0; x.len()]), n * (n + 1.0));
            assert_eq!(maximum(&x), if length == 0 { f32::NEG_INFINITY } else { n });
            assert_eq!(sum_exp(&vec![3.0; x.len()], 3.0), n);
            let negative: Vec<f32> = x.iter().map(|x| -x).collect();
            assert_eq!(maximum(&negative), if length == 0 { f32::NEG_INFINITY } else { -1.0 });
        }
    }
}
