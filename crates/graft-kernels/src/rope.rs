//! Rotary position embedding.
#![allow(clippy::inline_always)] // see `lanes`

use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use mlx_graft::fast::RopeOptions;
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, Strided, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, fast, ops, transforms};
use pulp::{Simd, WithSimd};

use crate::derivatives::{self, Composed};
use crate::floats::{self, Float};
use crate::is_active;
use crate::isa;
use crate::matmul::matrix::Matrix;
use crate::prefetch::prefetch_far_row;
use crate::rows::{self, RowKernel, Scratch};
use crate::tasks;

/// Positions that are computed at once, if the length is a multiple: one alone is short.
const AT_ONCE: usize = 32;

/// Positions by which asking for the features of a head runs ahead.
const AHEAD: usize = 4;

/// Features below which a second thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 15;

/// How the features of a position are rotated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// The features that are rotated; those behind stay as they are.
    pub dims: i32,
    /// Whether neighbours are rotated instead of the two halves.
    pub traditional: bool,
    /// The base of the angles, if no frequencies are given.
    pub base: Option<f32>,
    /// The factor of the positions.
    pub scale: f32,
    /// The position of the first.
    pub offset: i32,
}

/// Rotates pairs of features by angles that grow with the position, as `mlx.core.fast.rope` (Su et
/// al., 2021).
///
/// `x` is `(…, T, D)`. `freqs`, of shape `(dims / 2,)`, are wavelengths over 2π in the place of
/// powers of the base.
///
/// `float32`, `bfloat16` and `float16` arrays of four dimensions are rotated here on the CPU, by
/// angles computed in `float64`, of which the last four tables are kept: the layers of a model have
/// one or two. All others run through MLX's own operation.
///
/// # Errors
/// Those of `mlx.core.fast.rope`: shapes that do not fit, neither a base nor frequencies or both.
///
/// ```
/// use graft_kernels::{Rope, rope};
/// use mlx_graft::Array;
///
/// let rotation = Rope { dims: 2, traditional: false, base: Some(1e4), scale: 1.0, offset: 0 };
/// let x = Array::from_slice(&[1.0_f32, 0.0, 1.0, 0.0], &[1, 1, 2, 2])?;
/// let y = rope(&x, rotation, None)?.to_vec::<f32>()?;
/// assert_eq!(y, [1.0, 0.0, 1.0_f32.cos(), 1.0_f32.sin()]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn rope(x: &Array, rope: Rope, freqs: Option<&Array>) -> Result<Array> {
    let suits = matches!(*x.shape(), [_, _, _, features] if rope.suits(x, features, freqs));
    if !suits || !is_active()? {
        let Rope { dims, traditional, base, scale, offset } = rope;
        let options = RopeOptions::default().traditional(traditional).base(base).scale(scale);
        return fast::rope(x, dims, offset, &options.freqs(freqs));
    }
    rotate(Rotation { rope, inverse: false, heads: Heads::Apart }, x, freqs)
}

/// Splits the features of each position into `heads` and rotates each by [`rope`]: `(B, T, H * D)` to
/// `(B, H, T, D)`, as language models do with queries and keys.
///
/// # Errors
/// Those of [`rope`], and features that are no multiple of the heads.
///
/// ```
/// use graft_kernels::{Rope, rope_heads};
/// use mlx_graft::Array;
///
/// let rotation = Rope { dims: 2, traditional: false, base: Some(1e4), scale: 1.0, offset: 0 };
/// let x = Array::from_slice(&[1.0_f32, 0.0, 2.0, 0.0, 1.0, 0.0, 2.0, 0.0], &[1, 2, 4])?;
/// let y = rope_heads(&x, 2, rotation, None)?;
/// assert_eq!(y.shape(), [1, 2, 2, 2]);
/// let (cos, sin) = (1.0_f32.cos(), 1.0_f32.sin());
/// assert_eq!(y.to_vec::<f32>()?, [1.0, 0.0, cos, sin, 2.0, 0.0, 2.0 * cos, 2.0 * sin]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn rope_heads(x: &Array, heads: i32, rope: Rope, freqs: Option<&Array>) -> Result<Array> {
    let suits = match *x.shape() {
        [_, _, features] if heads > 0 && features % heads == 0 => {
            rope.suits(x, features / heads, freqs)
        }
        _ => false,
    };
    if suits && is_active()? {
        return rotate(Rotation { rope, inverse: false, heads: Heads::Split(heads) }, x, freqs);
    }
    self::rope(&split(x, heads)?, rope, freqs)
}

