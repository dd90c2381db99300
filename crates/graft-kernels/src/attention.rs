//! Scaled dot-product attention that holds no matrix of all scores.

mod backward;
mod cached;
mod few_queries;
mod forward;
mod heads;
mod parts;

use half::{bf16, f16};
use mlx_graft::fast::ScaledDotProductAttentionOptions;
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, fast, ops};

use crate::derivatives::{self, Composed, of_composed};
use crate::{floats, is_active, matmul, rows, softmax};

pub use cached::{Attended, Projections, cached_attention};
use heads::Heads;

/// Which keys a query may see.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// All of them.
    None,
    /// Those that are not later; the queries are the last of the positions.
    Causal,
    /// Those that are not later, from a first one: int32, `(B, T)` or `(1, T)`. For rows that lie
    /// one behind the other it is where the row begins, for a sliding window its edge. A query sees
    /// its own position at least.
    From(&'a Array),
    /// Where a boolean array, which broadcasts to `(B, H, T, S)`, is true; or an array of numbers
    /// that are added to the scores.
    Array(&'a Array),
}

/// `softmax(scale * q @ k.T + mask) @ v`, as `mlx.core.fast.scaled_dot_product_attention`.
///
/// `q` is `(B, H, T, D)`, `k` is `(B, K, S, D)` and `v` is `(B, K, S, E)` with `K` a divisor of `H`;
/// the result is `(B, H, T, E)`.
///
/// `float32`, `bfloat16` and `float16` on the CPU are computed here, in `float32`, a block of queries
/// at a time: what is held grows with the length, and not with its square. The derivative computes
/// the scores again (Dao, 2023, "FlashAttention-2"). All others run through MLX's own operation.
///
/// # Errors
/// Those of `mlx.core.fast.scaled_dot_product_attention`, and of [`Mask::From`]: shapes or dtypes
/// that do not fit.
///
/// ```
/// use graft_kernels::{Mask, scaled_dot_product_attention};
/// use mlx_graft::{Array, Dtype, ops};
///
/// let q = ops::zeros(&[1, 1, 2, 4], Dtype::Float32)?;
/// let v = Array::from_slice(&[1.0_f32, 3.0], &[1, 1, 2, 1])?;
/// let out = scaled_dot_product_attention(&q, &q, &v, 0.5, Mask::Causal)?;
/// assert_eq!(out.to_vec::<f32>()?, [1.0, 2.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn scaled_dot_product_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: Mask<'_>,
) -> Result<Array> {
    if let Mask::From(first) = mask {
        check_first(first, q, k)?;
    }
    if !is_active()? || !suits(q, k, v, &mask) {
        let options = ScaledDotProductAttentionOptions::default();
        let visible;
        let options = match mask {
            Mask::None => options,
            Mask::Causal => options.mask_mode("causal"),
            Mask::From(first) => {
                visible = ops::expand_dims(&visible_from(first, k.dim(2)?)?, 1)?; // (B, 1, T, S)
                options.mask(&visible)
            }
            Mask::Array(array) => options.mask(array),
        };
        return fast::scaled_dot_product_attention(q, k, v, scale, &options);
    }
    let primitive = Attention { scale, causal: is_causal(&mask) };
    let mask = match mask {
        Mask::From(first) => Some(ops::broadcast_to(first, &[q.dim(0)?, q.dim(2)?])?),
        Mask::Array(mask) => {
            let shape = [q.dim(0)?, q.dim(1)?, q.dim(2)?, k.dim(2)?];
            let mask = match mask.dtype() {
                Dtype::Bool => mask.clone(),
                _ => ops::astype(mask, Dtype::Float32)?,
            };
            Some(ops::broadcast_to(&mask, &shape)?)
        }
        _ => None,
    };
    let inputs: Vec<&Array> = [q, k, v].into_iter().chain(&mask).collect();
    heads_first(&apply(primitive, &inputs)?[0])
}

