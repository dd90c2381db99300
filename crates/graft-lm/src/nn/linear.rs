//! Linear layers: dense, quantized, and adapted by a low-rank update.

use std::cell::RefCell;
use std::rc::Rc;

use graft_kernels::{
    Packed, adapted_matmul, adapted_quantized_matmul, linear, linear_each, matmul,
    quantized_matmul, quantized_matmul_each,
};
use mlx_graft::{Array, Dtype, ops, random};

use super::{Context, Module, Param, Visitor, constant, visit_child};
use crate::Result;

/// A linear layer whose kind can be exchanged in place: quantizing and adapting are leaf swaps.
/// A clone is the same layer.
#[derive(Debug, Clone)]
pub struct Linear {
    kind: Rc<RefCell<LinearKind>>,
}

/// The kinds of linear layer.
#[derive(Debug)]
pub enum LinearKind {
    /// `mlx.nn.Linear`.
    Dense(Dense),
    /// `mlx.nn.QuantizedLinear`.
    Quantized(Quantized),
    /// mlx-lm's `LoRALinear`.
    Adapted(Box<Adapted>),
}

/// `x @ weight.T + bias`, with a weight of shape `(O, I)`.
#[derive(Debug, Module)]
pub struct Dense {
    /// `(O, I)`.
    pub weight: Param,
    /// `(O,)`.
    pub bias: Option<Param>,
}

/// How a weight is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    /// Elements that share a scale.
    pub group_size: i32,
    /// Bits of an element.
    pub bits: i32,
    /// `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
    pub mode: String,
}

impl Quantization {
    /// What tells [`ops::dequantize`] how rows are packed.
    pub(crate) fn dequantize_options(&self) -> ops::DequantizeOptions<'_> {
        let options = ops::DequantizeOptions::default();
        options.group_size(self.group_size).bits(self.bits).mode(&self.mode)
    }

    /// What tells [`ops::quantized_matmul`] how rows are packed.
    pub(crate) fn matmul_options(&self) -> ops::QuantizedMatmulOptions<'_> {
        let options = ops::QuantizedMatmulOptions::default();
        options.group_size(self.group_size).bits(self.bits).mode(&self.mode)
    }
}

/// A quantized weight of shape `(O, I)`.
#[derive(Debug, Module)]
pub struct QuantizedWeight {
    /// `(O, I * bits / 32)`, uint32.
    pub weight: Param,
    /// `(O, I / group_size)`.
    pub scales: Param,
    /// `(O, I / group_size)`, in affine mode.
    pub biases: Option<Param>,
    /// How it is packed.
    #[module(skip)]
    pub quantization: Quantization,
}

/// `x @ dequantized(weight).T + bias`.
#[derive(Debug)]
pub struct Quantized {
    /// The quantized weight.
    pub packed: QuantizedWeight,
    /// `(O,)`.
    pub bias: Option<Param>,
}

impl Module for Quantized {
    fn visit(&self, path: &mut String, visitor: &mut dyn Visitor) {
        // The quantized weight is no level of its own in files.
        self.packed.visit(path, visitor);
        visit_child(&self.bias, path, "bias", visitor);
    }
}

/// `linear(x) + scale * (dropout(x) @ lora_a) @ lora_b` (Hu et al., 2021).
#[derive(Debug, Module)]
pub struct Adapted {
    /// The frozen layer.
    pub linear: Linear,
    /// `(I, R)`.
    pub lora_a: Param,
    /// `(R, O)`.
    pub lora_b: Param,
    /// The factor of the update.
    #[module(skip)]
    pub scale: f32,
    /// The probability that an input of the update is zeroed in training.
    #[module(skip)]
    pub dropout: f32,
}

impl QuantizedWeight {
    /// The `biases`, where the mode has them.
    pub(crate) fn bias_rows(&self) -> Option<Array> {
        self.biases.as_ref().map(Param::get)
    }

