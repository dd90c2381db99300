//! `graft_kernels::matmul` against MLX's own operation.

mod common;

use common::{assert_within, numbers};
use mlx_graft::{Array, Dtype, ErrorKind, Result, ops, transforms};

const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16];

/// How far two sums of products of `a` and `b`, added in any order, may lie apart: each is within
/// `k` roundings, relative to the sum of magnitudes, of the exact one.
fn rounding(a: &Array, b: &Array) -> Result<Array> {
    let k = a.dim(-1)?;
    let magnitudes = ops::matmul(&ops::abs(a)?, &ops::abs(b)?)?;
    ops::multiply(&magnitudes, &Array::scalar(2.0 * k as f32 * f32::EPSILON)?)
}

/// Compares with MLX's product of the same numbers in float32, of which that of 16-bit numbers may
/// differ by one more rounding.
#[track_caller]
fn check(a: &Array, b: &Array) -> Result<()> {
    let found = graft_kernels::matmul(a, b)?;
    assert_eq!(found.dtype(), a.dtype());
    let wide = |x: &Array| ops::astype(x, Dtype::Float32);
    let (a, b) = (wide(a)?, wide(b)?);
    let wanted = ops::matmul(&a, &b)?;
    let unit = match found.dtype() {
        Dtype::Bfloat16 => 1.0 / 256.0,
        Dtype::Float16 => 1.0 / 2048.0,
        _ => 0.0_f32,
    };
    let last = ops::multiply(&ops::abs(&wanted)?, &Array::scalar(unit)?)?;
    assert_within(&wide(&found)?, &wanted, &ops::add(&rounding(&a, &b)?, &last)?);
    Ok(())
}

/// Numbers of `dtype` by seed and shape.
fn of(dtype: Dtype) -> impl Fn(u32, &[i32]) -> Result<Array> {
    move |seed, shape| ops::astype(&numbers(seed, shape)?, dtype)
}

fn swapped(x: &Array) -> Result<Array> {
    ops::swapaxes(x, -1, -2)
}

#[test]
fn shapes_of_all_kinds() -> Result<()> {
    let shapes: &[(&[i32], &[i32])] = &[
        (&[1, 1], &[1, 1]),
        (&[7, 5], &[5, 3]),
        (&[33, 65], &[65, 17]),
        (&[129, 257], &[257, 131]),
        (&[300, 128], &[128, 200]),
        (&[64, 2], &[2, 64]),
        // One of the two is a vector.
        (&[5], &[5]),
        (&[5], &[5, 3]),
        (&[7, 5], &[5]),
        (&[2, 3, 7, 5], &[5]),
        (&[5], &[2, 3, 5, 4]),
        (&[1, 300], &[300, 700]),
        (&[700, 300], &[300, 1]),
        (&[1, 1500], &[1500, 1500]),
        // Stacks.
        (&[4, 7, 5], &[5, 3]),
        (&[2, 3, 7, 5], &[5, 3]),
        (&[7, 5], &[4, 5, 3]),
        (&[4, 7, 5], &[4, 5, 3]),
        (&[2, 1, 7, 5], &[3, 5, 6]),
        (&[2, 3, 1, 5], &[2, 3, 5, 6]),
        (&[1, 3, 1, 5], &[2, 1, 5, 6]),
        (&[16, 64, 96], &[16, 96, 64]),
        (&[2, 300, 200], &[2, 200, 100]),
        // More than is packed at a time.
        (&[20, 4101], &[4101, 1100]),
        // Nothing, or a sum of nothing.
        (&[0, 5], &[5, 3]),
        (&[7, 0], &[0, 3]),
        (&[7, 5], &[5, 0]),
        (&[0], &[0]),
        (&[0, 7, 5], &[5, 3]),
        (&[2, 7, 0], &[2, 0, 3]),
        (&[1, 7, 5], &[0, 5, 3]),
    ];
    for numbers in DTYPES.map(of) {
        for (a, b) in shapes {
            check(&numbers(1, a)?, &numbers(2, b)?)?;
        }
    }
    Ok(())
}