/// Whether no query sees a later key.
fn is_causal(mask: &Mask<'_>) -> bool {
    matches!(mask, Mask::Causal | Mask::From(_))
}

/// Checks the first keys that queries see.
fn check_first(first: &Array, q: &Array, k: &Array) -> Result<()> {
    let ([b, _, t, _], [_, _, s, _]) = (q.shape(), k.shape()) else { return Ok(()) };
    let fits = matches!(first.shape(), [rows, queries] if [1, *b].contains(rows) && queries == t);
    if fits && t <= s && first.dtype() == Dtype::Int32 {
        return Ok(());
    }
    Err(Error::invalid_argument(
        Attention::NAME,
        format!(
            "the first keys of {t} queries in {b} rows with {s} keys are {:?} of shape {:?}; wanted \
             int32 of shape [{b}, {t}] or [1, {t}], and not fewer keys than queries",
            first.dtype(),
            first.shape()
        ),
    ))
}

/// Where queries see keys by [`Mask::From`]: int32 `(B, T)` to boolean `(B, T, S)`, the queries
/// being the last of `keys` positions.
///
/// # Errors
/// Those of MLX's operations: `first` is a scalar, or no array of numbers.
///
/// ```
/// use mlx_graft::Array;
///
/// let seen = graft_kernels::visible_from(&Array::from_slice(&[0, 1], &[1, 2])?, 3)?;
/// assert_eq!(seen.to_vec::<bool>()?, [true, true, false, false, true, true]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn visible_from(first: &Array, keys: i32) -> Result<Array> {
    let queries = first.dim(-1)?;
    let range = |from: i32, to: i32| ops::arange(f64::from(from), f64::from(to), 1.0, Dtype::Int32);
    let (own, keys) = (range(keys - queries, keys)?, range(0, keys)?);
    let first = ops::expand_dims(&ops::minimum(first, &own)?, -1)?; // (B, T, 1)
    ops::logical_and(
        &ops::greater_equal(&keys, &first)?,
        &ops::less_equal(&keys, &ops::expand_dims(&own, -1)?)?,
    )
}

/// Whether the kernel computes the attention of these arrays.
fn suits(q: &Array, k: &Array, v: &Array, mask: &Mask<'_>) -> bool {
    let shapes = shapes_fit([q, k, v].map(Array::shape), is_causal(mask));
    let mask = match mask {
        Mask::Array(mask) if shapes => {
            let full = [q.shape()[0], q.shape()[1], q.shape()[2], k.shape()[2]];
            let fits = |(&length, &full): (&i32, &i32)| length == 1 || length == full;
            mask.ndim() <= 4
                && mask.shape().iter().rev().zip(full.iter().rev()).all(fits)
                && (mask.dtype() == Dtype::Bool || mask.dtype() == q.dtype())
        }
        _ => true,
    };
    let dtypes = floats::is_known(q) && q.dtype() == k.dtype() && q.dtype() == v.dtype();
    shapes && mask && dtypes
}

/// Whether queries, keys and values have shapes of attention, none of them empty.
fn shapes_fit([q, k, v]: [&[i32]; 3], causal: bool) -> bool {
    let (&[b, h, t, d], &[b_k, groups, s, d_k], &[b_v, groups_v, s_v, e]) = (q, k, v) else {
        return false;
    };
    (b, d, groups, s) == (b_k, d_k, groups_v, s_v)
        && b == b_v
        && [b, h, t, d, groups, s, e].iter().all(|&length| length > 0)
        && h % groups == 0
        && (!causal || t <= s)
}

/// Exchanges heads and positions: the kernels write `(B, T, H, D)`, which is how the layers around
/// attention have it.
fn heads_first(x: &Array) -> Result<Array> {
    ops::transpose_axes(x, &[0, 2, 1, 3])
}

/// The attention `(B, T, H, E)`, and for each query what the derivative needs: `(B, T, H, 2)`, the
/// highest score, and the inverse of the sum of exponentials relative to it.
#[derive(Clone, Copy, PartialEq)]
struct Attention {
    scale: f32,
    causal: bool,
}