    /// The elements of packed rows.
    pub(crate) fn dequantize_rows(
        &self,
        weight: &Array,
        scales: &Array,
        biases: Option<&Array>,
    ) -> Result<Array> {
        let options = self.quantization.dequantize_options().biases(biases);
        Ok(ops::dequantize(weight, scales, &options)?)
    }

    /// `x @ weight.T`.
    pub(crate) fn matmul_transposed(&self, x: &Array) -> Result<Array> {
        let biases = self.bias_rows();
        let options = self.quantization.matmul_options().biases(biases.as_ref());
        Ok(quantized_matmul(x, &self.weight.get(), &self.scales.get(), &options)?)
    }

    /// `x @ weight.T + scale * (x @ a) @ b`.
    fn adapted(&self, x: &Array, [a, b]: [&Array; 2], scale: f32) -> Result<Array> {
        let (w, scales, biases) = (self.weight.get(), self.scales.get(), self.bias_rows());
        let packed = Packed { w: &w, scales: &scales, biases: biases.as_ref() };
        let options = self.quantization.matmul_options();
        Ok(adapted_quantized_matmul(x, packed, &options, a, b, scale)?)
    }

    /// `x @ weight.T` of the weights of layers that are quantized alike.
    fn matmul_transposed_each(layers: &[&Quantized], x: &Array) -> Result<Vec<Array>> {
        let arrays = |layer: &&Quantized| {
            let packed = &layer.packed;
            (packed.weight.get(), packed.scales.get(), packed.bias_rows())
        };
        let arrays: Vec<_> = layers.iter().map(arrays).collect();
        let packed: Vec<_> = arrays
            .iter()
            .map(|(w, scales, biases)| Packed { w, scales, biases: biases.as_ref() })
            .collect();
        let options = layers[0].packed.quantization.matmul_options();
        Ok(quantized_matmul_each(x, &packed, &options)?)
    }

    /// The length of an unpacked row.
    pub(crate) fn input_dims(&self) -> Result<i32> {
        Ok(self.weight.get().dim(-1)? * 32 / self.quantization.bits)
    }
}

impl LinearKind {
    /// The layer, if it is dense and has no update.
    fn dense(&self) -> Option<&Dense> {
        match self {
            Self::Dense(dense) => Some(dense),
            Self::Quantized(_) | Self::Adapted(_) => None,
        }
    }

    /// The layer, if it is packed and has no update.
    fn quantized(&self) -> Option<&Quantized> {
        match self {
            Self::Quantized(quantized) => Some(quantized),
            Self::Dense(_) | Self::Adapted(_) => None,
        }
    }
}

impl Linear {
    /// A dense layer from a weight of shape `(O, I)` and a bias of shape `(O,)`.
    pub fn dense(weight: Array, bias: Option<Array>) -> Self {
        let bias = bias.map(Param::trainable);
        Self::from_kind(LinearKind::Dense(Dense { weight: Param::trainable(weight), bias }))
    }

    /// A layer of the given kind.
    pub fn from_kind(kind: LinearKind) -> Self {
        Self { kind: Rc::new(RefCell::new(kind)) }
    }

    /// Multiplies the last axis of `x`: `(..., I)` to `(..., O)`.
    pub fn forward(&self, x: &Array, ctx: &Context) -> Result<Array> {
        match &*self.kind.borrow() {
            LinearKind::Dense(dense) => {
                add_bias(linear(x, &dense.weight.get())?, dense.bias.as_ref())
            }
            LinearKind::Quantized(quantized) => {
                add_bias(quantized.packed.matmul_transposed(x)?, quantized.bias.as_ref())
            }
            LinearKind::Adapted(adapted) => adapted.forward(x, ctx),
        }
    }

