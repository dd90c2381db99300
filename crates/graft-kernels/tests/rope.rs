//! The rotation of positions against `mlx.core.fast.rope`, of Rust and MLX.

#[allow(dead_code)] // of what the tests share, a part
mod common;

use common::{assert_within, numbers};
use graft_kernels::{Rope, rope, rope_heads};
use mlx_graft::fast::RopeOptions;
use mlx_graft::{Array, Dtype, Result, fast, ops, transforms};

const PLAIN: Rope = Rope { dims: 8, traditional: false, base: Some(1e4), scale: 1.0, offset: 0 };

fn theirs(x: &Array, rope: Rope, freqs: Option<&Array>) -> Result<Array> {
    let Rope { dims, traditional, base, scale, offset } = rope;
    let x = ops::astype(x, Dtype::Float32)?;
    let options = RopeOptions::default().traditional(traditional).base(base).scale(scale);
    fast::rope(&x, dims, offset, &options.freqs(freqs))
}

#[track_caller]
fn assert_close(found: &Array, wanted: &Array, bound: f32) -> Result<()> {
    let found = ops::astype(found, Dtype::Float32)?;
    assert_within(&found, wanted, &ops::full_like(wanted, &Array::scalar(bound)?, Dtype::Float32)?);
    Ok(())
}

/// Compares value, gradient and directional derivative.
#[track_caller]
fn check(x: &Array, rotation: Rope, freqs: Option<&Array>, bound: f32) -> Result<()> {
    let found = rope(x, rotation, freqs)?;
    assert_eq!((found.dtype(), found.shape()), (x.dtype(), x.shape()));
    assert_close(&found, &theirs(x, rotation, freqs)?, bound)?;

    let direction = numbers(5, x.shape())?;
    let narrow = [ops::astype(&direction, x.dtype())?];
    let (freqs_1, freqs_2) = (freqs.cloned(), freqs.cloned());
    let ours = move |x: &[Array]| Ok(vec![rope(&x[0], rotation, freqs_1.as_ref())?]);
    let mlx = move |x: &[Array]| Ok(vec![theirs(&x[0], rotation, freqs_2.as_ref())?]);
    let wide = [ops::astype(x, Dtype::Float32)?];
    let x = std::slice::from_ref(x);
    let (_, found) = transforms::vjp(ours.clone(), x, &narrow)?;
    let (_, wanted) = transforms::vjp(mlx.clone(), &wide, std::slice::from_ref(&direction))?;
    assert_close(&found[0], &wanted[0], bound)?;
    let (_, found) = transforms::jvp(ours, x, &narrow)?;
    let (_, wanted) = transforms::jvp(mlx, &wide, &[direction])?;
    assert_close(&found[0], &wanted[0], bound)
}

#[test]
fn kinds_of_rotations() -> Result<()> {
    let freqs = Array::from_slice(&[1.0_f32, 3.0, 10.0, 1e6], &[4])?;
    let dtypes = [(Dtype::Float32, 4e-6), (Dtype::Float16, 2e-3), (Dtype::Bfloat16, 2e-2)];
    for (dtype, bound) in dtypes {
        for shape in [[1, 1, 1, 8], [2, 3, 5, 12], [1, 2, 300, 8]] {
            let x = ops::astype(&numbers(1, &shape)?, dtype)?;
            for traditional in [false, true] {
                let rope = Rope { traditional, ..PLAIN };
                // MLX computes angles in float32: large ones are a little off there.
                let far = 300.0 * f32::EPSILON;
                check(&x, rope, None, bound + far)?;
                check(&x, Rope { scale: 0.25, offset: 17, ..rope }, None, bound + far)?;
                check(&x, Rope { base: None, ..rope }, Some(&freqs), bound + far)?;
            }
        }
    }
    Ok(())
}

