//! Quantized matrices, and products with them.

use mlx_graft::ops::{DequantizeOptions, QuantizeOptions, QuantizedMatmulOptions};
use mlx_graft::{Array, Dtype, Result, ops};

use crate::common::{assert_within, numbers};

pub type Multiply = fn(&Array, &Array, &Array, &QuantizedMatmulOptions<'_>) -> Result<Array>;

/// Rows for which no matrix is rounded.
const FEW_ROWS: usize = 8;

pub const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16];

/// All modes with their group sizes and bits.
pub fn formats() -> Vec<(&'static str, i32, i32)> {
    let affine = [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| {
        [32, 64, 128].into_iter().map(move |group_size| ("affine", group_size, bits))
    });
    affine.chain([("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)]).collect()
}

/// A quantized matrix, or a stack of them.
pub struct Packed {
    pub mode: &'static str,
    pub group_size: i32,
    pub bits: i32,
    pub transpose: bool,
    pub arrays: Vec<Array>,
}

impl Packed {
    /// Packs numbers; the scales of affine modes are of `dtype`.
    pub fn new(
        (mode, group_size, bits): (&'static str, i32, i32),
        transpose: bool,
        dtype: Dtype,
        w: &Array,
    ) -> Result<Self> {
        let options = QuantizeOptions::default().group_size(group_size).bits(bits).mode(mode);
        let mut arrays = ops::quantize(w, &options)?;
        if mode == "affine" {
            for scales in &mut arrays[1..] {
                *scales = ops::astype(scales, dtype)?;
            }
        }
        Ok(Self { mode, group_size, bits, transpose, arrays })
    }

    pub fn by(&self, multiply: Multiply, x: &Array) -> Result<Array> {
        let options = QuantizedMatmulOptions::default()
            .biases(self.arrays.get(2))
            .transpose(self.transpose)
            .group_size(self.group_size)
            .bits(self.bits)
            .mode(self.mode);
        multiply(x, &self.arrays[0], &self.arrays[1], &options)
    }

    pub fn multiply(&self, x: &Array) -> Result<Array> {
        self.by(graft_kernels::quantized_matmul, x)
    }

    pub fn multiply_by_mlx(&self, x: &Array) -> Result<Array> {
        self.by(ops::quantized_matmul, x)
    }

    /// What `x` is multiplied with, and the largest magnitude that codes and biases reach on the
    /// way to it, both of `float32`.
    pub fn unpacked(&self) -> Result<(Array, Array)> {
        let [w, scales, biases @ ..] = self.arrays.as_slice() else { unreachable!() };
        let wide = |x: &Array| match x.dtype() {
            Dtype::Uint8 => Ok(x.clone()),
            _ => ops::astype(x, Dtype::Float32),
        };
        let unpack = |scales: &Array, biases: Option<&Array>| {
            let options = DequantizeOptions::default()
                .biases(biases)
                .group_size(self.group_size)
                .bits(self.bits)
                .mode(self.mode)
                .dtype(Dtype::Float32);
            ops::dequantize(w, scales, &options)
        };
        let (scales, biases) = (wide(scales)?, biases.first().map(wide).transpose()?);
        let numbers = unpack(&scales, biases.as_ref())?;
        let reach = match &biases {
            Some(biases) => unpack(&ops::abs(&scales)?, Some(&ops::abs(biases)?))?,
            None => ops::abs(&numbers)?,
        };
        let turned = |x: Array| if self.transpose { ops::swapaxes(&x, -1, -2) } else { Ok(x) };
        Ok((turned(numbers)?, turned(reach)?))
    }

    /// Compares the product with one of float64, rounded to float32: it is within K roundings of
    /// float32, relative to the magnitudes that are added, and one of the dtype of the result.
    /// Numbers of 16 bits may be taken as multiples of 2⁻¹³ of the largest around them, whatever
    /// codes and biases reach. With many rows of `bfloat16`, the matrix may be rounded to it.
    #[track_caller]
    pub fn check(&self, x: &Array) -> Result<()> {
        let found = self.multiply(x)?;
        assert_eq!(found.dtype(), self.multiply_by_mlx(x)?.dtype());
        let (numbers, reach) = self.unpacked()?;
        assert_product(&found, x, &numbers, &reach)
    }
}

/// Compares a product with that of `x` and `numbers` in float64; see [`Packed::check`].
#[track_caller]
pub fn assert_product(found: &Array, x: &Array, numbers: &Array, reach: &Array) -> Result<()> {
    let wide = |x: &Array| ops::astype(x, Dtype::Float32);
    let x = wide(x)?;
    let exact = |a: &Array, b: &Array| -> Result<Array> {
        let (a, b) = (ops::astype(a, Dtype::Float64)?, ops::astype(b, Dtype::Float64)?);
        ops::astype(&ops::matmul(&a, &b)?, Dtype::Float32)
    };
    let wanted = exact(&x, numbers)?;
    let unit = match found.dtype() {
        Dtype::Bfloat16 => 1.0 / 256.0,
        Dtype::Float16 => 1.0 / 2048.0,
        _ => f32::EPSILON,
    };
    let k = x.dim(-1)? as f32 + 2.0;
    let sums = ops::multiply(&exact(&ops::abs(&x)?, reach)?, &Array::scalar(k * f32::EPSILON)?)?;
    let last = ops::multiply(&ops::abs(&wanted)?, &Array::scalar(unit)?)?;
    let mut bound = ops::add(&sums, &last)?;
    if found.dtype() != Dtype::Float32 {
        let half = ops::multiply(&ops::abs(&x)?, &Array::scalar(1.0_f32 / 16384.0)?)?;
        let largest = ops::max_axis(&half, -1, true)?;
        let errors = ops::broadcast_to(&largest, x.shape())?;
        bound = ops::add(&bound, &exact(&errors, &ops::abs(numbers)?)?)?;
    }
    if found.dtype() == Dtype::Bfloat16 && x.size() > FEW_ROWS * x.dim(-1)? as usize {
        let sizes = exact(&ops::abs(&x)?, &ops::abs(numbers)?)?;
        bound = ops::add(&bound, &ops::multiply(&sizes, &Array::scalar(unit)?)?)?;
    }
    assert_within(&wide(found)?, &wanted, &bound);
    Ok(())
}

/// Numbers of `dtype` by seed and shape.
pub fn of(dtype: Dtype, seed: u32, shape: &[i32]) -> Result<Array> {
    ops::astype(&numbers(seed, shape)?, dtype)
}