/// `(B, T, H * D)` as `(B, H, T, D)`.
pub(crate) fn split(x: &Array, heads: i32) -> Result<Array> {
    ops::swapaxes(&ops::unflatten(x, -1, &[heads, -1])?, -2, -3)
}

impl Rope {
    /// Whether the kernel rotates `features` of `x`.
    pub(crate) fn suits(&self, x: &Array, features: i32, freqs: Option<&Array>) -> bool {
        let is_table = |f: &Array| f.shape() == [self.dims / 2] && f.dtype() == Dtype::Float32;
        floats::is_known(x)
            && self.dims > 0
            && self.dims % 2 == 0
            && self.dims <= features
            && self.base.is_some() != freqs.is_some()
            && freqs.is_none_or(is_table)
    }
}

/// Adds a [`Rotation`] to the graph.
fn rotate(rotation: Rotation, x: &Array, freqs: Option<&Array>) -> Result<Array> {
    let inputs: Vec<&Array> = [x].into_iter().chain(freqs).collect();
    Ok(apply(rotation, &inputs)?.remove(0))
}

/// The rotation of an array by the frequencies of another, if there is one; or back.
#[derive(Clone, Copy, PartialEq)]
struct Rotation {
    rope: Rope,
    inverse: bool,
    heads: Heads,
}

/// How the heads of an array lie, and those of its rotation.
#[derive(Clone, Copy, PartialEq)]
enum Heads {
    /// Both are `(B, H, T, D)`.
    Apart,
    /// `(B, T, H * D)`, of so many heads, becomes `(B, H, T, D)`.
    Split(i32),
    /// `(B, H, T, D)` becomes `(B, T, H * D)`.
    Join,
}

/// What decides the angles.
#[derive(Clone, PartialEq)]
struct Angles {
    rope: Rope,
    freqs: Option<Vec<f32>>,
    length: usize,
}

/// Cosines and sines of the angles of each position, `dims / 2` of either.
pub(crate) struct Table {
    angles: Angles,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// Tables that are kept.
const KEPT: usize = 4;

/// The last tables, the oldest first: all layers of a model use the same, or those of two bases.
static LAST: Mutex<Vec<Arc<Table>>> = Mutex::new(Vec::new());

impl Table {
    /// The angles of `length` positions.
    pub(crate) fn for_rotation(rope: Rope, freqs: Option<&[f32]>, length: usize) -> Arc<Self> {
        Self::of(Angles { rope, freqs: freqs.map(<[f32]>::to_vec), length })
    }

    fn of(angles: Angles) -> Arc<Self> {
        let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = last().iter().find(|table| table.angles == angles) {
            return Arc::clone(table);
        }
        let table = Arc::new(Self::new(angles));
        let mut last = last();
        let before = (last.len() + 1).saturating_sub(KEPT);
        last.drain(..before);
        last.push(Arc::clone(&table));
        table
    }

    fn new(angles: Angles) -> Self {
        let Rope { dims, base, scale, offset, .. } = angles.rope;
        let speeds: Vec<f64> = match (&angles.freqs, base) {
            (Some(freqs), _) => freqs.iter().map(|&freq| 1.0 / f64::from(freq)).collect(),
            (None, base) => {
                let base = f64::from(base.unwrap_or(1.0));
                (0..dims / 2).map(|i| base.powf(-f64::from(2 * i) / f64::from(dims))).collect()
            }
        };
        let position = |t: usize| (f64::from(offset) + t as f64) * f64::from(scale);
        let (cosines, sines) = (0..angles.length)
            .flat_map(|t| speeds.iter().map(move |speed| position(t) * speed))
            .map(|angle| (angle.cos() as f32, angle.sin() as f32))
            .unzip();
        Self { angles, cosines, sines }
    }

