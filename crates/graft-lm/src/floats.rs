//! Floats as Python writes them.

/// `repr(value)`.
pub(crate) fn repr(value: f64) -> String {
    with_pythons_exponent(&format!("{value:?}"))
}

/// `f"{value:.3e}"`.
pub(crate) fn scientific(value: f64) -> String {
    with_pythons_exponent(&format!("{value:.3e}"))
}

/// Python's exponents have a sign, and two digits at least.
fn with_pythons_exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::{repr, scientific};

    // Expected: what Python's expressions give.
    #[test]
    fn texts_are_pythons() {
        for (value, expected) in [
            (1.0, "1.0"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (-2.5e100, "-2.5e+100"),
        ] {
            assert_eq!(repr(value), expected);
        }
        for (value, expected) in
            [(0.0, "0.000e+00"), (123.456, "1.235e+02"), (-1e-120, "-1.000e-120")]
        {
            assert_eq!(scientific(value), expected);
        }
    }
}