    /// [`forward`](Self::forward) of each of `layers`: those that are dense, or quantized alike, are
    /// one operation.
    pub fn forward_each<const N: usize>(
        layers: [&Self; N],
        x: &Array,
        ctx: &Context,
    ) -> Result<[Array; N]> {
        let kinds = layers.map(|layer| layer.kind.borrow());
        let dense: Vec<&Dense> = kinds.iter().filter_map(|kind| kind.dense()).collect();
        let quantized: Vec<&Quantized> = kinds.iter().filter_map(|kind| kind.quantized()).collect();
        let alike = quantized
            .iter()
            .all(|layer| layer.packed.quantization == quantized[0].packed.quantization);
        let (products, biases): (Vec<Array>, Vec<_>) = if dense.len() == N {
            let weights: Vec<Array> = dense.iter().map(|layer| layer.weight.get()).collect();
            let products = linear_each(x, &weights.iter().collect::<Vec<_>>())?;
            (products, dense.iter().map(|layer| layer.bias.as_ref()).collect())
        } else if alike && quantized.len() == N {
            let products = QuantizedWeight::matmul_transposed_each(&quantized, x)?;
            (products, quantized.iter().map(|layer| layer.bias.as_ref()).collect())
        } else {
            let outputs = layers.iter().map(|layer| layer.forward(x, ctx));
            (outputs.collect::<Result<_>>()?, vec![None; N])
        };
        let outputs = products.into_iter().zip(biases).map(|(y, bias)| add_bias(y, bias));
        let outputs: Vec<Array> = outputs.collect::<Result<_>>()?;
        let Ok(outputs) = outputs.try_into() else { unreachable!("one for each layer") };
        Ok(outputs)
    }

    /// The numbers of outputs and of inputs.
    pub fn dims(&self) -> Result<(i32, i32)> {
        match &*self.kind.borrow() {
            LinearKind::Dense(dense) => {
                let weight = dense.weight.get();
                Ok((weight.dim(0)?, weight.dim(1)?))
            }
            LinearKind::Quantized(quantized) => {
                Ok((quantized.packed.weight.get().dim(0)?, quantized.packed.input_dims()?))
            }
            LinearKind::Adapted(adapted) => adapted.linear.dims(),
        }
    }

    /// Whether the layer has a low-rank update.
    pub fn is_adapted(&self) -> bool {
        matches!(&*self.kind.borrow(), LinearKind::Adapted(_))
    }

    /// The probability that an input of the update is zeroed in training, 0 if there is no update.
    pub fn dropout(&self) -> f32 {
        match &*self.kind.borrow() {
            LinearKind::Adapted(adapted) => adapted.dropout,
            LinearKind::Dense(_) | LinearKind::Quantized(_) => 0.0,
        }
    }

    /// Adds a low-rank update in place. `lora_a` is `(I, R)`, `lora_b` is `(R, O)`.
    pub fn adapt(&self, lora_a: &Array, lora_b: &Array, scale: f32, dropout: f32) {
        self.kind.replace_with(|kind| {
            // The base moves into the update without being shared or copied.
            let empty = Dense { weight: Param::frozen(lora_a.clone()), bias: None };
            let base = std::mem::replace(kind, LinearKind::Dense(empty));
            LinearKind::Adapted(Box::new(Adapted {
                linear: Self::from_kind(base),
                lora_a: Param::trainable(lora_a.clone()),
                lora_b: Param::trainable(lora_b.clone()),
                scale,
                dropout,
            }))
        });
    }
}

impl Adapted {
    fn forward(&self, x: &Array, ctx: &Context) -> Result<Array> {
        if self.dropout <= 0.0 {
            let (a, b) = (self.lora_a.get(), self.lora_b.get());
            match &*self.linear.kind.borrow() {
                LinearKind::Dense(dense) => {
                    let y = adapted_matmul(x, &dense.weight.get(), &a, &b, self.scale)?;
                    return add_bias(y, dense.bias.as_ref());
                }
                LinearKind::Quantized(quantized) => {
                    let y = quantized.packed.adapted(x, [&a, &b], self.scale)?;
                    return add_bias(y, quantized.bias.as_ref());
                }
                LinearKind::Adapted(_) => {}
            }
        }
        let y = self.linear.forward(x, ctx)?;
        low_rank(x, self.dropout, ctx, |x| {
            Ok(matmul(&matmul(x, &self.lora_a.get())?, &self.lora_b.get())?)
        })
        .and_then(|z| add_scaled(&y, &z, self.scale, x.dtype()))
    }
}

