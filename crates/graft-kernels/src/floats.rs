//! Floating-point numbers of the dtypes that row kernels read and write, as `float32`.
#![allow(clippy::inline_always)] // see `lanes`

use std::mem::MaybeUninit;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use mlx_graft::primitive::{InputBuffer, KernelError};
use mlx_graft::{Array, Dtype, Element};

use crate::isa;
use crate::matmul::converted::Widen;
use crate::matmul::matrix::Matrix;

/// Numbers of 16 bits that are converted at once, on the stack.
const BLOCK: usize = 256;

/// Whether row kernels compute with this dtype.
pub(crate) fn is_known(array: &Array) -> bool {
    matches!(array.dtype(), Dtype::Float32 | Dtype::Bfloat16 | Dtype::Float16)
}

/// A floating-point type that kernels compute with in `float32`.
pub(crate) trait Float: Element {
    /// Whether it is `float32` itself.
    #[cfg(target_arch = "x86_64")]
    const IS_FLOAT32: bool = false;

    /// Converts numbers of one slice to another of the same length.
    fn widen(from: &[Self], to: &mut [f32]);
    /// The numbers in `float32`: themselves, or converted into `scratch`, which is as long.
    #[inline(always)]
    fn wide_row<'a>(from: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32] {
        Self::widen(from, scratch);
        scratch
    }

    /// The nearest number.
    fn round(x: f32) -> Self;
    /// Rounds numbers to the nearest of this type.
    fn round_all(wide: &mut [f32]);

    /// The matrix in `float32`: itself, or converted into `scratch`.
    fn wide<'a>(matrix: Matrix<'a, Self>, scratch: &'a mut Vec<f32>) -> Matrix<'a, f32> {
        scratch.resize(matrix.rows * matrix.columns, 0.0);
        isa::arch().dispatch(Widen { rows: matrix, wide: &mut *scratch });
        Matrix::from_rows(scratch, matrix.rows, matrix.columns)
    }
}

impl Float for f32 {
    #[cfg(target_arch = "x86_64")]
    const IS_FLOAT32: bool = true;

    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn wide_row<'a>(from: &'a [Self], _scratch: &'a mut [f32]) -> &'a [f32] {
        from
    }

    #[inline(always)]
    fn round(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn round_all(_wide: &mut [f32]) {}

    fn wide<'a>(matrix: Matrix<'a, Self>, _scratch: &'a mut Vec<f32>) -> Matrix<'a, f32> {
        matrix
    }
}

impl Float for f16 {
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn round(x: f32) -> Self {
        Self::from_f32(x)
    }

    fn round_all(wide: &mut [f32]) {
        let mut buffer = [Self::ZERO; BLOCK];
        for wide in wide.chunks_mut(BLOCK) {
            let narrow = &mut buffer[..wide.len()];
            narrow.convert_from_f32_slice(wide);
            narrow.convert_to_f32_slice(wide);
        }
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        assert_eq!(from.len(), to.len());
        for (y, x) in to.iter_mut().zip(from) {
            *y = from_bfloat16(*x);
        }
    }

    #[inline(always)]
    fn round(x: f32) -> Self {
        to_bfloat16(x)
    }

    #[inline(always)]
    fn round_all(wide: &mut [f32]) {
        for x in wide {
            *x = from_bfloat16(to_bfloat16(*x));
        }
    }
}

/// Numbers that a kernel reads.
#[derive(Clone, Copy)]
pub(crate) enum Floats<'a> {
    /// `float32`.
    Float32(&'a [f32]),
    /// `bfloat16`.
    Bfloat16(&'a [bf16]),
    /// `float16`.
    Float16(&'a [f16]),
}

impl<'a> Floats<'a> {
    /// The elements of an input in row-major order.
    pub(crate) fn new(input: &InputBuffer<'a>) -> Result<Self, KernelError> {
        Ok(match input.dtype() {
            Dtype::Bfloat16 => Self::Bfloat16(input.as_slice()?),
            Dtype::Float16 => Self::Float16(input.as_slice()?),
            _ => Self::Float32(input.as_slice()?),
        })
    }

    /// The number of elements.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Float32(x) => x.len(),
            Self::Bfloat16(x) => x.len(),
            Self::Float16(x) => x.len(),
        }
    }

    /// Some of the elements; those of 16 bits are converted into `scratch`.
    #[inline(always)]
    pub(crate) fn part<'s>(self, range: Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Self::Float32(x) => &x[range],
            Self::Bfloat16(_) | Self::Float16(_) => {
                scratch.resize(range.len(), 0.0);
                self.widen(range, scratch);
                scratch
            }
        }
    }

    /// Rounds numbers to those that the dtype has.
    #[inline(always)]
    pub(crate) fn round(self, wide: &mut [f32]) {
        match self {
            Self::Float32(_) => {}
            Self::Bfloat16(_) => bf16::round_all(wide),
            Self::Float16(_) => f16::round_all(wide),
        }
    }

    /// Writes some of the elements to `wide`, which has their number.
    #[inline(always)]
    pub(crate) fn widen(self, range: Range<usize>, wide: &mut [f32]) {
        match self {
            Self::Float32(x) => wide.copy_from_slice(&x[range]),
            Self::Bfloat16(x) => bf16::widen(&x[range], wide),
            Self::Float16(x) => f16::widen(&x[range], wide),
        }
    }
}

/// Rounds to the nearest `bfloat16`, to the even one of two.
#[inline(always)]
pub(crate) fn to_bfloat16(x: f32) -> bf16 {
    let bits = x.to_bits();
    // That of a NaN may wrap, and is not what is taken.
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A NaN keeps its upper half and a bit that no rounding can clear.
    let nan = bits >> 16 | 0x40;
    bf16::from_bits(if x.is_nan() { nan as u16 } else { rounded as u16 })
}

/// The same number in `float32`.
#[inline(always)]
fn from_bfloat16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// Writes numbers as `float16`.
#[inline(always)]
pub(crate) fn to_float16(from: &[f32], to: &mut [MaybeUninit<f16>]) {
    let mut buffer = [f16::ZERO; BLOCK];
    for (from, to) in from.chunks(BLOCK).zip(to.chunks_mut(BLOCK)) {
        let buffer = &mut buffer[..from.len()];
        buffer.convert_from_f32_slice(from);
        for (to, &x) in to.iter_mut().zip(&*buffer) {
            to.write(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_is_rounded_as_half_rounds() {
        let samples = (0..1_u32 << 20).map(|i| f32::from_bits(i.wrapping_mul(4_093)));
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, -f32::NAN];
        let last = [0xffff_8000, 0xffff_8001, 0xffff_ffff].map(f32::from_bits);
        for x in samples.chain(special).chain(last) {
            let (found, wanted) = (to_bfloat16(x), bf16::from_f32(x));
            assert!(
                found == wanted && found.to_bits() >> 15 == wanted.to_bits() >> 15
                    || found.is_nan() && wanted.is_nan(),
                "{x}: {found} {wanted}"
            );
        }
    }
}
