//! The numbers of a group as multiples of a power of two.
#![allow(clippy::inline_always)] // see `lanes`

/// Bits of the multiples, without the sign.
pub(super) const DIGITS: u32 = 14;

/// Sums that are independent of each other, so that one need not wait for another.
const SUMS: usize = 8;

/// Sum of magnitudes above which sums of products with codes could overflow where those with the
/// numbers themselves do not.
const TAME: f32 = 1e30;

/// Whether sums of products with codes of these numbers cannot overflow, or meet infinities, where
/// those with the numbers that codes and biases stand for together do not.
pub(super) fn is_tame(x: &[f32]) -> bool {
    let (whole, rest) = x.as_chunks::<SUMS>();
    let mut sums = [0.0_f32; SUMS];
    for x in whole {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x.abs();
        }
    }
    // Comparisons with NaN are false.
    sums.into_iter().chain(rest.iter().map(|x| x.abs())).sum::<f32>() < TAME
}

/// The power of two that numbers count in, and its inverse: so that the magnitude of the largest is
/// below 2 to the power of [`DIGITS`].
#[inline(always)]
pub(super) fn unit_of(x: &[f32]) -> (f32, f32) {
    // Magnitudes are in the order of their bits.
    let magnitude = |x: &f32| x.to_bits() & 0x7fff_ffff;
    let largest = x.iter().map(magnitude).fold(0, u32::max);
    let exponent = (largest >> 23).max(DIGITS + 1) + 1 - DIGITS;
    (f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23))
}

/// The nearest whole number, the even one of two, of a number below 2²².
#[inline(always)]
pub(super) fn round(x: f32) -> i32 {
    /// Adding it leaves whole numbers, which are then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_stay_below_their_limit() {
        for scale in [1e-38_f32, 1e-20, 0.7, 1.0, 3e10, 1e30] {
            let x = [0.0, scale, -scale * 0.999, scale * 1e-3];
            let (unit, per_unit) = unit_of(&x);
            assert!((unit * per_unit - 1.0).abs() < f32::EPSILON);
            for x in x {
                let multiple = round(x * per_unit);
                assert!(multiple.abs() <= 1 << DIGITS);
                assert!((multiple as f32 * unit - x).abs() <= unit / 2.0);
            }
            let most = x.iter().map(|x| round(x * per_unit).abs()).max();
            assert!(scale < 1e-37 || most >= Some(1 << (DIGITS - 1)));
        }
        assert!(is_tame(&[1.0, -2.0]) && !is_tame(&[f32::NAN]) && !is_tame(&[-f32::INFINITY]));
        let mut many = [1.0; 100];
        assert!(is_tame(&many));
        many[37] = -2e30;
        assert!(!is_tame(&many));
    }
}