#[test]
fn arrays_that_are_not_contiguous() -> Result<()> {
    DTYPES.into_iter().try_for_each(|dtype| strided(of(dtype)))
}

fn strided(numbers: impl Fn(u32, &[i32]) -> Result<Array>) -> Result<()> {
    let a = numbers(1, &[6, 40, 30])?;
    let b = numbers(2, &[6, 40, 30])?;
    check(&a, &swapped(&b)?)?;
    check(&swapped(&a)?, &b)?;
    check(&swapped(&a)?, &swapped(&numbers(3, &[6, 50, 40])?)?)?;
    check(&a, &swapped(&numbers(3, &[50, 30])?)?)?;

    // Heads of attention: (batch, token, head, channel) with head and token swapped.
    let heads = |seed| ops::transpose_axes(&numbers(seed, &[2, 33, 3, 16])?, &[0, 2, 1, 3]);
    check(&heads(4)?, &swapped(&heads(5)?)?)?;
    // Leading dimensions that are no evenly spaced rows, times one matrix.
    check(&heads(4)?, &numbers(6, &[16, 20])?)?;
    check(&ops::transpose_axes(&a, &[1, 0, 2])?, &numbers(6, &[30, 20])?)?;

    // Every second row and column, backwards, and from the middle.
    let steps = ops::slice(&a, &[0, 0, 0], &[6, 40, 30], &[2, 2, 3])?;
    check(&steps, &numbers(7, &[10, 9])?)?;
    check(&numbers(7, &[3, 9, 20])?, &steps)?;
    let backwards = ops::slice(&a, &[5, 39, 29], &[-7, -41, -31], &[-1, -1, -1])?;
    assert_eq!(backwards.shape(), [6, 40, 30]);
    check(&backwards, &swapped(&b)?)?;
    check(&b, &swapped(&backwards)?)?;
    let middle = ops::slice(&a, &[2, 3, 4], &[5, 20, 25], &[1, 1, 1])?;
    check(&middle, &swapped(&middle)?)?;

    // Broadcast rows, columns and stacks, without memory of their own.
    let row = ops::broadcast_to(&numbers(8, &[1, 30])?, &[40, 30])?;
    let column = ops::broadcast_to(&numbers(9, &[30, 1])?, &[30, 50])?;
    let one = ops::broadcast_to(&numbers(10, &[1, 1])?, &[30, 30])?;
    check(&row, &column)?;
    check(&one, &column)?;
    check(&row, &one)?;
    check(&ops::broadcast_to(&row, &[6, 40, 30])?, &swapped(&b)?)?;
    check(&a, &ops::broadcast_to(&column, &[6, 30, 50])?)?;

    // A single row or column of every layout.
    let vector = ops::slice(&numbers(11, &[600])?, &[0], &[600], &[2])?;
    check(&vector, &numbers(12, &[300, 700])?)?;
    check(&vector, &swapped(&numbers(12, &[700, 300])?)?)?;
    check(&numbers(12, &[700, 300])?, &vector)?;
    check(&swapped(&numbers(12, &[300, 700])?)?, &vector)?;
    check(&vector, &ops::slice(&numbers(13, &[300, 90])?, &[0, 0], &[300, 90], &[1, 3])?)?;
    Ok(())
}

/// Operands of which one is much longer in one direction, as adapters of low rank are, lying each way.
#[test]
fn tall_and_skinny_matrices() -> Result<()> {
    for dtype in DTYPES {
        let made = of(dtype);
        for (rows, inputs) in [(64, 64), (257, 300), (300, 64), (70, 513)] {
            let x = made(1, &[rows, inputs])?;
            for rank in [2, 3, 8, 9, 17, 32, 33] {
                let [along, across] = [made(2, &[inputs, rank])?, made(3, &[rank, inputs])?];
                let [down, up] = [made(4, &[rows, rank])?, made(5, &[rank, rows])?];
                check(&x, &along)?;
                check(&x, &swapped(&across)?)?;
                check(&swapped(&x)?, &down)?;
                check(&swapped(&x)?, &swapped(&up)?)?;
                check(&swapped(&down)?, &x)?;
                check(&up, &x)?;
                check(&across, &swapped(&x)?)?;
            }
            // A part of the columns of longer rows.
            let part = ops::slice(&x, &[0, 3], &[rows, inputs - 2], &[1, 1])?;
            let [a, b] = [made(6, &[inputs - 5, 8])?, made(7, &[rows, 8])?];
            check(&part, &a)?;
            check(&swapped(&part)?, &b)?;
            check(&swapped(&b)?, &part)?;
        }
    }
    Ok(())
}

