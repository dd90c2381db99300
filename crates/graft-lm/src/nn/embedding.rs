//! Embeddings: dense, quantized, and adapted by a low-rank update.

use std::cell::RefCell;
use std::rc::Rc;

use graft_kernels::{linear, matmul};
use mlx_graft::{Array, ops};

use super::linear::{add_scaled, low_rank};
use super::{Context, Module, Param, QuantizedWeight, Visitor, visit_child};
use crate::Result;

/// A table of vectors whose kind can be exchanged in place. A clone is the same table.
#[derive(Debug, Clone)]
pub struct Embedding {
    kind: Rc<RefCell<EmbeddingKind>>,
}

/// The kinds of embedding.
#[derive(Debug)]
pub enum EmbeddingKind {
    /// `mlx.nn.Embedding`, with a weight of shape `(V, D)`.
    Dense(Param),
    /// `mlx.nn.QuantizedEmbedding`.
    Quantized(QuantizedWeight),
    /// mlx-lm's `LoRAEmbedding`.
    Adapted(Box<AdaptedEmbedding>),
}

/// `embedding(x) + scale * dropout(lora_a[x] @ lora_b)`.
#[derive(Debug, Module)]
pub struct AdaptedEmbedding {
    embedding: Embedding,
    lora_a: Param,
    lora_b: Param,
    #[module(skip)]
    scale: f32,
    #[module(skip)]
    dropout: f32,
}

impl Embedding {
    /// A table of shape `(V, D)`.
    pub fn dense(weight: Array) -> Self {
        Self::from_kind(EmbeddingKind::Dense(Param::trainable(weight)))
    }

    /// An embedding of the given kind.
    pub fn from_kind(kind: EmbeddingKind) -> Self {
        Self { kind: Rc::new(RefCell::new(kind)) }
    }

    /// The vectors of the tokens: `(B, T)` to `(B, T, D)`.
    pub fn forward(&self, tokens: &Array, ctx: &Context) -> Result<Array> {
        match &*self.kind.borrow() {
            EmbeddingKind::Dense(weight) => Ok(ops::take_axis(&weight.get(), tokens, 0)?),
            EmbeddingKind::Quantized(packed) => {
                let rows = |param: &Array| ops::take_axis(param, tokens, 0);
                let biases = packed.bias_rows().as_ref().map(rows).transpose()?;
                let (weight, scales) = (rows(&packed.weight.get())?, rows(&packed.scales.get())?);
                packed.dequantize_rows(&weight, &scales, biases.as_ref())
            }
            EmbeddingKind::Adapted(adapted) => {
                let y = adapted.embedding.forward(tokens, ctx)?;
                let rows = ops::take_axis(&adapted.lora_a.get(), tokens, 0)?;
                let z = matmul(&rows, &adapted.lora_b.get())?;
                let z = low_rank(&z, adapted.dropout, ctx, |z| Ok(z.clone()))?;
                add_scaled(&y, &z, adapted.scale, y.dtype())
            }
        }
    }

    /// The table as an output layer: `(B, T, D)` to logits `(B, T, V)`.
    pub fn as_linear(&self, x: &Array, ctx: &Context) -> Result<Array> {
        match &*self.kind.borrow() {
            EmbeddingKind::Dense(weight) => Ok(linear(x, &weight.get())?),
            EmbeddingKind::Quantized(packed) => packed.matmul_transposed(x),
            EmbeddingKind::Adapted(adapted) => {
                let y = adapted.embedding.as_linear(x, ctx)?;
                let z = low_rank(x, adapted.dropout, ctx, |x| {
                    let inner = linear(x, &adapted.lora_b.get())?;
                    Ok(linear(&inner, &adapted.lora_a.get())?)
                })?;
                add_scaled(&y, &z, adapted.scale, x.dtype())
            }
        }
    }

    /// The number of vectors and their length.
    pub fn dims(&self) -> Result<(i32, i32)> {
        match &*self.kind.borrow() {
            EmbeddingKind::Dense(weight) => Ok((weight.get().dim(0)?, weight.get().dim(1)?)),
            EmbeddingKind::Quantized(packed) => {
                Ok((packed.weight.get().dim(0)?, packed.input_dims()?))
            }
            EmbeddingKind::Adapted(adapted) => adapted.embedding.dims(),
        }
    }

    /// Whether the embedding has a low-rank update.
    pub fn is_adapted(&self) -> bool {
        matches!(&*self.kind.borrow(), EmbeddingKind::Adapted(_))
    }

    /// Adds a low-rank update in place. `lora_a` is `(V, R)`, `lora_b` is `(R, D)`.
    pub fn adapt(&self, lora_a: &Array, lora_b: &Array, scale: f32, dropout: f32) {
        self.kind.replace_with(|kind| {
            let empty = EmbeddingKind::Dense(Param::frozen(lora_a.clone()));
            let base = std::mem::replace(kind, empty);
            EmbeddingKind::Adapted(Box::new(AdaptedEmbedding {
                embedding: Self::from_kind(base),
                lora_a: Param::trainable(lora_a.clone()),
                lora_b: Param::trainable(lora_b.clone()),
                scale,
                dropout,
            }))
        });
    }
}

impl Module for Embedding {
    fn visit(&self, path: &mut String, visitor: &mut dyn Visitor) {
        visitor.embedding(path, self);
        match &*self.kind.borrow() {
            EmbeddingKind::Dense(weight) => visit_child(weight, path, "weight", visitor),
            EmbeddingKind::Quantized(packed) => packed.visit(path, visitor),
            EmbeddingKind::Adapted(adapted) => adapted.visit(path, visitor),
        }
    }
}
