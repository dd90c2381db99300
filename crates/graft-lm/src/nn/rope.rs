//! Rotary position embedding (Su et al., 2021) and its scalings, as mlx-lm's `rope_utils`.

use std::f32::consts::PI;

use graft_kernels::Rope as Rotation;
use mlx_graft::{Array, ops};
use serde::Deserialize;

use super::constant;
use crate::{Error, Result};

/// The `rope_scaling` (or `rope_parameters`) of a config.json.
#[derive(Debug, Clone, Default, Deserialize)]
#[allow(missing_docs)] // the keys are Hugging Face's
pub struct RopeScaling {
    pub r#type: Option<String>,
    pub rope_type: Option<String>,
    pub rope_theta: Option<f32>,
    pub factor: Option<f32>,
    pub low_freq_factor: Option<f32>,
    pub high_freq_factor: Option<f32>,
    pub original_max_position_embeddings: Option<f32>,
    pub beta_fast: Option<f32>,
    pub beta_slow: Option<f32>,
    pub mscale: Option<f32>,
    pub mscale_all_dim: Option<f32>,
}

/// Rotates pairs of features by an angle that grows with the position.
#[derive(Debug)]
pub struct Rope {
    dims: i32,
    traditional: bool,
    base: f32,
    scale: f32,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Angles from the base.
    Base,
    /// Angles from a table of shape `(dims / 2,)`, and a factor on the input.
    Table { freqs: Array, mscale: Option<f32> },
    /// A base that grows with sequences beyond the trained length.
    Dynamic { factor: f32, max_positions: f32 },
}

impl Rope {
    /// A rotation of the first `dims` features.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an unknown scaling, [`Error::Usage`] for one without its keys.
    pub fn new(
        dims: i32,
        base: f32,
        traditional: bool,
        scaling: Option<&RopeScaling>,
        max_positions: Option<f32>,
    ) -> Result<Self> {
        let none = RopeScaling::default();
        let scaling = scaling.unwrap_or(&none);
        let mut rope = Self { dims, traditional, base, scale: 1.0, kind: Kind::Base };
        // Files have either, or both; mlx-lm takes the older key first.
        let named = scaling.r#type.as_deref().filter(|name| !name.is_empty());
        let rope_type = named.or(scaling.rope_type.as_deref()).unwrap_or("default");
        let factor = || required(scaling.factor, rope_type, "factor");
        match rope_type {
            "default" => {}
            "linear" => rope.scale = 1.0 / factor()?,
            "dynamic" => {
                let max_positions = required(max_positions, rope_type, "max_position_embeddings")?;
                rope.kind = Kind::Dynamic { factor: factor()?, max_positions };
            }
            "llama3" => {
                let freqs = llama3(dims, base, factor()?, scaling);
                let freqs = Array::from_slice(&freqs, &[dims / 2])?;
                rope.kind = Kind::Table { freqs, mscale: None };
            }
            "yarn" => {
                let (freqs, mscale) = yarn(dims, base, factor()?, scaling);
                let freqs = Array::from_slice(&freqs, &[dims / 2])?;
                rope.kind = Kind::Table { freqs, mscale: Some(mscale) };
            }
            other => {
                return Err(Error::Unsupported(format!(
                    "rope_scaling of type {other:?} is not supported; \
                     known: default, linear, dynamic, llama3, yarn"
                )));
            }
        }
        Ok(rope)
    }

