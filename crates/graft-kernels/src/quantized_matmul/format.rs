//! How numbers are packed: the modes of `mlx.core.quantize`.
#![allow(clippy::inline_always)] // see `lanes`

/// Codes of one row of one mode, width and group size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    /// What a code stands for.
    pub(super) mode: Mode,
    /// Bits of a code.
    pub(super) bits: usize,
    /// Neighbours that share a scale.
    pub(super) group_size: usize,
}

/// What codes and scales stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Whole numbers, times a scale, plus a bias.
    Affine,
    /// Numbers of 4 bits (E2M1) or 8 bits (E4M3), times a power of two.
    Mx,
    /// Numbers of 4 bits, times a scale of 8 bits (E4M3).
    Nv,
}

impl Format {
    /// The format that MLX calls `mode`, with its own defaults; `None` if there is no such format.
    pub(super) fn new(mode: &str, group_size: Option<i32>, bits: Option<i32>) -> Option<Self> {
        let (mode, default_group_size, default_bits) = match mode {
            "affine" => (Mode::Affine, 64, 4),
            "mxfp4" => (Mode::Mx, 32, 4),
            "mxfp8" => (Mode::Mx, 32, 8),
            "nvfp4" => (Mode::Nv, 16, 4),
            _ => return None,
        };
        let bits = bits.unwrap_or(default_bits);
        let group_size = group_size.unwrap_or(default_group_size);
        let exists = match mode {
            Mode::Affine => matches!(bits, 2..=6 | 8) && matches!(group_size, 32 | 64 | 128),
            _ => bits == default_bits && group_size == default_group_size,
        };
        let (bits, group_size) = (bits as usize, group_size as usize);
        exists.then_some(Self { mode, bits, group_size })
    }

    /// The name that MLX has for it.
    pub(super) fn mode_name(self) -> &'static str {
        match (self.mode, self.bits) {
            (Mode::Affine, _) => "affine",
            (Mode::Mx, 4) => "mxfp4",
            (Mode::Mx, _) => "mxfp8",
            (Mode::Nv, _) => "nvfp4",
        }
    }

    /// The numbers in so many words, which is how an array has the columns of a quantized matrix;
    /// `None` if no array has so many.
    pub(super) fn columns(self, words: i32) -> Option<i32> {
        i32::try_from(i64::from(words) * 32 / self.bits as i64).ok()
    }

    /// The bytes of so many codes, which are whole groups.
    pub(super) fn bytes(self, codes: usize) -> usize {
        codes * self.bits / 8
    }

    /// Whether groups have biases.
    pub(super) fn has_biases(self) -> bool {
        self.mode == Mode::Affine
    }
}

/// The numbers of 4 bits: a sign, two bits of exponent and one of mantissa (E2M1 of the OCP
/// Microscaling Formats specification, 1.0).
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// A number of 8 bits: a sign, four bits of exponent and three of mantissa (E4M3). MLX has no NaN
/// among them: the last code is 480.
#[inline(always)]
pub(super) fn e4m3(code: u8) -> f32 {
    /// The smallest of them.
    const SMALLEST: f32 = 1.0 / 512.0;
    let magnitude = u32::from(code & 0x7f);
    // Below the normal numbers the mantissa counts multiples of the smallest.
    let subnormal = magnitude as i32 as f32 * SMALLEST;
    let normal = f32::from_bits((magnitude << 20) + (120 << 23));
    let magnitude = if magnitude < 8 { subnormal } else { normal };
    f32::from_bits(magnitude.to_bits() | u32::from(code & 0x80) << 24)
}

/// A power of two of 8 bits: its exponent (E8M0), of which the last is infinity in MLX.
#[inline(always)]
pub(super) fn e8m0(code: u8) -> f32 {
    let code = u32::from(code);
    f32::from_bits(if code == 0 { 1 << 22 } else { code << 23 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_mlx() {
        for bits in 0..=9 {
            for group_size in [8, 16, 32, 48, 64, 128, 256] {
                let exists =
                    [2, 3, 4, 5, 6, 8].contains(&bits) && [32, 64, 128].contains(&group_size);
                assert_eq!(
                    Format::new("affine", Some(group_size), Some(bits)).is_some(),
                    exists,
                    "{bits} {group_size}"
                );
            }
        }
        for (mode, group_size, bits) in [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)] {
            let format = Format::new(mode, None, None).unwrap();
            assert_eq!((format.group_size, format.bits), (group_size, bits));
            assert_eq!(format.mode_name(), mode);
            assert_eq!(Format::new(mode, Some(64), None), None);
            assert_eq!(Format::new(mode, None, Some(2)), None);
        }
        assert_eq!(Format::new("mxfp6", None, None), None);
    }

    #[test]
    fn columns_are_counted_or_too_many() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let format = Format::new("affine", None, Some(bits)).unwrap();
            assert_eq!(format.columns(2 * bits), Some(64));
            assert_eq!(format.columns(i32::MAX), None);
        }
    }
}