    /// Rotates each head of `x`, `(B, T, H * D)`, into row `first` and those that follow of its part of
    /// `out`, of which each head of each batch has the same.
    pub(crate) fn rotate_heads<T: Float>(
        &self,
        x: &Strided<'_, T>,
        heads: usize,
        out: &mut [T],
        first: usize,
    ) {
        each_head(x, heads, out, first, |head, out| {
            isa::arch().dispatch(RotateHead { table: self, head, out });
        });
    }

    /// Rotates the features of position `t`, or turns them back.
    #[inline(always)]
    fn position(&self, t: usize, inverse: bool, x: &[f32], y: &mut [f32]) {
        let Rope { dims, traditional, .. } = self.angles.rope;
        let dims = dims as usize;
        let half = dims / 2;
        let (cosines, sines) = (&self.cosines[t * half..], &self.sines[t * half..]);
        let (cosines, sines) = (&cosines[..half], &sines[..half]);
        let sign = if inverse { -1.0 } else { 1.0 };
        if traditional {
            let pairs = y[..dims].chunks_exact_mut(2).zip(x[..dims].chunks_exact(2));
            for ((y, x), (&cos, &sin)) in pairs.zip(cosines.iter().zip(sines)) {
                let sin = sign * sin;
                y[0] = x[0] * cos - x[1] * sin;
                y[1] = x[0] * sin + x[1] * cos;
            }
        } else {
            let (y_1, y_2) = y[..dims].split_at_mut(half);
            let (x_1, x_2) = x[..dims].split_at(half);
            let numbers = x_1.iter().zip(x_2).zip(cosines.iter().zip(sines));
            for ((y_1, y_2), ((&x_1, &x_2), (&cos, &sin))) in y_1.iter_mut().zip(y_2).zip(numbers) {
                let sin = sign * sin;
                *y_1 = x_1 * cos - x_2 * sin;
                *y_2 = x_1 * sin + x_2 * cos;
            }
        }
        y[dims..].copy_from_slice(&x[dims..]);
    }
}

/// Writes each head of `x` as [`Table::rotate_heads`] does, as it is.
pub(crate) fn split_heads<T: Float>(x: &Strided<'_, T>, heads: usize, out: &mut [T], first: usize) {
    each_head(x, heads, out, first, |head, out| {
        for (t, out) in out.chunks_exact_mut(head.columns).enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                *out = head.get(t, i);
            }
        }
    });
}

/// Calls `write` with each head of `x`, `(B, T, H * D)`, and as many rows of its part of `out` from
/// number `first` on.
fn each_head<'a, T: Float>(
    x: &Strided<'a, T>,
    heads: usize,
    out: &mut [T],
    first: usize,
    write: impl Fn(Matrix<'a, T>, &mut [T]) + Sync,
) {
    let &[batch, length, features] = x.shape() else { panic!("three dimensions") };
    let (batch, length, features) = (batch as usize, length as usize, features as usize / heads);
    let part = out.len() / (batch * heads);
    let parallel = batch * length * heads * features >= PARALLEL_FROM;
    tasks::for_each_chunk(out, part, parallel, |i, out| {
        let head = Matrix::of(x, &[i / heads]).columns(i % heads * features, features);
        write(head, &mut out[first * features..][..length * features]);
    });
}

/// The rotation of all positions of a head.
struct RotateHead<'a, 'b, T> {
    table: &'a Table,
    head: Matrix<'b, T>,
    out: &'a mut [T],
}