#[test]
fn nan_and_infinity_spread_as_in_mlx() -> Result<()> {
    let shapes = [(1, 40, 30), (9, 40, 30), (30, 40, 1), (70, 65, 90), (12, 1, 8)];
    for (m, k, n) in shapes.into_iter().chain([(300, 70, 8), (9, 70, 300)]) {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![0.0_f32; (k * n) as usize];
            values[(k * n / 2) as usize] = special;
            let b = Array::from_slice(&values, &[k, n])?;
            // Zero times infinity is NaN: a kernel that skips zeros would hide it.
            let a = ops::zeros(&[m, k], Dtype::Float32)?;
            let found = graft_kernels::matmul(&a, &b)?.to_vec::<f32>()?;
            let wanted = ops::matmul(&a, &b)?.to_vec::<f32>()?;
            assert!(wanted.iter().any(|x| x.is_nan()));
            for (x, y) in found.iter().zip(&wanted) {
                assert!(x.is_nan() && y.is_nan() || x.abs() + y.abs() == 0.0, "{x} {y}");
            }
            check(&numbers(1, &[m, k])?, &b)?;
        }
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_mlx() -> Result<()> {
    let shapes: &[(&[i32], &[i32])] = &[
        (&[7, 5], &[5, 3]),
        (&[2, 4, 7, 5], &[5, 3]),
        (&[7, 5], &[4, 5, 3]),
        (&[2, 1, 7, 5], &[4, 5, 3]),
        (&[2, 4, 7, 5], &[1, 4, 5, 3]),
        (&[5], &[5, 3]),
        (&[4, 7, 5], &[5]),
        (&[5], &[5]),
        (&[7, 0], &[0, 3]),
    ];
    for (a, b) in shapes {
        let inputs = [numbers(1, a)?, numbers(2, b)?];
        let product = ops::matmul(&inputs[0], &inputs[1])?;
        let cotangents = [numbers(3, product.shape())?];
        let ours = |x: &[Array]| Ok(vec![graft_kernels::matmul(&x[0], &x[1])?]);
        let theirs = |x: &[Array]| Ok(vec![ops::matmul(&x[0], &x[1])?]);
        let (_, found) = transforms::vjp(ours, &inputs, &cotangents)?;
        let (_, wanted) = transforms::vjp(theirs, &inputs, &cotangents)?;
        // At most 56 products of numbers below 1 are added.
        let bound = Array::scalar(1e-5_f32)?;
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_within(found, wanted, &ops::broadcast_to(&bound, wanted.shape())?);
        }

        let tangents = [numbers(4, a)?, numbers(5, b)?];
        let (_, found) = transforms::jvp(ours, &inputs, &tangents)?;
        let wanted = ops::add(
            &ops::matmul(&tangents[0], &inputs[1])?,
            &ops::matmul(&inputs[0], &tangents[1])?,
        )?;
        assert_within(&found[0], &wanted, &ops::broadcast_to(&bound, wanted.shape())?);
    }
    Ok(())
}

/// The squared length of the gradient of `sum((a b)²)` with respect to `a`.
fn steepness(matmul: fn(&Array, &Array) -> Result<Array>, x: &[Array]) -> Result<Vec<Array>> {
    let b = x[1].clone();
    let loss = move |x: &[Array]| Ok(vec![ops::sum(&ops::square(&matmul(&x[0], &b)?)?, false)?]);
    let gradient = transforms::grad(loss, &[0], &x[..1])?;
    Ok(vec![ops::sum(&ops::square(&gradient[0])?, false)?])
}

