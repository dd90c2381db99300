//! Attention to a cache against the same made of MLX's rotation, copies and attention.

#[allow(dead_code)] // of what the tests share, a part
mod common;

use common::{assert_within, numbers};
use graft_kernels::{Attended, Projections, Rope, cached_attention};
use mlx_graft::fast::{RopeOptions, ScaledDotProductAttentionOptions};
use mlx_graft::{Array, Dtype, Result, fast, memory, ops, transforms};

const SCALE: f32 = 0.4;

#[derive(Debug, Clone, Copy)]
struct Case {
    batch: i32,
    length: i32,
    room: i32,
    heads: i32,
    kv_heads: i32,
    dim: i32,
    value_dim: i32,
    rotation: Rope,
    has_freqs: bool,
}

const ROTATION: Rope = Rope { dims: 8, traditional: false, base: Some(1e4), scale: 1.0, offset: 3 };

const CASE: Case = Case {
    batch: 1,
    length: 1,
    room: 6,
    heads: 4,
    kv_heads: 2,
    dim: 8,
    value_dim: 8,
    rotation: ROTATION,
    has_freqs: false,
};

impl Case {
    /// Queries, keys, values, the cache of both, and frequencies if there are some.
    fn inputs(&self, dtype: Dtype) -> Result<Vec<Array>> {
        let Self { batch, length, room, heads, kv_heads, dim, value_dim, .. } = *self;
        let made = |seed: u32, shape: &[i32]| ops::astype(&numbers(seed, shape)?, dtype);
        let mut inputs = vec![
            made(1, &[batch, length, heads * dim])?,
            made(2, &[batch, length, kv_heads * dim])?,
            made(3, &[batch, length, kv_heads * value_dim])?,
            made(4, &[batch, kv_heads, room, dim])?,
            made(5, &[batch, kv_heads, room, value_dim])?,
        ];
        if self.has_freqs {
            let freqs: Vec<f32> = (0..self.rotation.dims / 2).map(|i| 1.5_f32.powi(i)).collect();
            inputs.push(Array::from_slice(&freqs, &[self.rotation.dims / 2])?);
        }
        Ok(inputs)
    }

    /// The attention and the cache by the kernel.
    fn found(&self, x: &[Array]) -> Result<Vec<Array>> {
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        let new = Projections { queries: &x[0], keys: &x[1], values: &x[2], heads, kv_heads };
        let Attended { out, keys, values } =
            cached_attention(new, (&x[3], &x[4]), self.rotation, x.get(5), SCALE)?;
        Ok(vec![out, keys, values])
    }

    /// The same by MLX's operations, in float32.
    fn wanted(&self, x: &[Array]) -> Result<Vec<Array>> {
        let wide = |x: &Array| ops::astype(x, Dtype::Float32);
        let Rope { dims, traditional, base, scale, offset } = self.rotation;
        let options = RopeOptions::default().traditional(traditional).base(base).scale(scale);
        let options = options.freqs(x.get(5));
        let split = |x: &Array, heads: i32| {
            ops::transpose_axes(&ops::unflatten(&wide(x)?, -1, &[heads, -1])?, &[0, 2, 1, 3])
        };
        let q = fast::rope(&split(&x[0], self.heads)?, dims, offset, &options)?;
        let k = fast::rope(&split(&x[1], self.kv_heads)?, dims, offset, &options)?;
        let v = split(&x[2], self.kv_heads)?;
        let parts = |cache: &Array, new: &Array| -> Result<[Array; 2]> {
            let cache = wide(cache)?;
            let (shape, held) = (cache.shape().to_vec(), offset + self.length);
            let part = |from: i32, to: i32| {
                let stop = [shape[0], shape[1], to, shape[3]];
                ops::slice(&cache, &[0, 0, from, 0], &stop, &[1; 4])
            };
            let seen = ops::concatenate_axis(&[&part(0, offset)?, new], 2)?;
            Ok([ops::concatenate_axis(&[&seen, &part(held, shape[2])?], 2)?, seen])
        };
        let ([keys, k], [values, v]) = (parts(&x[3], &k)?, parts(&x[4], &v)?);
        let options = ScaledDotProductAttentionOptions::default().mask_mode("causal");
        let out = fast::scaled_dot_product_attention(&q, &k, &v, SCALE, &options)?;
        let out = ops::flatten(&ops::transpose_axes(&out, &[0, 2, 1, 3])?, 2, 3)?;
        Ok(vec![out, keys, values])
    }

    #[track_caller]
    fn check(&self, x: &[Array], bound: f32) -> Result<()> {
        let (found, wanted) = (self.found(x)?, self.wanted(x)?);
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert_eq!(found.dtype(), x[0].dtype(), "{self:?}");
            assert_eq!(found.shape(), wanted.shape(), "{self:?} {i}");
            let bounds = ops::full_like(wanted, &Array::scalar(bound)?, Dtype::Float32)?;
            assert_within(&ops::astype(found, Dtype::Float32)?, wanted, &bounds);
        }
        Ok(())
    }
}

fn cases() -> Vec<Case> {
    let long = Rope { offset: 300, ..ROTATION };
    vec![
        CASE,
        Case { rotation: Rope { offset: 0, ..ROTATION }, ..CASE },
        Case { rotation: Rope { offset: 5, ..ROTATION }, ..CASE },
        Case { batch: 2, length: 3, ..CASE },
        Case { heads: 3, kv_heads: 1, dim: 10, value_dim: 5, ..CASE },
        Case { heads: 2, length: 40, room: 64, ..CASE },
        Case { batch: 2, heads: 6, kv_heads: 6, room: 512, rotation: long, dim: 64, ..CASE },
        Case { length: 130, room: 430, rotation: long, dim: 64, value_dim: 64, ..CASE },
        Case { rotation: Rope { traditional: true, scale: 0.5, ..ROTATION }, length: 2, ..CASE },
        Case { rotation: Rope { base: None, ..ROTATION }, has_freqs: true, ..CASE },
    ]
}

