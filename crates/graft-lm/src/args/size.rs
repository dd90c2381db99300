//! Sizes of memory, as flags and configuration files write them.

/// What a size looks like, for error messages.
pub(crate) const WANTED: &str = "a size such as 8GB, 500MB or a number of bytes";

/// Reads a size: digits, then nothing, `M`, `MB`, `G` or `GB`, powers of ten as in
/// `mlx_lm.utils._parse_size`.
///
/// # Errors
/// The text that says what a size looks like, when `text` is not one.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (number, unit) = text.split_at(text.len() - digits.len());
    let factor = match unit.trim().to_ascii_uppercase().as_str() {
        "" => 1.0,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        _ => return Err(format!("{text:?} is not {WANTED}")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not {WANTED}"))?;
    Ok((number * factor).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn reads_what_mlx_lm_reads() {
        assert_eq!(parse_size("8GB"), Ok(8_000_000_000));
        assert_eq!(parse_size("1.5 g"), Ok(1_500_000_000));
        assert_eq!(parse_size("500mb"), Ok(500_000_000));
        assert_eq!(parse_size("1024"), Ok(1024));
    }

    #[test]
    fn refuses_other_units() {
        assert!(parse_size("8TB").unwrap_err().contains("\"8TB\" is not a size such as 8GB"));
        assert!(parse_size("GB").is_err());
        assert!(parse_size("-1").is_err());
    }
}
