//! Keys and values as a cache holds them.

use graft_kernels::quantized_matmul;
use mlx_graft::{Array, ops};

use super::Quantization;
use crate::Result;

/// The keys and the values that queries attend to, each of shape `(B, K, S, D)`.
#[derive(Debug, Clone)]
pub enum KeysValues {
    /// As computed.
    Dense(Array, Array),
    /// In few bits.
    Quantized(QuantizedRows, QuantizedRows),
}

/// An array of shape `(..., D)` whose rows are packed: what `mx.quantize` returns.
#[derive(Debug, Clone)]
pub struct QuantizedRows {
    /// `(..., D * bits / 32)`, uint32.
    pub weight: Array,
    /// `(..., D / group_size)`.
    pub scales: Array,
    /// `(..., D / group_size)`.
    pub biases: Array,
    /// How they are packed.
    pub quantization: Quantization,
}

impl QuantizedRows {
    /// The packed rows, the scales and the biases.
    pub fn arrays(&self) -> [&Array; 3] {
        [&self.weight, &self.scales, &self.biases]
    }

    /// The same packing with other arrays, made of the number and the value of each.
    pub fn map_with_index(&self, f: impl Fn(usize, &Array) -> Result<Array>) -> Result<Self> {
        Ok(Self {
            weight: f(0, &self.weight)?,
            scales: f(1, &self.scales)?,
            biases: f(2, &self.biases)?,
            quantization: self.quantization.clone(),
        })
    }

    /// The elements.
    pub fn dequantize(&self) -> Result<Array> {
        let options = self.quantization.dequantize_options().biases(&self.biases);
        Ok(ops::dequantize(&self.weight, &self.scales, &options)?)
    }

    /// `x @ rows.T` if `transpose`, else `x @ rows`.
    pub fn matmul(&self, x: &Array, transpose: bool) -> Result<Array> {
        let options = self.quantization.matmul_options().biases(&self.biases);
        Ok(quantized_matmul(x, &self.weight, &self.scales, &options.transpose(transpose))?)
    }
}