/// The derivatives `(B, T, H, D)`, `(B, S, K, D)`, `(B, S, K, E)` with respect to queries, keys and
/// values, of those, the outputs of [`Attention`], the cotangent of the first, and the mask.
#[derive(Clone, Copy, PartialEq)]
struct AttentionGrad(Attention);

impl Attention {
    /// The same from MLX's operations and the other kernels: `(B, T, H, E)`.
    fn composed(self, inputs: &[Array]) -> Result<Array> {
        let [q, k, v, mask @ ..] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs queries, keys and values"));
        };
        let weights = softmax(&self.scores(q, k, mask)?)?; // (B, K, R, T, S)
        let out = matmul(&weights, &ops::expand_dims(v, 2)?)?; // (B, K, R, T, E)
        heads_first(&ops::flatten(&out, 1, 2)?)
    }

    /// The masked scores, `(B, K, R, T, S)` with `R` queries for each key.
    fn scores(self, q: &Array, k: &Array, mask: &[Array]) -> Result<Array> {
        let (groups, queries, keys) = (k.dim(1)?, q.dim(2)?, k.dim(2)?);
        let split = |x: &Array| ops::unflatten(x, 1, &[groups, -1]);
        let scale = ops::astype(&Array::scalar(self.scale)?, q.dtype())?;
        let k = ops::expand_dims(&ops::swapaxes(k, -1, -2)?, 2)?; // (B, K, 1, D, S)
        let scores = matmul(&split(&ops::multiply(q, &scale)?)?, &k)?;
        // The lowest number of the dtype: with infinities, a query that sees nothing would give NaN.
        let lowest = match q.dtype() {
            Dtype::Bfloat16 => f32::from(bf16::MIN),
            Dtype::Float16 => f32::from(f16::MIN),
            _ => f32::MIN,
        };
        let hidden = || ops::astype(&Array::scalar(lowest)?, q.dtype());
        match mask {
            [mask] if mask.dtype() == Dtype::Bool => {
                ops::where_(&split(mask)?, &scores, &hidden()?)
            }
            [first] if first.dtype() == Dtype::Int32 => {
                let visible = ops::expand_dims_axes(&visible_from(first, keys)?, &[1, 2])?;
                ops::where_(&visible, &scores, &hidden()?)
            }
            [mask] => ops::add(&scores, &ops::astype(&split(mask)?, scores.dtype())?),
            _ if self.causal => {
                let visible = ops::tri(queries, keys, keys - queries, Dtype::Bool)?;
                ops::where_(&visible, &scores, &hidden()?)
            }
            _ => Ok(scores),
        }
    }
}

/// Computes with numbers of the inputs' dtype.
macro_rules! with_heads {
    ($inputs:expr, $mask:expr, $attention:expr, $method:ident, $($argument:expr),*) => {
        match $inputs[0].dtype() {
            Dtype::Bfloat16 => Heads::<bf16>::new($inputs, $mask, $attention)?.$method($($argument),*),
            Dtype::Float16 => Heads::<f16>::new($inputs, $mask, $attention)?.$method($($argument),*),
            _ => Heads::<f32>::new($inputs, $mask, $attention)?.$method($($argument),*),
        }
    };
}