    /// Whether the angle between two tokens depends on more than how far apart they are.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.kind, Kind::Dynamic { .. })
    }

    /// Splits `x`, of shape `(B, T, H * D)`, whose first token has the position `offset`, into heads
    /// and rotates them: `(B, H, T, D)`.
    pub fn forward(&self, x: &Array, heads: i32, offset: i32) -> Result<Array> {
        let rotation = self.rotation(x.dim(-2)?, offset);
        Ok(graft_kernels::rope_heads(&self.scaled(x)?, heads, rotation, self.freqs())?)
    }

    /// The rotation of `length` tokens whose first has the position `offset`, of what
    /// [`scaled`](Self::scaled) returns.
    pub(crate) fn rotation(&self, length: i32, offset: i32) -> Rotation {
        let base = match self.kind {
            Kind::Base => Some(self.base),
            Kind::Table { .. } => None,
            Kind::Dynamic { factor, max_positions } => {
                let length = ((length + offset) as f32).max(max_positions);
                let grown = factor * length / max_positions - (factor - 1.0);
                let dims = self.dims as f32;
                Some(self.base * grown.powf(dims / (dims - 2.0)))
            }
        };
        let Self { dims, traditional, scale, .. } = *self;
        Rotation { dims, traditional, base, scale, offset }
    }

    /// The table of angles, if there is one.
    pub(crate) fn freqs(&self) -> Option<&Array> {
        match &self.kind {
            Kind::Table { freqs, .. } => Some(freqs),
            Kind::Base | Kind::Dynamic { .. } => None,
        }
    }

    /// The input of the rotation.
    pub(crate) fn scaled(&self, x: &Array) -> Result<Array> {
        match self.kind {
            Kind::Table { mscale: Some(mscale), .. } => {
                Ok(ops::multiply(x, &constant(mscale, x.dtype())?)?)
            }
            _ => Ok(x.clone()),
        }
    }
}

fn required(value: Option<f32>, rope_type: &str, key: &str) -> Result<f32> {
    value.ok_or_else(|| {
        Error::Usage(format!("config.json: rope_scaling of type {rope_type:?} needs {key:?}"))
    })
}

/// The wavelengths over 2π: `base ** (2i / dims)`.
fn inverse_frequencies(dims: i32, base: f32) -> impl Iterator<Item = f32> {
    (0..dims / 2).map(move |i| base.powf((2 * i) as f32 / dims as f32))
}

fn llama3(dims: i32, base: f32, factor: f32, scaling: &RopeScaling) -> Vec<f32> {
    let low = scaling.low_freq_factor.unwrap_or(1.0);
    let high = scaling.high_freq_factor.unwrap_or(4.0);
    let context = scaling.original_max_position_embeddings.unwrap_or(8192.0);
    let scale = |freq: f32| {
        let wavelength = 2.0 * PI * freq;
        if wavelength > context / low {
            freq * factor
        } else if wavelength > context / high {
            let smooth = (context / wavelength - low) / (high - low);
            freq / ((1.0 - smooth) / factor + smooth)
        } else {
            freq
        }
    };
    inverse_frequencies(dims, base).map(scale).collect()
}

/// `YaRN` (Peng et al., 2023): the frequencies and the factor on the input.
fn yarn(dims: i32, base: f32, factor: f32, scaling: &RopeScaling) -> (Vec<f32>, f32) {
    let context = scaling.original_max_position_embeddings.unwrap_or(4096.0);
    let correction =
        |rotations: f32| dims as f32 * (context / (rotations * 2.0 * PI)).ln() / (2.0 * base.ln());
    let low = correction(scaling.beta_fast.unwrap_or(32.0)).floor().max(0.0);
    let high = correction(scaling.beta_slow.unwrap_or(1.0)).ceil().min((dims - 1) as f32);
    // Whole numbers; equal ones would divide by zero, and mlx-lm keeps clear of that so.
    let high = if (high - low).abs() < 0.5 { low + 0.001 } else { high };
    let mscale = |m: f32| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    let freqs = inverse_frequencies(dims, base)
        .enumerate()
        .map(|(i, extra)| {
            let inter = factor * extra;
            let mask = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
            inter * extra / (inter * mask + extra * (1.0 - mask))
        })
        .collect();
    let ratio =
        mscale(scaling.mscale.unwrap_or(1.0)) / mscale(scaling.mscale_all_dim.unwrap_or(0.0));
    (freqs, ratio)
}
