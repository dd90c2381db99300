//! Arithmetic on slices in loops that the compiler turns into vector instructions.
//!
//! Everything here is called inside of what [`pulp::Arch::dispatch`] runs, and inlined into it: what
//! is not is not compiled for the wide registers. That holds for what is dispatched too, so it is a
//! type with an inlined `with_simd` or `call`: a closure is inlined only if it is short.
#![allow(clippy::inline_always)]

use std::ops::Range;

use pulp::{Simd, as_arrays};

/// Registers of partial results: each waits for its last operation only.
const PARTS: usize = 4;

/// Elements whose exponentials are summed at once, on the stack.
const BLOCK: usize = 256;

/// `part` of a slice of `length` elements, extended so that it fills registers as far as the slice
/// does: loops over elements that are left take as long each as those over registers.
pub(crate) fn whole(part: &Range<usize>, length: usize) -> Range<usize> {
    /// Elements of the widest register.
    const LANES: usize = 16;
    part.start / LANES * LANES..part.end.next_multiple_of(LANES).min(length)
}

/// Registers that all elements of one combine to, and the elements that fill none.
#[inline(always)]
fn combined<S: Simd>(
    simd: S,
    x: &[f32],
    neutral: f32,
    op: impl Fn(S::f32s, S::f32s) -> S::f32s,
) -> (S::f32s, &[f32]) {
    let (registers, rest) = S::as_simd_f32s(x);
    let (groups, last) = as_arrays::<PARTS, _>(registers);
    let mut parts = [simd.splat_f32s(neutral); PARTS];
    for group in groups {
        for (part, &x) in parts.iter_mut().zip(group) {
            *part = op(x, *part);
        }
    }
    for (part, &x) in parts.iter_mut().zip(last) {
        *part = op(x, *part);
    }
    let [a, b, c, d] = parts;
    (op(op(a, b), op(c, d)), rest)
}

/// The sum of `x`.
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (sum, rest) = combined(simd, x, 0.0, |x, sum| simd.add_f32s(x, sum));
    simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}

/// The sum of the products of neighbours; `y` is at least as long as `x`.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(&y[..x.len()]));
    let ((x, x_last), (y, y_last)) = (as_arrays::<PARTS, _>(x), as_arrays::<PARTS, _>(y));
    let mut parts = [simd.splat_f32s(0.0); PARTS];
    for (x, y) in x.iter().zip(y) {
        for ((part, &x), &y) in parts.iter_mut().zip(x).zip(y) {
            *part = simd.mul_add_e_f32s(x, y, *part);
        }
    }
    for ((part, &x), &y) in parts.iter_mut().zip(x_last).zip(y_last) {
        *part = simd.mul_add_e_f32s(x, y, *part);
    }
    let [a, b, c, d] = parts;
    let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    simd.reduce_sum_f32s(sum) + rest
}

/// The largest number of `x`, which is negative infinity where there is none.
#[inline(always)]
pub(crate) fn maximum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (highest, rest) = combined(simd, x, f32::NEG_INFINITY, |x, y| simd.max_f32s(x, y));
    rest.iter()
        .fold(simd.reduce_max_f32s(highest), |highest, &x| if x > highest { x } else { highest })
}

/// The sum of `exp(x - shift)`.
#[inline(always)]
pub(crate) fn sum_exp<S: Simd>(simd: S, x: &[f32], shift: f32) -> f32 {
    let mut buffer = [0.0; BLOCK];
    let mut total = 0.0;
    for x in x.chunks(BLOCK) {
        let block = &mut buffer[..x.len()];
        for (y, &x) in block.iter_mut().zip(x) {
            *y = exp(simd, x - shift);
        }
        total += sum(simd, block);
    }
    total
}

/// `x * y + z`, rounded once where an instruction does it: a function would take a hundred times as
/// long.
#[inline(always)]
fn mul_add<S: Simd>(_: S, x: f32, y: f32, z: f32) -> f32 {
    if S::IS_SCALAR { x * y + z } else { x.mul_add(y, z) }
}