#[test]
fn derivatives_of_frequencies() -> Result<()> {
    let freqs = Array::from_slice(&[1.0_f32, 3.0, 10.0, 100.0], &[4])?;
    let rotation = Rope { base: None, scale: 0.5, offset: 3, ..PLAIN };
    let x = numbers(1, &[2, 5, 36])?;
    let ours = move |x: &[Array]| Ok(vec![rope_heads(&x[0], 3, rotation, Some(&x[1]))?]);
    let mlx = move |x: &[Array]| Ok(vec![theirs(&split(&x[0], 3)?, rotation, Some(&x[1]))?]);
    let inputs = [x.clone(), freqs.clone()];
    let cotangent = [numbers(2, &[2, 3, 5, 12])?];
    // The derivative turns back, and joins the heads.
    let back = move |g: &[Array]| Ok(transforms::vjp(ours, &g[..2], &g[2..])?.1);
    let back_of_mlx = move |g: &[Array]| Ok(transforms::vjp(mlx, &g[..2], &g[2..])?.1);
    let all = [x.clone(), freqs.clone(), cotangent[0].clone()];
    let pairs = [
        (transforms::vjp(ours, &inputs, &cotangent)?, transforms::vjp(mlx, &inputs, &cotangent)?),
        (transforms::jvp(ours, &inputs, &inputs)?, transforms::jvp(mlx, &inputs, &inputs)?),
        (transforms::vjp(back, &all, &inputs)?, transforms::vjp(back_of_mlx, &all, &inputs)?),
    ];
    for ((_, found), (_, wanted)) in pairs {
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_close(found, wanted, 2e-3)?;
        }
    }
    let stack = ops::stack(&[&freqs, &ops::square(&freqs)?])?;
    for (inputs, axes) in [
        ([x.clone(), stack.clone()], [None, Some(0)]),
        ([ops::stack_axis(&[&x, &ops::negative(&x)?], 1)?, stack], [Some(1), Some(0)]),
    ] {
        let found = transforms::vmap(ours, &inputs, &axes, &[Some(0)])?;
        let wanted = transforms::vmap(mlx, &inputs, &axes, &[Some(0)])?;
        assert_close(&found[0], &wanted[0], 5e-5)?;
    }
    Ok(())
}

#[test]
fn heads_behind_positions() -> Result<()> {
    let x = ops::transpose_axes(&numbers(1, &[2, 5, 3, 8])?, &[0, 2, 1, 3])?;
    check(&x, PLAIN, None, 4e-6)?;
    let every_second =
        ops::slice(&numbers(1, &[2, 3, 5, 16])?, &[0, 0, 0, 0], &[2, 3, 5, 16], &[1, 1, 1, 2])?;
    check(&every_second, PLAIN, None, 4e-6)?;
    check(&numbers(1, &[2, 0, 5, 8])?, PLAIN, None, 0.0)
}

/// Features of `(B, T, H * D)` as heads of `(B, H, T, D)`.
fn split(x: &Array, heads: i32) -> Result<Array> {
    ops::swapaxes(&ops::unflatten(x, -1, &[heads, -1])?, -2, -3)
}

#[test]
fn features_that_are_split_into_heads() -> Result<()> {
    let plain = numbers(1, &[2, 37, 36])?;
    let strided = ops::swapaxes(&numbers(2, &[36, 2, 37])?, 0, 1)?;
    let strided = ops::swapaxes(&strided, 1, 2)?;
    let freqs = Array::from_slice(&[1.0_f32, 3.0, 10.0, 1e6], &[4])?;
    for (x, heads) in [(plain, 3), (strided, 3), (numbers(1, &[1, 1, 64])?, 8)] {
        let of_heads = split(&x, heads)?;
        let cotangent = numbers(3, of_heads.shape())?;
        for (rotation, freqs) in [
            (PLAIN, None),
            (Rope { traditional: true, offset: 5, ..PLAIN }, None),
            (Rope { base: None, ..PLAIN }, Some(freqs.clone())),
        ] {
            let theirs_of = freqs.clone();
            let value = &theirs(&of_heads, rotation, theirs_of.as_ref())?;
            let ours =
                move |x: &[Array]| Ok(vec![rope_heads(&x[0], heads, rotation, freqs.as_ref())?]);
            let mlx = move |x: &[Array]| {
                Ok(vec![theirs(&split(&x[0], heads)?, rotation, theirs_of.as_ref())?])
            };
            let (x, cotangents) = (std::slice::from_ref(&x), std::slice::from_ref(&cotangent));
            for (found, wanted) in
                [transforms::vjp(ours.clone(), x, cotangents), transforms::jvp(ours.clone(), x, x)]
                    .into_iter()
                    .zip([transforms::vjp(mlx.clone(), x, cotangents), transforms::jvp(mlx, x, x)])
            {
                let ((found, slope), (wanted, wanted_slope)) = (found?, wanted?);
                assert_close(&found[0], &wanted[0], 5e-5)?;
                assert_close(&slope[0], &wanted_slope[0], 5e-5)?;
            }
            let stack = ops::stack(&[&x[0], &ops::negative(&x[0])?])?;
            let mapped = transforms::vmap(ours.clone(), &[stack], &[Some(0)], &[Some(0)])?;
            let one = ops::take_axis(&mapped[0], &Array::scalar(0)?, 0)?;
            assert_close(&one, value, 5e-5)?;
            // The derivative is linear, so that its own is the rotation once more.
            let primals = x.to_vec();
            let back = move |g: &[Array]| Ok(transforms::vjp(ours.clone(), &primals, g)?.1);
            let (slope, twice) = transforms::vjp(back.clone(), cotangents, x)?;
            assert_close(&twice[0], value, 5e-5)?;
            let stack = ops::stack(&[&ops::negative(&cotangent)?, &cotangent])?;
            let mapped = transforms::vmap(back, &[stack], &[Some(0)], &[Some(0)])?;
            let second = ops::take_axis(&mapped[0], &Array::scalar(1)?, 0)?;
            assert_close(&second, &slope[0], 5e-5)?;
        }
    }
    // Of no dtype that the kernel knows, and none that can be split.
    let x = ops::astype(&numbers(1, &[1, 4, 16])?, Dtype::Float64)?;
    assert_close(&rope_heads(&x, 2, PLAIN, None)?, &theirs(&split(&x, 2)?, PLAIN, None)?, 4e-6)?;
    assert!(rope_heads(&numbers(1, &[1, 4, 15])?, 2, PLAIN, None).is_err());
    Ok(())
}