impl<T: Float> WithSimd for RotateHead<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let features = self.head.columns;
        let (mut x, mut y) = (vec![0.0; features], vec![0.0; features]);
        for (t, out) in self.out.chunks_exact_mut(features).enumerate() {
            self.head.widen_row(t, &mut x);
            self.table.position(t, false, &x, &mut y);
            for (out, &y) in out.iter_mut().zip(&y) {
                *out = T::round(y);
            }
        }
    }
}

struct Forward<'a, T> {
    x: Strided<'a, T>,
    table: &'a Table,
    rotation: Rotation,
    /// The lengths of `(B, H, T, D)`.
    shape: [usize; 4],
    /// Consecutive positions of a head that are computed at once, a divisor of the length; or the
    /// heads of a position, if they are joined.
    at_once: usize,
}

impl<'a, T: Float> Forward<'a, T> {
    /// The features of all positions of a head, `(T, D)`.
    #[inline(always)]
    fn head(&self, index: usize) -> Matrix<'a, T> {
        let [_, heads, _, features] = self.shape;
        let (batch, head) = (index / heads, index % heads);
        match self.rotation.heads {
            Heads::Split(_) => Matrix::of(&self.x, &[batch]).columns(head * features, features),
            Heads::Apart | Heads::Join => Matrix::of(&self.x, &[batch, head]),
        }
    }
}

impl<T: Float> RowKernel<1> for Forward<'_, T> {
    #[inline(always)]
    fn row<S: Simd>(&self, _simd: S, index: usize, [x, ..]: &mut Scratch, [y]: [&mut [f32]; 1]) {
        let [_, _, length, features] = self.shape;
        let first = index * self.at_once;
        x.resize(features, 0.0);
        if self.rotation.heads == Heads::Join {
            let (head, t) = (index / length * self.at_once, index % length);
            for (i, y) in y.chunks_exact_mut(features).enumerate() {
                self.head(head + i).widen_row(t, x);
                self.table.position(t, self.rotation.inverse, x, y);
            }
        } else {
            let (head, t) = (self.head(first / length), first % length);
            for (i, y) in y.chunks_exact_mut(features).enumerate() {
                if t + i + AHEAD < length && head.has_dense_rows() {
                    prefetch_far_row(head.dense_row(t + i + AHEAD));
                }
                head.widen_row(t + i, x);
                self.table.position(t + i, self.rotation.inverse, x, y);
            }
        }
    }
}

impl Rotation {
    /// `(B, H, T, D)` of an input of this shape.
    ///
    /// # Panics
    /// If it has another number of dimensions.
    fn shape(self, shape: &[i32]) -> [i32; 4] {
        match (self.heads, shape) {
            (Heads::Split(heads), &[batch, length, features]) => {
                [batch, heads, length, features / heads]
            }
            (Heads::Apart | Heads::Join, &[batch, heads, length, features]) => {
                [batch, heads, length, features]
            }
            _ => panic!("a rotation of an array of shape {shape:?}"),
        }
    }

    /// Rotates numbers of one dtype.
    fn compute<T: Float>(
        self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let [batch, heads, length, features] = self.shape(inputs[0].shape()).map(|n| n as usize);
        let freqs = inputs.get(1).map(InputBuffer::as_slice::<f32>).transpose()?;
        let table = Table::for_rotation(self.rope, freqs, length);
        let at_once = match self.heads {
            Heads::Join => heads,
            _ => AT_ONCE.min(1 << length.max(1).trailing_zeros()),
        };
        let x = inputs[0].strided()?;
        let shape = [batch, heads, length, features];
        let kernel = Forward::<T> { x, table: &table, rotation: self, shape, at_once };
        rows::compute_last_axis(&kernel, outputs, at_once * features)
    }
}

