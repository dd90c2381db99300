//! The kernels that work on rows, and the same in operations of MLX.

use mlx_graft::{Array, Dtype, Result, ops, transforms};

use crate::common::{assert_within, numbers};

type Function = fn(&[Array]) -> Result<Vec<Array>>;

/// A kernel, the same in operations of MLX, and its inputs for an array.
#[derive(Clone, Copy)]
pub struct Case {
    pub ours: Function,
    theirs: Function,
    pub inputs: fn(&Array) -> Result<Vec<Array>>,
    /// How many inputs have a gradient; they are the first.
    pub differentiable: usize,
    /// How far results of `float32` may be off, relative to large ones.
    bound: f32,
}

/// Targets spread over all columns.
pub fn targets(logits: &Array) -> Result<Array> {
    let (width, rows) = logits.shape().split_last().expect("a last axis");
    let values: Vec<i32> = (0..rows.iter().product()).map(|i: i32| i * 7919 % width).collect();
    Array::from_slice(&values, rows)
}

pub const SOFTMAX: Case = Case {
    ours: |x| Ok(vec![graft_kernels::softmax(&x[0])?]),
    theirs: |x| Ok(vec![ops::softmax_axis(&x[0], -1, true)?]),
    inputs: |x| Ok(vec![x.clone()]),
    differentiable: 1,
    bound: 1e-6,
};

pub const RMS_NORM: Case = Case {
    ours: |x| Ok(vec![graft_kernels::rms_norm(&x[0], Some(&x[1]), 0.01)?]),
    theirs: |x| {
        let mean = ops::mean_axis(&ops::square(&x[0])?, -1, true)?;
        let scale = ops::rsqrt(&ops::add(&mean, &Array::scalar(0.01_f32)?)?)?;
        Ok(vec![ops::multiply(&ops::multiply(&x[0], &scale)?, &x[1])?])
    },
    inputs: |x| Ok(vec![x.clone(), numbers(78, &[x.dim(-1)?])?]),
    differentiable: 2,
    // Its gradients are differences and sums over rows.
    bound: 2e-5,
};

/// Minus half of an array, which is exact in every dtype, as is the sum of both.
fn minus_half(x: &Array) -> Result<Array> {
    ops::multiply(x, &ops::astype(&Array::scalar(-0.5_f32)?, x.dtype())?)
}

/// Of an array and minus half of it; both results, side by side.
pub const ADD_RMS_NORM: Case = Case {
    ours: |x| {
        let (sum, normal) = graft_kernels::add_rms_norm(&x[0], &minus_half(&x[0])?, &x[1], 0.01)?;
        Ok(vec![ops::concatenate_axis(&[&sum, &normal], -1)?])
    },
    theirs: |x| {
        let sum = ops::add(&x[0], &minus_half(&x[0])?)?;
        let normal = (RMS_NORM.theirs)(&[sum.clone(), x[1].clone()])?.remove(0);
        Ok(vec![ops::concatenate_axis(&[&sum, &normal], -1)?])
    },
    inputs: RMS_NORM.inputs,
    differentiable: 2,
    // As of the norm.
    bound: 2e-5,
};

pub const LAYER_NORM: Case = Case {
    ours: |x| Ok(vec![graft_kernels::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), 0.01)?]),
    theirs: |x| {
        let deviations = ops::subtract(&x[0], &ops::mean_axis(&x[0], -1, true)?)?;
        let variance = ops::mean_axis(&ops::square(&deviations)?, -1, true)?;
        let scale = ops::rsqrt(&ops::add(&variance, &Array::scalar(0.01_f32)?)?)?;
        let scaled = ops::multiply(&ops::multiply(&deviations, &scale)?, &x[1])?;
        Ok(vec![ops::add(&scaled, &x[2])?])
    },
    inputs: |x| Ok(vec![x.clone(), numbers(78, &[x.dim(-1)?])?, numbers(79, &[x.dim(-1)?])?]),
    differentiable: 3,
    // As of the other norm.
    bound: 2e-5,
};

pub const LOGSUMEXP: Case = Case {
    ours: |x| Ok(vec![graft_kernels::logsumexp(&x[0], true)?]),
    theirs: |x| Ok(vec![ops::logsumexp_axis(&x[0], -1, true)?]),
    inputs: |x| Ok(vec![x.clone()]),
    differentiable: 1,
    bound: 1e-6,
};

pub const CROSS_ENTROPY: Case = Case {
    ours: |x| Ok(vec![graft_kernels::cross_entropy(&x[0], &x[1])?]),
    theirs: |x| {
        // As `mlx.core.fast.cross_entropy`, whose loss is infinite where another logit is.
        let highest = ops::max_axis(&x[0], -1, true)?;
        let shift = ops::where_(&ops::isfinite(&highest)?, &highest, &ops::zeros_like(&highest)?)?;
        let logits = ops::subtract(&x[0], &shift)?;
        let score = ops::take_along_axis(&logits, &ops::expand_dims(&x[1], -1)?, -1)?;
        let sum = ops::logsumexp_axis(&logits, -1, false)?;
        Ok(vec![ops::subtract(&sum, &ops::squeeze_axis(&score, -1)?)?])
    },
    inputs: |x| Ok(vec![x.clone(), targets(x)?]),
    differentiable: 1,
    bound: 1e-6,
};