/// `exp(x)` within two units of the last place; 0 where the result is below the normal numbers.
///
/// `x` is split into `n ln 2 + r`, and `exp(r)` is a polynomial of degree 7 on |r| ≤ ln 2 / 2.
/// Source of the coefficients: `expf` of the Cephes library (Moshier, 1992).
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: f32) -> f32 {
    /// exp(SMALLEST) is the smallest result, a bit above the smallest normal number.
    const SMALLEST: f32 = -87.33;
    /// exp(LARGEST) is the largest result that is finite.
    const LARGEST: f32 = 88.722_83;
    /// Adding it rounds to a whole number, which is then in the lowest bits; its own lowest are zeros.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first times `n` is exact.
    const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

    let shifted = mul_add(simd, x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add(simd, n, -LN_2[1], mul_add(simd, n, -LN_2[0], x));
    let mut y = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        y = mul_add(simd, y, r, *coefficient);
    }
    let y = mul_add(simd, y, r * r, r) + 1.0;
    // Times 2ⁿ: n is added to the exponent, also where it is 128, as `y` is below 1 there.
    let y = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    let y = if x < SMALLEST { 0.0 } else { y };
    // A NaN is not above, but in no order.
    if x <= LARGEST { y } else { x + f32::INFINITY }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;

    /// Runs a test on the widest registers, on narrower ones where there are any, and on none.
    fn on_all<T: WithSimd<Output = ()> + Copy>(test: T) {
        #[cfg(target_arch = "x86_64")]
        let narrower = pulp::x86::V3::try_new().map(Arch::V3);
        #[cfg(not(target_arch = "x86_64"))]
        let narrower = None;
        for arch in [Arch::new(), Arch::Scalar].into_iter().chain(narrower) {
            arch.dispatch(test);
        }
    }

    #[derive(Clone, Copy)]
    struct ExpIsWithinTwoUnits;

    impl WithSimd for ExpIsWithinTwoUnits {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for i in -87_300..=88_722 {
                let x = i as f32 / 1000.0;
                let (found, wanted) = (exp(simd, x), f64::from(x).exp());
                let unit = f64::from((wanted as f32).next_up()) - f64::from(wanted as f32);
                let error = (f64::from(found) - wanted).abs() / unit;
                assert!(error < 2.0, "exp({x}) = {found} is {error} units off");
            }
        }
    }

    #[test]
    fn exp_is_within_two_units() {
        on_all(ExpIsWithinTwoUnits);
    }

    #[derive(Clone, Copy)]
    struct ExpAtItsEnds;

    impl WithSimd for ExpAtItsEnds {
        type Output = ();

        #[inline(always)]
        #[allow(clippy::float_cmp)] // these are exact
        fn with_simd<S: Simd>(self, simd: S) {
            assert_eq!(exp(simd, 0.0), 1.0);
            assert_eq!(exp(simd, -0.0), 1.0);
            for x in [f32::NEG_INFINITY, f32::MIN, -1000.0, -87.4] {
                assert_eq!(exp(simd, x).to_bits(), 0, "{x}");
            }
            for x in [88.73, 1000.0, f32::MAX, f32::INFINITY] {
                assert_eq!(exp(simd, x), f32::INFINITY, "{x}");
            }
            assert!(exp(simd, f32::NAN).is_nan() && exp(simd, -f32::NAN).is_nan());
        }
    }

    #[test]
    fn exp_at_its_ends() {
        on_all(ExpAtItsEnds);
    }

    /// The same with bounds on `x`, and 2ⁿ in two factors.
    #[inline(always)]
    fn bounded_exp<S: Simd>(simd: S, x: f32) -> f32 {
        const ROUND: f32 = 12_582_912.0;
        const COEFFICIENTS: [f32; 6] =
            [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
        let bounded = if x < -87.33 { -87.33 } else { x };
        let bounded = if bounded > 88.8 { 88.8 } else { bounded };
        let shifted = mul_add(simd, bounded, std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = mul_add(simd, n, 2.121_944_4e-4, mul_add(simd, n, -355.0 / 512.0, bounded));
        let mut y = COEFFICIENTS[0];
        for coefficient in &COEFFICIENTS[1..] {
            y = mul_add(simd, y, r, *coefficient);
        }
        let y = mul_add(simd, y, r * r, r) + 1.0;
        let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned());
        let y = y * power(n >> 1) * power(n.wrapping_sub(n >> 1));
        if x < -87.33 { 0.0 } else { y }
    }

    #[derive(Clone, Copy)]
    struct ExpIsExactInItsLastFactor;

    impl WithSimd for ExpIsExactInItsLastFactor {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            const COUNT: usize = 1 << 10;
            // All exponents, and mantissas a prime apart; then all around the ends, and what is no
            // finite number.
            let sample = (0..=u32::MAX).step_by(251);
            let ends = [-87.33_f32, 88.722_83, 88.8, 0.0, -0.0].map(f32::to_bits);
            let around =
                ends.into_iter().flat_map(|x| (0..4096).map(move |i| (x + i).wrapping_sub(2048)));
            let special = [0x7f80_0000, 0xff80_0000, 0x7f80_0001, 0x7fc0_0000, 0xffff_ffff, 1];
            let mut all = sample.chain(around).chain(special).map(f32::from_bits);
            let [mut x, mut found, mut wanted] = [[0.0_f32; COUNT]; 3];
            loop {
                let count = x.iter_mut().zip(&mut all).map(|(x, next)| *x = next).count();
                for (found, &x) in found.iter_mut().zip(&x) {
                    *found = exp(simd, x);
                }
                for (wanted, &x) in wanted.iter_mut().zip(&x) {
                    *wanted = bounded_exp(simd, x);
                }
                for (x, (found, wanted)) in x.iter().zip(found.iter().zip(&wanted)) {
                    let same = found.to_bits() == wanted.to_bits();
                    let both_nan = x.is_nan() && found.is_nan() && wanted.is_nan();
                    assert!(same || both_nan, "exp({x:e}) is {found:e}, {wanted:e} with bounds");
                }
                if count < COUNT {
                    return;
                }
            }
        }
    }

    #[test]
    fn exp_is_exact_in_its_last_factor() {
        on_all(ExpIsExactInItsLastFactor);
    }

    #[derive(Clone, Copy)]
    struct ReductionsTakeEveryElement;

    impl WithSimd for ReductionsTakeEveryElement {
        type Output = ();

        #[inline(always)]
        #[allow(clippy::float_cmp)] // sums of small whole numbers are exact
        fn with_simd<S: Simd>(self, simd: S) {
            for length in [0_u16, 1, 2, 31, 32, 33, 63, 64, 100, 255, 256, 257, 700] {
                let x: Vec<f32> = (1..=length).map(f32::from).collect();
                let n = f32::from(length);
                assert_eq!(sum(simd, &x), n * (n + 1.0) / 2.0);
                assert_eq!(dot(simd, &x, &vec![2.0; x.len() + 1]), n * (n + 1.0));
                assert_eq!(maximum(simd, &x), if length == 0 { f32::NEG_INFINITY } else { n });
                assert_eq!(sum_exp(simd, &vec![3.0; x.len()], 3.0), n);
                let negative: Vec<f32> = x.iter().map(|x| -x).collect();
                let highest = if length == 0 { f32::NEG_INFINITY } else { -1.0 };
                assert_eq!(maximum(simd, &negative), highest);
            }
        }
    }

    #[test]
    fn reductions_take_every_element() {
        on_all(ReductionsTakeEveryElement);
    }
}