impl Composed for Rotation {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let x = match self.heads {
            Heads::Split(heads) => split(&inputs[0], heads)?,
            Heads::Apart | Heads::Join => inputs[0].clone(),
        };
        let Rope { dims, traditional, base, scale, offset } = self.rope;
        // Positions that go the other way turn back.
        let scale = if self.inverse { -scale } else { scale };
        let options = RopeOptions::default().traditional(traditional).base(base).scale(scale);
        let y = fast::rope(&x, dims, offset, &options.freqs(inputs.get(1)))?;
        Ok(vec![match self.heads {
            Heads::Join => ops::flatten(&ops::swapaxes(&y, -2, -3)?, -2, -1)?,
            Heads::Apart | Heads::Split(_) => y,
        }])
    }
}

impl Primitive for Rotation {
    const NAME: &'static str = "rope";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let x = &inputs[0];
        let (dims, heads) = match self.heads {
            Heads::Split(heads) => (3, heads),
            Heads::Apart | Heads::Join => (4, 1),
        };
        let fits = x.shape.len() == dims && x.shape[dims - 1] % heads == 0;
        if !fits || x.shape[dims - 1] / heads < self.rope.dims {
            return Err(Error::invalid_argument(
                Self::NAME,
                format!("{} features of an array of shape {:?}", self.rope.dims, x.shape),
            ));
        }
        let [batch, heads, length, features] = self.shape(&x.shape);
        let shape = match self.heads {
            Heads::Join => vec![batch, length, heads * features],
            Heads::Apart | Heads::Split(_) => vec![batch, heads, length, features],
        };
        Ok(vec![ArraySpec::new(shape, x.dtype)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        match inputs[0].dtype() {
            Dtype::Bfloat16 => self.compute::<bf16>(inputs, outputs),
            Dtype::Float16 => self.compute::<f16>(inputs, outputs),
            _ => self.compute::<f32>(inputs, outputs),
        }
    }

    fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        let heads = match self.heads {
            Heads::Apart => Heads::Apart,
            Heads::Split(_) => Heads::Join,
            Heads::Join => Heads::Split(primals[0].dim(1)?),
        };
        let back = Self { inverse: !self.inverse, heads, ..*self };
        let with_respect_to = |&arg: &usize| match arg {
            0 => rotate(back, &cotangents[0], primals.get(1)),
            // Frequencies are seldom trained.
            _ => {
                Ok(derivatives::vjp(derivatives::of(*self), primals, cotangents, &[arg])?.remove(0))
            }
        };
        argnums.iter().map(with_respect_to).collect()
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        if argnums.contains(&1) {
            return derivatives::jvp(derivatives::of(*self), primals, tangents, argnums);
        }
        Ok(vec![rotate(*self, &tangents[0], primals.get(1))?])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        if let [_, Some(_)] = axes {
            let rotated = transforms::vmap(derivatives::of(*self), inputs, axes, &[Some(0)])?;
            return Ok((rotated, vec![Some(0)]));
        }
        rows::vmap(&inputs[..1], &axes[..1], |x| {
            let lengths = [x[0].dim(0)?, x[0].dim(1)?];
            let y = rotate(*self, &ops::flatten(x[0], 0, 1)?, inputs.get(1))?;
            Ok(vec![ops::unflatten(&y, 0, &lengths)?])
        })
    }

    fn layout(&self, input: usize) -> Layout {
        if input == 0 { Layout::Strided } else { Layout::RowContiguous }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tables_are_kept() {
        let rope =
            |base| Rope { dims: 4, traditional: false, base: Some(base), scale: 1.0, offset: 0 };
        let table = |base| Table::for_rotation(rope(base), None, 3);
        // Layers of two bases in turn, and those of others, up to as many as are kept.
        let [first, second] = [table(1e4), table(1e6)];
        for base in [1e2, 1e3] {
            table(base);
            assert!(Arc::ptr_eq(&first, &table(1e4)) && Arc::ptr_eq(&second, &table(1e6)));
        }
        table(1e5);
        assert!(Arc::ptr_eq(&second, &table(1e6)));
        let again = table(1e4);
        assert!(!Arc::ptr_eq(&first, &again) && first.sines == again.sines);
    }
}