#[test]
fn shapes_and_rotations() -> Result<()> {
    for case in cases() {
        case.check(&case.inputs(Dtype::Float32)?, 1e-4)?;
    }
    Ok(())
}

#[test]
fn numbers_of_16_bits() -> Result<()> {
    for case in cases() {
        case.check(&case.inputs(Dtype::Float16)?, 1e-2)?;
        case.check(&case.inputs(Dtype::Bfloat16)?, 6e-2)?;
    }
    Ok(())
}

#[test]
fn arrays_that_are_not_contiguous() -> Result<()> {
    let case = Case { batch: 2, length: 3, ..CASE };
    let mut x = case.inputs(Dtype::Float32)?;
    for x in &mut x {
        let last = x.ndim() as i32 - 1;
        *x = ops::swapaxes(&ops::contiguous(&ops::swapaxes(x, 1, last)?, false)?, 1, last)?;
    }
    case.check(&x, 1e-4)?;
    let mut x = case.inputs(Dtype::Float32)?;
    x[0] = ops::broadcast_to(&numbers(7, &[1, 1, 32])?, &[2, 3, 32])?;
    x[3] = ops::zeros(&[2, 2, 6, 8], Dtype::Float32)?;
    case.check(&x, 1e-4)
}

#[test]
fn a_cache_that_nobody_else_holds_is_written_in_place() -> Result<()> {
    let case = Case { room: 1 << 18, dim: 16, value_dim: 16, ..CASE };
    let mut x = case.inputs(Dtype::Float32)?;
    let kept = x[3].clone();
    let before = kept.to_vec::<f32>()?;
    transforms::eval(&x)?;
    // The first copies the keys, which are held here too.
    let found = case.found(&x)?;
    transforms::eval(&found)?;
    assert_eq!(kept.to_vec::<f32>()?, before);
    (x[3], x[4]) = (found[1].clone(), found[2].clone());
    drop((found, kept));
    let bytes = x[3].nbytes();
    memory::clear_cache()?;
    memory::reset_peak()?;
    let active = memory::active()?;
    for offset in 4..24 {
        let case = Case { rotation: Rope { offset, ..ROTATION }, ..case };
        let mut found = case.found(&x)?;
        (x[4], x[3]) = (found.remove(2), found.remove(1));
        transforms::eval(&[&found[0], &x[3], &x[4]])?;
    }
    assert!(memory::peak()? - active < bytes / 2, "{} {active}", memory::peak()?);
    Ok(())
}

#[test]
fn gradients_are_those_of_the_operations() -> Result<()> {
    for case in [Case { batch: 2, length: 3, ..CASE }, CASE] {
        let x = case.inputs(Dtype::Float32)?;
        let cotangents: Vec<Array> = case
            .wanted(&x)?
            .iter()
            .zip(20..)
            .map(|(out, seed)| numbers(seed, out.shape()))
            .collect::<Result<_>>()?;
        let ours = move |x: &[Array]| case.found(x);
        let theirs = move |x: &[Array]| case.wanted(x);
        let (_, found) = transforms::vjp(ours, &x, &cotangents)?;
        let (_, wanted) = transforms::vjp(theirs, &x, &cotangents)?;
        for (found, wanted) in found.iter().zip(&wanted) {
            let bound = ops::full_like(wanted, &Array::scalar(1e-4_f32)?, Dtype::Float32)?;
            assert_within(found, wanted, &bound);
        }
    }
    Ok(())
}

#[test]
fn vectorized_and_compiled() -> Result<()> {
    let one = Case { batch: 1, length: 3, ..CASE };
    let both = Case { batch: 2, ..one };
    let x = both.inputs(Dtype::Float32)?;
    let wanted = both.wanted(&x)?;
    let rows: Vec<Array> = x.iter().map(|x| ops::expand_dims(x, 1)).collect::<Result<_>>()?;
    let f = move |x: &[Array]| one.found(x);
    let found = transforms::vmap(f, &rows, &[Some(0); 5], &[Some(0); 3])?;
    let compiled = transforms::compile(move |x: &[Array]| both.found(x), false)?;
    let compiled = compiled.call(&x)?;
    for ((found, compiled), wanted) in found.iter().zip(&compiled).zip(&wanted) {
        let bound = ops::full_like(wanted, &Array::scalar(1e-4_f32)?, Dtype::Float32)?;
        assert_within(&ops::squeeze_axis(found, 1)?, wanted, &bound);
        assert_within(compiled, wanted, &bound);
    }
    Ok(())
}

#[test]
fn what_the_kernel_does_not_know_runs_through_mlx() -> Result<()> {
    // Keys of another dtype than queries.
    let case = Case { length: 2, ..CASE };
    let mut x = case.inputs(Dtype::Float32)?;
    x[1] = ops::astype(&x[1], Dtype::Bfloat16)?;
    case.check(&x, 2e-2)?;
    // Too little room.
    let case = Case { rotation: Rope { offset: 6, ..ROTATION }, ..CASE };
    assert!(case.found(&case.inputs(Dtype::Float32)?).is_err());
    Ok(())
}
