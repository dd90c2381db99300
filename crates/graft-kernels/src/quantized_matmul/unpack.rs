//! Packed numbers as `float32`.
//!
//! Everything here is inlined into what is dispatched: see `lanes`.
#![allow(clippy::inline_always)]

use super::format::{E2M1, Format, Mode, e4m3};

/// What the codes of a mode stand for before they are scaled.
trait Code {
    /// Bits of a code.
    const BITS: usize;

    fn number(code: u32) -> f32;
}

/// Whole numbers of some bits.
struct Whole<const BITS: usize>;

impl<const BITS: usize> Code for Whole<BITS> {
    const BITS: usize = BITS;

    #[inline(always)]
    fn number(code: u32) -> f32 {
        // Conversions of signed numbers are an instruction on every processor.
        code.cast_signed() as f32
    }
}

/// Floating-point numbers of 4 bits.
struct Float4;

impl Code for Float4 {
    const BITS: usize = 4;

    #[inline(always)]
    fn number(code: u32) -> f32 {
        E2M1[code as usize & 15]
    }
}

/// Floating-point numbers of 8 bits.
struct Float8;

impl Code for Float8 {
    const BITS: usize = 8;

    #[inline(always)]
    fn number(code: u32) -> f32 {
        e4m3(code as u8)
    }
}

/// Writes the numbers that whole groups of codes stand for: `number * scale + bias`.
///
/// `scales` and `biases` hold one number for each group of `out`; the biases are not read where the
/// mode has none.
#[inline(always)]
pub(super) fn unpack(
    format: Format,
    codes: &[u8],
    scales: &[f32],
    biases: &[f32],
    out: &mut [f32],
) {
    let groups = Groups { size: format.group_size, codes, scales, biases, out };
    match (format.mode, format.bits) {
        (Mode::Affine, 2) => groups.unpack::<Whole<2>>(),
        (Mode::Affine, 3) => groups.unpack::<Whole<3>>(),
        (Mode::Affine, 4) => groups.unpack::<Whole<4>>(),
        (Mode::Affine, 5) => groups.unpack::<Whole<5>>(),
        (Mode::Affine, 6) => groups.unpack::<Whole<6>>(),
        (Mode::Affine, _) => groups.unpack::<Whole<8>>(),
        (_, 4) => groups.unpack::<Float4>(),
        (_, _) => groups.unpack::<Float8>(),
    }
}

/// Groups of one row, and where their numbers go.
struct Groups<'a> {
    size: usize,
    codes: &'a [u8],
    scales: &'a [f32],
    biases: &'a [f32],
    out: &'a mut [f32],
}

impl Groups<'_> {
    #[inline(always)]
    fn unpack<C: Code>(self) {
        let bytes = self.size * C::BITS / 8;
        let groups = self.codes.chunks_exact(bytes).zip(self.out.chunks_exact_mut(self.size));
        for (i, (codes, out)) in groups.enumerate() {
            let scale = self.scales[i];
            // Adding -0 changes no number.
            let bias = self.biases.get(i).copied().unwrap_or(-0.0);
            let (eights, _) = out.as_chunks_mut::<8>();
            for (codes, out) in codes.chunks_exact(C::BITS).zip(eights) {
                *out = eight::<C>(codes, scale, bias);
            }
        }
    }
}

/// Eight numbers, whose codes follow each other from the lowest bit of the first byte on.
#[inline(always)]
fn eight<C: Code>(codes: &[u8], scale: f32, bias: f32) -> [f32; 8] {
    let mask = (1 << C::BITS) - 1;
    std::array::from_fn(|i| {
        let code = if C::BITS == 8 {
            u32::from(codes[i])
        } else if C::BITS <= 4 {
            let mut word = [0; 4];
            word[..C::BITS].copy_from_slice(&codes[..C::BITS]);
            u32::from_le_bytes(word) >> (i * C::BITS) & mask
        } else {
            let mut word = [0; 8];
            word[..C::BITS].copy_from_slice(&codes[..C::BITS]);
            (u64::from_le_bytes(word) >> (i * C::BITS)) as u32 & mask
        };
        C::number(code) * scale + bias
    })
}
