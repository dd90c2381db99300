//! Attention to the keys and values of a cache, with what a decoder does before and behind it.

use half::{bf16, f16};
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, Strided, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, ops, transforms};

use super::heads::Heads;
use super::{Attention, Mask, scaled_dot_product_attention};
use crate::derivatives::{self, Composed, of_composed};
use crate::floats::{self, Float};
use crate::is_active;
use crate::rope::{self, Rope, Table, split};

/// Queries, keys and values as the layers of a decoder compute them, `(B, T, heads * dims)` each.
#[derive(Debug, Clone, Copy)]
pub struct Projections<'a> {
    /// The queries, `(B, T, H * D)`.
    pub queries: &'a Array,
    /// The keys, `(B, T, K * D)`.
    pub keys: &'a Array,
    /// The values, `(B, T, K * E)`.
    pub values: &'a Array,
    /// `H`, a multiple of `K`.
    pub heads: i32,
    /// `K`.
    pub kv_heads: i32,
}

/// What [`cached_attention`] returns.
#[derive(Debug)]
pub struct Attended {
    /// `(B, T, H * E)`.
    pub out: Array,
    /// The cache with the new keys, `(B, K, S, D)`.
    pub keys: Array,
    /// The cache with the new values, `(B, K, S, E)`.
    pub values: Array,
}

/// Rotates queries and keys by their positions ([`rope`](crate::rope)), writes keys and values into
/// a cache, and attends to what it holds by then, each query to its own position and those before.
///
/// The cache is `keys`, `(B, K, S, D)`, and `values`, `(B, K, S, E)`. The `T` new positions begin at
/// `rotation.offset`, which is how many positions it holds, and there is room for them in `S`. The
/// arrays of a cache that nobody else holds are written in place.
///
/// Where [`scaled_dot_product_attention`](crate::scaled_dot_product_attention) and
/// [`rope_heads`](crate::rope_heads) are computed by kernels, this is one operation instead of eleven:
/// for a token of generation, to schedule one takes about as long as to compute it. All others run
/// through MLX's own operations.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](mlx_graft::ErrorKind::InvalidArgument) for shapes that do not fit,
/// or too little room; those of MLX's operations.
///
/// ```
/// use graft_kernels::{Projections, Rope, cached_attention};
/// use mlx_graft::{Array, Dtype, ops};
///
/// let keys = ops::zeros(&[1, 1, 4, 2], Dtype::Float32)?;
/// let values = ops::zeros(&[1, 1, 4, 1], Dtype::Float32)?;
/// let x = ops::zeros(&[1, 2, 2], Dtype::Float32)?;
/// let v = Array::from_slice(&[1.0_f32, 3.0], &[1, 2, 1])?;
/// let new = Projections { queries: &x, keys: &x, values: &v, heads: 1, kv_heads: 1 };
/// let rotation = Rope { dims: 2, traditional: false, base: Some(1e4), scale: 1.0, offset: 0 };
/// let attended = cached_attention(new, (&keys, &values), rotation, None, 1.0)?;
/// assert_eq!(attended.out.to_vec::<f32>()?, [1.0, 2.0]);
/// assert_eq!(attended.values.to_vec::<f32>()?, [1.0, 3.0, 0.0, 0.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn cached_attention(
    new: Projections<'_>,
    (keys, values): (&Array, &Array),
    rotation: Rope,
    freqs: Option<&Array>,
    scale: f32,
) -> Result<Attended> {
    let Projections { heads, kv_heads, .. } = new;
    let primitive = CachedAttention { rotation, heads, kv_heads, scale };
    let inputs = [new.queries, new.keys, new.values, keys, values];
    let inputs: Vec<&Array> = inputs.into_iter().chain(freqs).collect();
    let sizes = primitive.checked_sizes([0, 1, 2, 3, 4].map(|i| inputs[i].shape()))?;
    let suits = inputs[..5].iter().all(|x| floats::is_known(x) && x.dtype() == keys.dtype())
        && rotation.suits(keys, sizes.dim as i32, freqs);
    let outputs = if suits && is_active()? {
        apply(primitive, &inputs)?
    } else {
        let inputs: Vec<Array> = inputs.into_iter().cloned().collect();
        primitive.composed(&inputs)?
    };
    let Ok([out, keys, values]) = <[Array; 3]>::try_from(outputs) else {
        unreachable!("three outputs");
    };
    Ok(Attended { out, keys, values })
}

/// The attention, and the cache, of [`Projections`], the cache and the frequencies if there are some.
#[derive(Clone, Copy, PartialEq)]
struct CachedAttention {
    rotation: Rope,
    heads: i32,
    kv_heads: i32,
    scale: f32,
}

/// The lengths of the inputs.
struct Sizes {
    batch: usize,
    /// New positions.
    length: usize,
    /// Positions that the cache holds with the new ones.
    held: usize,
    /// Positions that the cache has room for.
    room: usize,
    heads: usize,
    groups: usize,
    dim: usize,
    value_dim: usize,
}

impl CachedAttention {
    /// The lengths, if the shapes fit and none is empty.
    fn sizes(self, [q, k, v, keys, values]: [&[i32]; 5]) -> Option<Sizes> {
        let (&[batch, groups, room, dim], &[.., value_dim]) = (keys, values) else { return None };
        let &[_, length, _] = q else { return None };
        let (heads, held) = (self.heads, self.rotation.offset.checked_add(length)?);
        let fits = q == [batch, length, heads.checked_mul(dim)?]
            && k == [batch, length, groups.checked_mul(dim)?]
            && v == [batch, length, groups.checked_mul(value_dim)?]
            && values == [batch, groups, room, value_dim]
            && [batch, length, groups, dim, value_dim, heads].iter().all(|&n| n > 0)
            && groups == self.kv_heads
            && heads % groups == 0
            && self.rotation.offset >= 0
            && held <= room;
        let [batch, length, held, room, heads, groups, dim, value_dim] =
            [batch, length, held, room, heads, groups, dim, value_dim].map(|n| n as usize);
        fits.then_some(Sizes { batch, length, held, room, heads, groups, dim, value_dim })
    }