pub const SWIGLU: Case = Case {
    ours: |x| Ok(vec![graft_kernels::swiglu(&x[0], &x[1])?]),
    theirs: |x| {
        let silu = ops::multiply(&x[0], &ops::sigmoid(&x[0])?)?;
        Ok(vec![ops::multiply(&silu, &x[1])?])
    },
    inputs: |x| Ok(vec![x.clone(), numbers(77, x.shape())?]),
    differentiable: 2,
    bound: 1e-6,
};

pub const ALL: [Case; 7] =
    [SOFTMAX, LOGSUMEXP, RMS_NORM, ADD_RMS_NORM, LAYER_NORM, CROSS_ENTROPY, SWIGLU];

/// Asserts that two arrays are the same within `bound`, relative to the wanted one where it is
/// large.
#[track_caller]
pub fn assert_close_by(bound: f32, found: &Array, wanted: &Array) -> Result<()> {
    let size = ops::add(&ops::abs(wanted)?, &Array::scalar(1.0_f32)?)?;
    assert_within(found, wanted, &ops::multiply(&size, &Array::scalar(bound)?)?);
    Ok(())
}

#[track_caller]
pub fn assert_close(found: &Array, wanted: &Array) -> Result<()> {
    assert_close_by(1e-6, found, wanted)
}

impl Case {
    /// The result of MLX's operations in float64, rounded.
    pub fn wanted(&self, x: &[Array]) -> Result<Vec<Array>> {
        let widen = |x: &Array| match x.dtype() {
            Dtype::Int32 => Ok(x.clone()),
            _ => ops::astype(x, Dtype::Float64),
        };
        let wide = x.iter().map(widen).collect::<Result<Vec<_>>>()?;
        Ok(vec![ops::astype(&(self.theirs)(&wide)?[0], Dtype::Float32)?])
    }

    /// Compares value, gradient and directional derivative.
    #[track_caller]
    pub fn check(&self, x: &Array) -> Result<()> {
        let inputs = (self.inputs)(x)?;
        let wanted = self.wanted(&inputs)?;
        assert_close_by(self.bound, &(self.ours)(&inputs)?[0], &wanted[0])?;

        let (moved, fixed) = inputs.split_at(self.differentiable);
        let (case, fixed) = (*self, fixed.to_vec());
        let both = move |x: &[Array]| [x, &fixed].concat();
        let with_fixed = both.clone();
        let ours = move |x: &[Array]| (case.ours)(&both(x));
        let theirs = move |x: &[Array]| case.wanted(&with_fixed(x));
        let cotangents = [numbers(3, wanted[0].shape())?];
        let (_, found) = transforms::vjp(ours.clone(), moved, &cotangents)?;
        let (_, wanted) = transforms::vjp(theirs.clone(), moved, &cotangents)?;
        assert_eq!(found.len(), self.differentiable);
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_close_by(self.bound, found, wanted)?;
        }

        let tangents = moved.iter().map(|x| numbers(4, x.shape())).collect::<Result<Vec<_>>>()?;
        let (_, found) = transforms::jvp(ours, moved, &tangents)?;
        let (_, wanted) = transforms::jvp(theirs, moved, &tangents)?;
        // MLX adds up the slopes of a whole row in float32.
        assert_close_by(10.0 * self.bound, &found[0], &wanted[0])
    }
}

impl Case {
    /// Compares value and gradient in a 16-bit dtype, whose rounding error is `unit`, with those of
    /// the same numbers in float64.
    #[track_caller]
    pub fn check_halves(&self, x: &Array, dtype: Dtype, unit: f32) -> Result<()> {
        let narrow = |x: &Array| match x.dtype() {
            Dtype::Int32 => Ok(x.clone()),
            _ => ops::astype(x, dtype),
        };
        let wide = |x: &Array| ops::astype(x, Dtype::Float32);
        let inputs = (self.inputs)(x)?.iter().map(narrow).collect::<Result<Vec<_>>>()?;
        let found = &(self.ours)(&inputs)?[0];
        assert_eq!(found.dtype(), dtype);
        let wanted = self.wanted(&inputs)?.remove(0);
        assert_close_by(2.0 * unit, &wide(found)?, &wanted)?;

        let (moved, fixed) = inputs.split_at(self.differentiable);
        let (case, fixed) = (*self, fixed.to_vec());
        let both = move |x: &[Array]| [x, &fixed].concat();
        let with_fixed = both.clone();
        let cotangent = narrow(&numbers(3, wanted.shape())?)?;
        let ours = move |x: &[Array]| (case.ours)(&both(x));
        let theirs = move |x: &[Array]| case.wanted(&with_fixed(x));
        let (_, found) = transforms::vjp(ours, moved, std::slice::from_ref(&cotangent))?;
        let (_, wanted) = transforms::vjp(theirs, moved, &[wide(&cotangent)?])?;
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_eq!(found.dtype(), dtype);
            assert_close_by(4.0 * unit, &wide(found)?, &wide(wanted)?)?;
        }
        Ok(())
    }
}

/// Numbers in [-10, 10).
pub fn spread(seed: u32, shape: &[i32]) -> Result<Array> {
    ops::multiply(&numbers(seed, shape)?, &Array::scalar(10.0_f32)?)
}
