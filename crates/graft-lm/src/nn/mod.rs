//! Layers, named and shaped as those of `mlx.nn`.
//!
//! A model is a struct of layers with `#[derive(Module)]`: walking its fields gives the weights
//! under the names that they have in safetensors files. Weights are held in [`Param`] cells, so
//! that a transformation can put its tracers in their place while it traces.

mod attention;
mod context;
mod embedding;
mod keys_values;
mod linear;
mod norm;
mod param;
mod rope;

pub use attention::{Mask, rope_attention, scaled_dot_product_attention, window_start};
pub use context::Context;
pub use embedding::{Embedding, EmbeddingKind};
pub use graft_derive::Module;
pub use keys_values::{KeysValues, QuantizedRows};
pub use linear::{Adapted, Dense, Linear, LinearKind, Quantization, Quantized, QuantizedWeight};
pub use norm::RmsNorm;
pub use param::{Param, Source, Swapped};
pub use rope::{Rope, RopeScaling};

use std::rc::Rc;

use mlx_graft::{Array, Dtype, ops};

use crate::Result;

/// What walks over the layers of a model.
///
/// Paths are those of weight files: `model.layers.0.self_attn.q_proj`.
pub trait Visitor {
    /// A weight.
    fn param(&mut self, _path: &str, _param: &Param) {}
    /// A linear layer, before its weights.
    fn linear(&mut self, _path: &str, _linear: &Linear) {}
    /// An embedding, before its weights.
    fn embedding(&mut self, _path: &str, _embedding: &Embedding) {}
}

/// A layer or a structure of layers. Derived for structs with named fields.
pub trait Module {
    /// Shows every weight and every replaceable layer below `path` to `visitor`, in the order of
    /// the fields.
    fn visit(&self, path: &mut String, visitor: &mut dyn Visitor);

    /// The weights with their names.
    fn params(&self) -> Vec<(String, Param)> {
        struct Collect(Vec<(String, Param)>);
        impl Visitor for Collect {
            fn param(&mut self, path: &str, param: &Param) {
                self.0.push((path.to_string(), param.clone()));
            }
        }
        let mut collect = Collect(Vec::new());
        self.visit(&mut String::new(), &mut collect);
        collect.0
    }
}

/// Visits a child of a structure under its name.
pub fn visit_child(child: &dyn Module, path: &mut String, name: &str, visitor: &mut dyn Visitor) {
    let len = path.len();
    if len > 0 {
        path.push('.');
    }
    path.push_str(name);
    child.visit(path, visitor);
    path.truncate(len);
}

impl<M: Module> Module for Vec<M> {
    fn visit(&self, path: &mut String, visitor: &mut dyn Visitor) {
        for (i, item) in self.iter().enumerate() {
            visit_child(item, path, &i.to_string(), visitor);
        }
    }
}

impl<M: Module> Module for Option<M> {
    fn visit(&self, path: &mut String, visitor: &mut dyn Visitor) {
        if let Some(module) = self {
            module.visit(path, visitor);
        }
    }
}

impl<M: Module> Module for Rc<M> {
    fn visit(&self, path: &mut String, visitor: &mut dyn Visitor) {
        (**self).visit(path, visitor);
    }
}

/// A constant of the dtype of what it is combined with, so that nothing is promoted.
pub(crate) fn constant(value: f32, dtype: Dtype) -> Result<Array> {
    let scalar = Array::scalar(value)?;
    Ok(if dtype == Dtype::Float32 { scalar } else { ops::astype(&scalar, dtype)? })
}