    /// [`sizes`](Self::sizes), or what does not fit.
    fn checked_sizes(self, shapes: [&[i32]; 5]) -> Result<Sizes> {
        self.sizes(shapes).ok_or_else(|| {
            let [q, k, v, keys, values] = shapes;
            let Self { rotation, heads, kv_heads, .. } = self;
            let text = format!(
                "{heads} heads of queries {q:?} and {kv_heads} of keys {k:?} and values {v:?} do not \
                 fit behind {} positions of a cache of {keys:?} and {values:?}",
                rotation.offset
            );
            Error::invalid_argument(Self::NAME, text)
        })
    }

    fn compute<T: Float>(
        self,
        inputs: &[InputBuffer<'_>],
        sizes: &Sizes,
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let &Sizes { batch, length, held, room, heads, groups, dim, value_dim } = sizes;
        let [out, keys, values] = outputs else {
            return Err(KernelError::new("there are three outputs"));
        };
        let (keys, values) = (keys.as_updated_slice::<T>()?, values.as_updated_slice::<T>()?);
        let freqs = inputs.get(5).map(InputBuffer::as_slice::<f32>).transpose()?;
        let table = Table::for_rotation(self.rotation, freqs, length);
        let mut queries = vec![T::round(0.0); batch * heads * length * dim];
        table.rotate_heads(&inputs[0].strided::<T>()?, heads, &mut queries, 0);
        table.rotate_heads(&inputs[1].strided::<T>()?, groups, keys, held - length);
        rope::split_heads(&inputs[2].strided::<T>()?, groups, values, held - length);

        // The first positions of those that there is room for.
        let layout = |heads: usize, length: usize, room: usize, dim: usize| {
            let strides = [heads * room * dim, room * dim, dim, 1].map(|stride| stride as i64);
            ([batch, heads, length, dim].map(|length| length as i32), strides)
        };
        let (q_shape, q_strides) = layout(heads, length, length, dim);
        let (k_shape, k_strides) = layout(groups, held, room, dim);
        let (v_shape, v_strides) = layout(groups, held, room, value_dim);
        let inputs = Heads::of(
            Strided::new(&queries, &q_shape, &q_strides),
            Strided::new(keys, &k_shape, &k_strides),
            Strided::new(values, &v_shape, &v_strides),
            Attention { scale: self.scale, causal: true },
        );
        inputs.attend(out)
    }
}

impl Composed for CachedAttention {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let [q, k, v, keys, values, freqs @ ..] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs five arrays or six"));
        };
        let (groups, freqs) = (self.kv_heads, freqs.first());
        let q = rope::rope_heads(q, self.heads, self.rotation, freqs)?;
        let k = rope::rope_heads(k, groups, self.rotation, freqs)?;
        let v = split(v, groups)?;
        let (start, held) = (self.rotation.offset, self.rotation.offset + q.dim(2)?);
        let write = |cache: &Array, new: &Array| -> Result<[Array; 2]> {
            let mut stop = cache.shape().to_vec();
            stop[2] = held;
            let ones = [1; 4];
            let cache = ops::slice_update(cache, new, &[0, 0, start, 0], &stop, &ones)?;
            Ok([ops::slice(&cache, &[0; 4], &stop, &ones)?, cache])
        };
        let ([k, keys], [v, values]) = (write(keys, &k)?, write(values, &v)?);
        // As mlx-lm: one query sees all there is.
        let mask = if q.dim(2)? == 1 { Mask::None } else { Mask::Causal };
        let out = scaled_dot_product_attention(&q, &k, &v, self.scale, mask)?;
        let out = ops::flatten(&ops::swapaxes(&out, 1, 2)?, 2, 3)?; // (B, T, H * E)
        Ok(vec![out, keys, values])
    }
}

impl Primitive for CachedAttention {
    const NAME: &'static str = "cached_attention";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let sizes = self.checked_sizes([0, 1, 2, 3, 4].map(|i| &*inputs[i].shape))?;
        let out = [sizes.batch, sizes.length, sizes.heads * sizes.value_dim].map(|n| n as i32);
        let out = ArraySpec::new(out, inputs[0].dtype);
        Ok(vec![out, inputs[3].clone(), inputs[4].clone()])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let caches = [1, 2].map(|i| outputs[i].shape());
        let new = [0, 1, 2].map(|i| inputs[i].shape());
        let sizes = self.sizes([new[0], new[1], new[2], caches[0], caches[1]]);
        let sizes = sizes.ok_or_else(|| KernelError::new("the shapes do not fit"))?;
        match inputs[0].dtype() {
            Dtype::Bfloat16 => self.compute::<bf16>(inputs, &sizes, outputs),
            Dtype::Float16 => self.compute::<f16>(inputs, &sizes, outputs),
            _ => self.compute::<f32>(inputs, &sizes, outputs),
        }
    }

    of_composed!();

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let outputs = transforms::vmap(derivatives::of(*self), inputs, axes, &[Some(0); 3])?;
        Ok((outputs, vec![Some(0); 3]))
    }

    fn updates(&self, output: usize) -> Option<usize> {
        // The cache, behind the attention and the projections.
        (output > 0).then_some(output + 2)
    }

    fn layout(&self, input: usize) -> Layout {
        if input < 3 { Layout::Strided } else { Layout::RowContiguous }
    }
}