impl Primitive for Attention {
    const NAME: &'static str = "scaled_dot_product_attention";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let shapes = [0, 1, 2].map(|i| &*inputs[i].shape);
        if !shapes_fit(shapes, self.causal) {
            let [q, k, v] = shapes;
            return Err(Error::invalid_argument(
                Self::NAME,
                format!("queries {q:?}, keys {k:?} and values {v:?} do not fit"),
            ));
        }
        let [q, _, v] = shapes;
        let out = ArraySpec::new([q[0], q[2], q[1], v[3]], inputs[0].dtype);
        Ok(vec![out, ArraySpec::new([q[0], q[2], q[1], 2], Dtype::Float32)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        with_heads!(&inputs[..3], inputs.get(3), *self, forward, outputs)
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let (qkv, mask) = primals.split_at(3);
        let known = [&outputs[0], &outputs[1], &cotangents[0]];
        let inputs: Vec<&Array> = qkv.iter().chain(known).chain(mask).collect();
        let gradients = apply(AttentionGrad(*self), &inputs)?;
        let this = *self;
        let with_respect_to = |&arg: &usize| match (gradients.get(arg), &primals[arg]) {
            (Some(gradient), _) => heads_first(gradient),
            (None, mask) if matches!(mask.dtype(), Dtype::Bool | Dtype::Int32) => {
                ops::zeros_like(mask)
            }
            (None, _) => {
                // Numbers that are added to the scores are seldom trained: their derivative may
                // hold all scores.
                let of_all = move |inputs: &[Array]| this.composed(inputs).map(|out| vec![out]);
                Ok(derivatives::vjp(of_all, primals, &cotangents[..1], &[arg])?.remove(0))
            }
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let this = *self;
        let of_all = move |inputs: &[Array]| this.composed(inputs).map(|out| vec![out]);
        let tangent = derivatives::jvp(of_all, primals, tangents, argnums)?.remove(0);
        let shape = [&tangent.shape()[..3], &[2]].concat();
        Ok(vec![tangent, ops::zeros(&shape, Dtype::Float32)?])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        into_batch(*self, inputs, axes)
    }

    fn layout(&self, _input: usize) -> Layout {
        Layout::Strided
    }
}

impl Composed for AttentionGrad {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        // What the first pass left depends on queries, keys and values, and is computed again.
        let (of_inputs, cotangent, mask) = (self.0, &inputs[5], &inputs[6..]);
        let of_all = move |inputs: &[Array]| of_inputs.composed(inputs).map(|out| vec![out]);
        let primals = [&inputs[..3], mask].concat();
        let cotangents = std::slice::from_ref(cotangent);
        let gradients = derivatives::vjp(of_all, &primals, cotangents, &[0, 1, 2])?;
        gradients.iter().map(heads_first).collect()
    }
}

impl Primitive for AttentionGrad {
    const NAME: &'static str = "scaled_dot_product_attention_grad";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let gradient = |input: &ArraySpec| match *input.shape {
            [b, h, t, d] => Ok(ArraySpec::new([b, t, h, d], input.dtype)),
            _ => Err(Error::invalid_argument(Self::NAME, "needs arrays of four dimensions")),
        };
        inputs[..3].iter().map(gradient).collect()
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let known = &inputs[3..6];
        with_heads!(&inputs[..3], inputs.get(6), self.0, backward, known, outputs)
    }

    of_composed!();

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        into_batch(*self, inputs, axes)
    }

    fn layout(&self, _input: usize) -> Layout {
        Layout::Strided
    }
}

/// Vectorizes over one more dimension, which becomes part of the batch.
fn into_batch<P: Primitive + Copy>(
    primitive: P,
    inputs: &[Array],
    axes: &[Option<i32>],
) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
    rows::vmap(inputs, axes, |inputs| {
        let [length, batch] = [inputs[0].dim(0)?, inputs[0].dim(1)?];
        if length == 0 {
            // Which is a batch of nothing, and no attention.
            let one = |x: &&Array| ArraySpec::new(&x.shape()[1..], x.dtype());
            let specs = primitive.output_specs(&inputs.iter().map(one).collect::<Vec<_>>())?;
            let none = |spec: &ArraySpec| ops::zeros(&[&[0], &*spec.shape].concat(), spec.dtype);
            return specs.iter().map(none).collect();
        }
        let flat = inputs.iter().map(|x| ops::flatten(x, 0, 1)).collect::<Result<Vec<_>>>()?;
        let outputs = apply(primitive, &flat.iter().collect::<Vec<_>>())?;
        outputs.iter().map(|x| ops::unflatten(x, 0, &[length, batch])).collect()
    })
}