#[test]
fn vectorized_and_compiled() -> Result<()> {
    let stack = numbers(1, &[2, 3, 5, 8, 4])?;
    let function = |x: &[Array]| Ok(vec![rope(&x[0], PLAIN, None)?]);
    let mapped = transforms::vmap(function, std::slice::from_ref(&stack), &[Some(4)], &[Some(0)])?;
    // Rotations of different positions are not merged.
    let compiled = transforms::compile(
        |x| {
            let moved = rope(&x[0], Rope { offset: 3, ..PLAIN }, None)?;
            Ok(vec![rope(&x[0], PLAIN, None)?, moved])
        },
        false,
    )?;
    for i in 0..4 {
        let x = ops::take_axis(&stack, &Array::scalar(i)?, -1)?;
        let one = ops::take_axis(&mapped[0], &Array::scalar(i)?, 0)?;
        assert_close(&one, &theirs(&x, PLAIN, None)?, 4e-6)?;
        let both = compiled.call(std::slice::from_ref(&x))?;
        assert_close(&both[0], &theirs(&x, PLAIN, None)?, 4e-6)?;
        assert_close(&both[1], &theirs(&x, Rope { offset: 3, ..PLAIN }, None)?, 4e-6)?;
    }
    Ok(())
}

#[test]
fn vectorized_over_nothing() -> Result<()> {
    let function = |x: &[Array]| Ok(vec![rope(&x[0], PLAIN, None)?]);
    let heads = |x: &[Array]| Ok(vec![rope_heads(&x[0], 3, PLAIN, None)?]);
    let freqs = |x: &[Array]| Ok(vec![rope(&x[0], Rope { base: None, ..PLAIN }, Some(&x[1]))?]);
    let x = ops::zeros(&[2, 3, 0, 5, 8], Dtype::Float32)?;
    let mapped = transforms::vmap(function, std::slice::from_ref(&x), &[Some(2)], &[Some(0)])?;
    transforms::eval(&mapped)?;
    assert_eq!(mapped[0].shape(), [0, 2, 3, 5, 8]);
    // A batch of nothing, and of some positions.
    let mapped = transforms::vmap(function, std::slice::from_ref(&x), &[Some(1)], &[Some(0)])?;
    assert_eq!(mapped[0].shape(), [3, 2, 0, 5, 8]);
    let x = ops::zeros(&[0, 2, 5, 24], Dtype::Float32)?;
    let mapped = transforms::vmap(heads, std::slice::from_ref(&x), &[Some(0)], &[Some(0)])?;
    assert_eq!(mapped[0].shape(), [0, 2, 3, 5, 8]);
    let mapped = transforms::vmap(heads, &[x], &[Some(1)], &[Some(0)])?;
    transforms::eval(&mapped)?;
    assert_eq!(mapped[0].shape(), [2, 0, 3, 5, 8]);
    let inputs = [numbers(1, &[2, 3, 5, 8])?, ops::zeros(&[0, 4], Dtype::Float32)?];
    let mapped = transforms::vmap(freqs, &inputs, &[None, Some(0)], &[Some(0)])?;
    assert_eq!(mapped[0].shape(), [0, 2, 3, 5, 8]);
    transforms::eval(&mapped)
}

#[test]
fn shapes_that_the_kernel_does_not_know_run_through_mlx() -> Result<()> {
    let x = numbers(1, &[3, 5, 8])?;
    assert_close(&rope(&x, PLAIN, None)?, &theirs(&x, PLAIN, None)?, 4e-6)?;
    let x = numbers(1, &[1, 3, 5, 8])?;
    let both = Rope { base: None, ..PLAIN };
    assert_eq!(
        rope(&x, both, None).expect_err("no angles").to_string(),
        theirs(&x, both, None).expect_err("no angles").to_string()
    );
    Ok(())
}