impl Module for Linear {
    fn visit(&self, path: &mut String, visitor: &mut dyn Visitor) {
        visitor.linear(path, self);
        match &*self.kind.borrow() {
            LinearKind::Dense(dense) => dense.visit(path, visitor),
            LinearKind::Quantized(quantized) => quantized.visit(path, visitor),
            LinearKind::Adapted(adapted) => adapted.visit(path, visitor),
        }
    }
}

/// Applies `update` to `x` after dropout.
pub(super) fn low_rank(
    x: &Array,
    dropout: f32,
    ctx: &Context,
    update: impl FnOnce(&Array) -> Result<Array>,
) -> Result<Array> {
    // Without dropout no key is drawn: a step would split one for every layer.
    match if dropout > 0.0 { ctx.next_key()? } else { None } {
        Some(key) => {
            let keep = constant(1.0 - dropout, Dtype::Float32)?;
            let mask = random::bernoulli(&keep, x.shape(), Some(&key))?;
            let factor = constant(1.0 / (1.0 - dropout), x.dtype())?;
            update(&ops::multiply(&ops::multiply(x, &factor)?, &ops::astype(&mask, x.dtype())?)?)
        }
        None => update(x),
    }
}

/// `y + (scale * z)`, the update rounded to the dtype of the input as mlx-lm does.
pub(super) fn add_scaled(y: &Array, z: &Array, scale: f32, dtype: Dtype) -> Result<Array> {
    let z = ops::multiply(&constant(scale, z.dtype())?, z)?;
    let z = if z.dtype() == dtype { z } else { ops::astype(&z, dtype)? };
    Ok(ops::add(y, &z)?)
}

fn add_bias(y: Array, bias: Option<&Param>) -> Result<Array> {
    match bias {
        Some(bias) => Ok(ops::add(&y, &bias.get())?),
        None => Ok(y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an update gets of 4,000 ones.
    fn dropped(dropout: f32, ctx: &Context) -> Result<Vec<f32>> {
        let ones = ops::ones(&[40, 100], Dtype::Float32)?;
        Ok(low_rank(&ones, dropout, ctx, |x| Ok(x.clone()))?.to_vec()?)
    }

    #[test]
    fn dropout_zeroes_a_share_and_keeps_the_mean() -> Result<()> {
        for dropout in [0.1_f32, 0.5] {
            let ctx = Context::train(random::key(7)?);
            let values = dropped(dropout, &ctx)?;
            let kept = 1.0 / (1.0 - dropout);
            assert!(values.iter().all(|&value| value == 0.0 || (value - kept).abs() < 1e-6));
            let zeros = values.iter().filter(|value| **value == 0.0).count();
            let share = zeros as f32 / values.len() as f32;
            // Six standard deviations of the share, which is random but the same in each run.
            let bound = 6.0 * (dropout * (1.0 - dropout) / values.len() as f32).sqrt();
            assert!((share - dropout).abs() < bound, "{share}");
            assert_ne!(values, dropped(dropout, &ctx)?, "each draws from a key of its own");
            let again = Context::train(random::key(7)?);
            assert_eq!(values, dropped(dropout, &again)?);
        }
        Ok(())
    }

    #[test]
    fn without_training_or_dropout_nothing_is_dropped_or_drawn() -> Result<()> {
        assert_eq!(dropped(0.5, &Context::eval())?, vec![1.0; 4000]);
        let ctx = Context::train(random::key(7)?);
        assert_eq!(dropped(0.0, &ctx)?, vec![1.0; 4000]);
        let untouched = Context::train(random::key(7)?);
        assert_eq!(dropped(0.5, &ctx)?, dropped(0.5, &untouched)?);
        Ok(())
    }
}