#[test]
fn second_derivatives() -> Result<()> {
    let inputs = [numbers(1, &[4, 3])?, numbers(2, &[3, 5])?];
    let found = transforms::grad(|x| steepness(graft_kernels::matmul, x), &[0], &inputs)?;
    let wanted = transforms::grad(|x| steepness(ops::matmul, x), &[0], &inputs)?;
    let bound = ops::broadcast_to(&Array::scalar(1e-3_f32)?, &[4, 3])?;
    assert_within(&found[0], &wanted[0], &bound);
    assert!(wanted[0].to_vec::<f32>()?.iter().any(|x| x.abs() > 1.0));
    Ok(())
}

#[test]
fn compiled_with_changing_shapes() -> Result<()> {
    let function = |x: &[Array]| Ok(vec![ops::exp(&graft_kernels::matmul(&x[0], &x[1])?)?]);
    let shapeless = transforms::compile(function, true)?;
    let by_shape = transforms::compile(function, false)?;
    let b = numbers(2, &[5, 3])?;
    for rows in [4, 9, 1] {
        let inputs = [numbers(1, &[2, rows, 5])?, b.clone()];
        let wanted = ops::exp(&ops::matmul(&inputs[0], &inputs[1])?)?;
        let bound = ops::multiply(&wanted, &Array::scalar(1e-5_f32)?)?;
        assert_within(&shapeless.call(&inputs)?[0], &wanted, &bound);
        assert_within(&by_shape.call(&inputs)?[0], &wanted, &bound);
    }
    Ok(())
}

#[test]
fn vectorized() -> Result<()> {
    type Axes = [Option<i32>; 2];
    let cases: &[(&[i32], &[i32], Axes)] = &[
        (&[6, 7, 5], &[6, 5, 3], [Some(0), Some(0)]),
        (&[7, 6, 5], &[5, 3, 6], [Some(1), Some(2)]),
        (&[7, 5, 6], &[5, 3], [Some(2), None]),
        (&[7, 5], &[5, 6, 3], [None, Some(1)]),
        (&[6, 4, 7, 5], &[6, 5, 3], [Some(0), Some(0)]),
        (&[6, 7, 5], &[4, 6, 5, 3], [Some(0), Some(1)]),
        (&[6, 7, 5], &[2, 4, 5, 3], [Some(0), None]),
        (&[6, 5], &[6, 5], [Some(0), Some(0)]),
    ];
    for (a, b, axes) in cases {
        let inputs = [numbers(1, a)?, numbers(2, b)?];
        let function = |x: &[Array]| Ok(vec![graft_kernels::matmul(&x[0], &x[1])?]);
        let found = transforms::vmap(function, &inputs, axes, &[Some(0)])?;
        // One product after the other.
        let at = |i: i32, n: usize| match axes[n] {
            Some(axis) => ops::take_axis(&inputs[n], &Array::scalar(i)?, axis),
            None => Ok(inputs[n].clone()),
        };
        let single = (0..6).map(|i| ops::matmul(&at(i, 0)?, &at(i, 1)?));
        let wanted = ops::stack(&single.collect::<Result<Vec<_>>>()?)?;
        let bound = ops::broadcast_to(&Array::scalar(1e-6_f32)?, wanted.shape())?;
        assert_within(&found[0], &wanted, &bound);
    }
    Ok(())
}

#[test]
fn other_dtypes_and_errors_are_those_of_mlx() -> Result<()> {
    let (a, b) = (numbers(1, &[4, 5])?, numbers(2, &[5, 3])?);
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        // In the wider of both dtypes.
        let a = ops::astype(&a, dtype)?;
        let (found, wanted) = (graft_kernels::matmul(&a, &b)?, ops::matmul(&a, &b)?);
        assert_within(&found, &wanted, &rounding(&ops::astype(&a, Dtype::Float32)?, &b)?);
    }
    for dtype in [Dtype::Float64, Dtype::Complex64] {
        let a = ops::astype(&a, dtype)?;
        let (found, wanted) = (graft_kernels::matmul(&a, &b)?, ops::matmul(&a, &b)?);
        assert_eq!(found.dtype(), wanted.dtype());
        assert_eq!(found.to_bytes()?, wanted.to_bytes()?);
    }
    let shapes: &[(&[i32], &[i32])] =
        &[(&[], &[3]), (&[4, 5], &[4, 5]), (&[5], &[4]), (&[2, 4, 5], &[3, 5, 4]), (&[4, 5], &[])];
    for (a, b) in shapes {
        let (a, b) = (numbers(1, a)?, numbers(2, b)?);
        let found = graft_kernels::matmul(&a, &b).unwrap_err();
        let wanted = ops::matmul(&a, &b).unwrap_err();
        assert_eq!(found.kind(), ErrorKind::InvalidArgument);
        assert_eq!(found.to_string(), wanted.to_string());
    }
    Ok(())
}

#[test]
fn derivatives_of_another_dtype() -> Result<()> {
    let (a, b) = (of(Dtype::Bfloat16)(1, &[4, 5])?, of(Dtype::Bfloat16)(2, &[5, 3])?);
    let wide = |x: &Array| ops::astype(x, Dtype::Float32);
    let (wide_a, wide_b) = (wide(&a)?, wide(&b)?);
    let other = b.clone();
    let product = move |x: &[Array]| Ok(vec![graft_kernels::matmul(&x[0], &other)?]);
    // MLX hands on what a custom derivative gives as it is.
    let widened = transforms::custom_vjp(
        |x: &[Array]| Ok(x.to_vec()),
        |_, dy, _| Ok(vec![ops::astype(&dy[0], Dtype::Float32)?]),
    )?;
    let of_product = product.clone();
    let loss = move |x: &[Array]| Ok(vec![ops::sum(&widened.call(&of_product(x)?)?[0], false)?]);
    let ones = ops::ones(&[4, 3], Dtype::Float32)?;
    let found = transforms::grad(loss, &[0], &[&a])?.remove(0);
    let wanted = ops::matmul(&ones, &swapped(&wide_b)?)?;
    let bound = ops::full_like(&wanted, &Array::scalar(0.02_f32)?, Dtype::Float32)?;
    assert_eq!(found.dtype(), Dtype::Bfloat16);
    assert_within(&wide(&found)?, &wanted, &bound);

    let found = transforms::jvp(product, &[&a], &[&wide_a])?.1.remove(0);
    let wanted = ops::matmul(&wide_a, &wide_b)?;
    let bound = ops::full_like(&wanted, &Array::scalar(0.02_f32)?, Dtype::Float32)?;
    assert_within(&wide(&found)?, &wanted, &bound);
    Ok(())
}

#[test]
fn numbers_that_start_anywhere() -> Result<()> {
    for dtype in DTYPES {
        let x = of(dtype)(1, &[6, 8])?;
        let bytes = ops::flatten(&ops::view(&x, Dtype::Uint8)?, 0, -1)?;
        let length = bytes.size() as i32;
        let padding = ops::zeros(&[1], Dtype::Uint8)?;
        let moved = ops::concatenate_axis(&[&padding, &bytes], 0)?;
        let moved = ops::slice(&moved, &[1], &[length + 1], &[1])?;
        let moved = ops::reshape(&ops::view(&moved, dtype)?, &[6, 8])?;
        let gaps = |x: &Array| ops::slice(x, &[5, 1], &[-7, 8], &[-1, 3]);
        let views: [fn(&Array) -> Result<Array>; 4] =
            [|x| Ok(x.clone()), swapped, gaps, |x| ops::broadcast_to(x, &[3, 6, 8])];
        for view in views {
            let moved = view(&moved)?;
            let b = of(dtype)(2, &[moved.dim(-1)?, 5])?;
            check(&moved, &b)?;
        }
    }
    Ok(())
}
