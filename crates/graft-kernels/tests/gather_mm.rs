//! `graft_kernels::gather_mm` against products of gathered matrices.

#[allow(dead_code)] // of what the tests share, a part
mod common;
#[allow(dead_code)]
#[path = "common/packed.rs"]
mod packed;
#[allow(dead_code)]
#[path = "common/picks.rs"]
mod picks;

use std::slice::from_ref;

use common::numbers;
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, ops, transforms};
use packed::{DTYPES, assert_product, of};
use picks::{assert_close, gathered, indices};

type Picks<'a> = [Option<&'a Array>; 2];

fn ours(x: &[Array], [lhs, rhs]: Picks<'_>) -> Result<Vec<Array>> {
    Ok(vec![graft_kernels::gather_mm(&x[0], &x[1], lhs, rhs, false)?])
}

/// The product of the gathered matrices in float64, rounded.
fn theirs(x: &[Array], [lhs, rhs]: Picks<'_>) -> Result<Vec<Array>> {
    let wide = |x: &Array| ops::astype(x, Dtype::Float64);
    let product = ops::matmul(&gathered(&wide(&x[0])?, lhs)?, &gathered(&wide(&x[1])?, rhs)?)?;
    Ok(vec![ops::astype(&product, Dtype::Float32)?])
}

/// Functions of both arrays for which indices are fixed.
fn fixed(
    function: fn(&[Array], Picks<'_>) -> Result<Vec<Array>>,
    picks: Picks<'_>,
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + Clone + 'static + use<> {
    let picks = picks.map(Option::<&Array>::cloned);
    move |x| function(x, picks.each_ref().map(Option::as_ref))
}

/// Compares value, gradients and directional derivatives.
#[track_caller]
fn check(a: &Array, b: &Array, picks: Picks<'_>) -> Result<()> {
    let x = [a.clone(), b.clone()];
    let found = ours(&x, picks)?.remove(0);
    assert_eq!(found.dtype(), a.dtype());
    let b_gathered = gathered(&ops::astype(b, Dtype::Float32)?, picks[1])?;
    assert_product(&found, &gathered(a, picks[0])?, &b_gathered, &ops::abs(&b_gathered)?)?;

    let wide = |x: &Array| ops::astype(x, Dtype::Float32);
    let unit = match a.dtype() {
        Dtype::Bfloat16 => 1.0 / 64.0,
        Dtype::Float16 => 1.0 / 512.0,
        _ => 1e-5,
    };
    let g = of(a.dtype(), 3, found.shape())?;
    let (_, slopes) = transforms::vjp(fixed(ours, picks), &x, from_ref(&g))?;
    let (_, wanted) = transforms::vjp(fixed(theirs, picks), &x, &[wide(&g)?])?;
    for (found, wanted) in slopes.iter().zip(&wanted) {
        assert_eq!(found.dtype(), a.dtype());
        assert_close(unit, &wide(found)?, &wide(wanted)?)?;
    }
    let tangents = [of(a.dtype(), 4, a.shape())?, of(a.dtype(), 5, b.shape())?];
    let (_, found) = transforms::jvp(fixed(ours, picks), &x, &tangents)?;
    let (_, wanted) = transforms::jvp(fixed(theirs, picks), &x, &tangents)?;
    assert_close(unit, &wide(&found[0])?, &wanted[0])
}

#[test]
fn experts_of_all_sizes() -> Result<()> {
    // Tokens, experts for each, experts, columns and rows of their matrices.
    let sizes = [(1, 1, 1, 1, 1), (1, 2, 4, 65, 33), (5, 2, 3, 31, 70), (40, 3, 7, 33, 130)];
    for (tokens, top, experts, k, n) in sizes {
        let rhs = indices(1, &[tokens, top], experts)?;
        for dtype in DTYPES {
            let x = of(dtype, 1, &[tokens, 1, 1, k])?;
            let w = of(dtype, 2, &[experts, n, k])?;
            // As mixtures of experts have them: weights that are transposed, tokens that broadcast.
            check(&x, &ops::swapaxes(&w, -1, -2)?, [None, Some(&rhs)])?;
            check(&x, &of(dtype, 2, &[experts, k, n])?, [None, Some(&rhs)])?;
        }
    }
    Ok(())
}

#[test]
fn sizes_that_are_shared_among_threads() -> Result<()> {
    let w = numbers(2, &[5, 300, 129])?;
    for tokens in [2, 90] {
        let x = numbers(1, &[tokens, 1, 129])?;
        let rhs = ops::sort(&indices(1, &[tokens], 5)?)?;
        check(&x, &ops::swapaxes(&w, -1, -2)?, [None, Some(&rhs)])?;
        check(&numbers(1, &[tokens, 7, 300])?, &w, [None, Some(&rhs)])?;
    }
    Ok(())
}

#[test]
fn indices_of_both_sides() -> Result<()> {
    let (a, b) = (numbers(1, &[2, 3, 4, 9])?, numbers(2, &[5, 9, 6])?);
    let lhs = indices(3, &[7, 1], 6)?;
    let rhs = indices(4, &[1, 2], 5)?;
    check(&a, &b, [Some(&lhs), Some(&rhs)])?;
    check(&a, &b, [Some(&lhs), None])?;
    check(&numbers(1, &[3, 4, 9])?, &b, [None, Some(&indices(5, &[2, 3], 5)?)])?;
    check(&numbers(1, &[2, 1, 4, 9])?, &b, [None, Some(&indices(5, &[3], 5)?)])?;
    check(&a, &numbers(2, &[3, 9, 6])?, [Some(&indices(5, &[4, 3], 6)?), None])?;
    // One number, for one matrix.
    let one = Array::scalar(4)?;
    check(&numbers(1, &[4, 9])?, &b, [None, Some(&one)])?;
    check(&a, &b, [Some(&one), Some(&one)])?;
    for dtype in [Dtype::Uint8, Dtype::Int16, Dtype::Uint32, Dtype::Int64, Dtype::Uint64] {
        check(&a, &b, [Some(&ops::astype(&lhs, dtype)?), Some(&ops::astype(&rhs, dtype)?)])?;
    }
    Ok(())
}

#[test]
fn rows_and_columns() -> Result<()> {
    let (a, b) = (numbers(1, &[3, 4, 9])?, numbers(2, &[5, 9, 6])?);
    let (row, column) = (numbers(3, &[9])?, numbers(4, &[9])?);
    let zero = indices(1, &[4], 1)?;
    let by = |a: &Array, b: &Array, lhs: &Array, rhs: &Array| {
        let found = graft_kernels::gather_mm(a, b, Some(lhs), Some(rhs), false)?;
        let wanted = ops::gather_mm(a, b, Some(lhs), Some(rhs), false)?;
        assert_close(1e-5, &found, &wanted)
    };
    by(&row, &b, &zero, &indices(2, &[4], 5)?)?;
    by(&a, &column, &indices(2, &[4], 3)?, &zero)?;
    by(&row, &column, &zero, &zero)?;
    // Without indices it is `matmul`.
    let found = graft_kernels::gather_mm(&a, &b.get(0..1)?, None, None, false)?;
    assert_close(1e-5, &found, &ops::matmul(&a, &b.get(0..1)?)?)
}

#[test]
fn arrays_that_are_not_contiguous() -> Result<()> {
    let (a, b) = (numbers(1, &[6, 20, 10])?, numbers(2, &[9, 20, 14])?);
    let views_of_a = [
        ops::transpose_axes(&a, &[1, 0, 2])?,
        ops::slice(&a, &[5, 19, 9], &[-7, -21, -11], &[-1, -2, -1])?,
        ops::broadcast_to(&numbers(3, &[10])?, &[4, 3, 10])?,
    ];
    let b = ops::slice(&b, &[0, 0, 13], &[9, 20, -15], &[2, 2, -1])?;
    let picks = ops::slice(&indices(4, &[9, 2], 4)?, &[8, 0], &[-10, 2], &[-2, 1])?;
    for a in &views_of_a {
        check(a, &b, [Some(&picks), Some(&ops::swapaxes(&indices(5, &[2, 5], 5)?, 0, 1)?)])?;
    }
    let spread = ops::broadcast_to(&indices(6, &[5, 1], 5)?, &[5, 3])?;
    check(&views_of_a[2], &b, [Some(&spread_of(&spread, 4)?), Some(&spread)])
}

/// Indices modulo a number.
fn spread_of(indices: &Array, count: i32) -> Result<Array> {
    ops::remainder(indices, &Array::scalar(count)?)
}

#[test]
fn nothing_and_sums_of_nothing() -> Result<()> {
    for dtype in DTYPES {
        let none = indices(1, &[0], 1)?;
        let shape = |a: &[i32], b: &[i32], rhs: &Array| {
            let b = of(dtype, 2, b)?;
            let y = graft_kernels::gather_mm(&of(dtype, 1, a)?, &b, Some(rhs), Some(rhs), false)?;
            let y = ops::astype(&y, Dtype::Float32)?;
            assert!(y.to_vec::<f32>()?.iter().all(|x| *x == 0.0));
            Result::Ok(y.shape().to_vec())
        };
        assert_eq!(shape(&[2, 3, 4], &[2, 4, 5], &none)?, [0, 3, 5]);
        assert_eq!(shape(&[0, 3, 4], &[0, 4, 5], &none)?, [0, 3, 5]);
        let both = indices(1, &[3], 2)?;
        assert_eq!(shape(&[2, 0, 4], &[2, 4, 5], &both)?, [3, 0, 5]);
        assert_eq!(shape(&[2, 3, 4], &[2, 4, 0], &both)?, [3, 3, 0]);
        assert_eq!(shape(&[2, 3, 0], &[2, 0, 5], &both)?, [3, 3, 5]);
    }
    // Gradients of what nobody picks are zero.
    let (a, b) = (numbers(1, &[2, 3, 4])?, numbers(2, &[3, 4, 5])?);
    check(&a, &b, [None, Some(&Array::from_slice(&[1, 1], &[2])?)])?;
    // MLX itself divides by zero where there is nothing to scatter.
    let x = [numbers(1, &[2, 3, 0])?, numbers(2, &[3, 0, 5])?];
    let rhs = indices(1, &[2], 3)?;
    let g = numbers(3, &[2, 3, 5])?;
    for picks in [[None, Some(&rhs)], [Some(&rhs), Some(&rhs)]] {
        let x =
            if picks[0].is_some() { [numbers(1, &[3, 3, 0])?, x[1].clone()] } else { x.clone() };
        let (_, slopes) = transforms::vjp(fixed(ours, picks), &x, from_ref(&g))?;
        for (slope, x) in slopes.iter().zip(&x) {
            assert_eq!(slope.to_vec::<f32>()?.len(), 0);
            assert_eq!(slope.shape(), x.shape());
        }
    }
    Ok(())
}

#[test]
fn infinities_and_nan_stay_with_their_rows() -> Result<()> {
    let b = numbers(2, &[3, 20, 30])?;
    for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = numbers(1, &[4, 1, 20])?.to_vec::<f32>()?;
        values[20 + 7] = special;
        let a = Array::from_slice(&values, &[4, 1, 20])?;
        for picked in [[0, 1, 2, 0], [1, 1, 1, 1]] {
            let rhs = Array::from_slice(&picked, &[4])?;
            let found = ours(&[a.clone(), b.clone()], [None, Some(&rhs)])?[0].to_vec::<f32>()?;
            let wanted = theirs(&[a.clone(), b.clone()], [None, Some(&rhs)])?[0].to_vec::<f32>()?;
            for (i, (x, y)) in found.iter().zip(&wanted).enumerate() {
                assert_eq!(x.is_finite(), i / 30 != 1);
                let same = x.is_nan() && y.is_nan() || x.to_bits() == y.to_bits();
                assert!(same || (x - y).abs() < 1e-5, "{x} {y}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_index_out_of_range_is_an_error() -> Result<()> {
    let (a, b) = (numbers(1, &[4, 2, 3])?, numbers(2, &[5, 3, 2])?);
    let far = [Array::from_slice(&[0, 5], &[2])?, Array::from_slice(&[-1, 0], &[2])?];
    let far_too = Array::from_slice(&[1_u64 << 32, 0], &[2])?;
    let right = Array::from_slice(&[0, 1], &[2])?;
    for wrong in far.iter().chain([&far_too]) {
        for picks in [[Some(wrong), Some(&right)], [Some(&right), Some(wrong)]] {
            let error = ours(&[a.clone(), b.clone()], picks)?[0].eval().expect_err("out of range");
            assert!(matches!(error, Error::Index { .. }), "{error}");
        }
    }
    // Also where only a gradient is computed: at once, or by its evaluation.
    for picks in [[Some(&far[0]), Some(&right)], [Some(&right), Some(&far[1])]] {
        let g = numbers(3, &[2, 2, 2])?;
        let slopes = transforms::vjp(fixed(ours, picks), &[a.clone(), b.clone()], &[g]);
        assert!(slopes.is_err() || slopes?.1.iter().all(|slope| slope.eval().is_err()));
    }
    let stack = ops::stack(&[b.clone(), b])?;
    let wrong = far[1].clone();
    let mapped = move |x: &[Array]| ours(&[a.clone(), x[0].clone()], [Some(&right), Some(&wrong)]);
    assert!(transforms::vmap(mapped, &[stack], &[Some(0)], &[Some(0)])?[0].eval().is_err());
    Ok(())
}

#[test]
fn indices_that_depend_on_what_is_differentiated_say_what_to_do() -> Result<()> {
    let (a, b) = (numbers(1, &[4, 1, 2])?, numbers(2, &[4, 2, 1])?);
    let by = move |order: &Array| {
        ops::sum(&graft_kernels::gather_mm(&a, &b, Some(order), Some(order), false)?, false)
    };
    let weights = [numbers(3, &[4])?];
    let (sum, order) = (by.clone(), |x: &[Array]| ops::argsort(&x[0]));
    let error = transforms::grad(move |x| Ok(vec![sum(&order(x)?)?]), &[0], &weights);
    let error = error.expect_err("indices have no derivative");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("stop_gradient"), "{error}");

    let stopped = move |x: &[Array]| Ok(vec![by(&ops::stop_gradient(&order(x)?)?)?]);
    assert_eq!(transforms::grad(stopped, &[0], &weights)?[0].to_vec::<f32>()?, [0.0; 4]);
    Ok(())
}

#[test]
fn what_is_not_known_here_is_left_to_mlx() -> Result<()> {
    let (a, b) = (numbers(1, &[4, 2, 3])?, numbers(2, &[5, 3, 2])?);
    let picks = indices(1, &[4], 4)?;
    let fails = |a: &Array, b: &Array, picks: &Array| {
        let error = graft_kernels::gather_mm(a, b, None, Some(picks), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    };
    fails(&a, &numbers(2, &[5, 4, 2])?, &picks);
    fails(&a, &b, &numbers(3, &[4])?);
    fails(&a, &b, &indices(1, &[3], 4)?);
    fails(&Array::scalar(1.0_f32)?, &b, &picks);
    fails(&ops::astype(&a, Dtype::Complex64)?, &b, &picks);
    // Mixed dtypes are promoted.
    let y =
        graft_kernels::gather_mm(&ops::astype(&a, Dtype::Float16)?, &b, None, Some(&picks), true)?;
    assert_eq!(y.dtype(), Dtype::Float32);
    let (half, brain) = (ops::astype(&a, Dtype::Float16)?, ops::astype(&b, Dtype::Bfloat16)?);
    let y = graft_kernels::gather_mm(&half, &brain, None, Some(&picks), true)?;
    assert_eq!(y.dtype(), Dtype::Float32);
    Ok(())
}

#[test]
fn vectorized() -> Result<()> {
    type Axes = [Option<i32>; 4];
    // Mapped axes of a (4, 2, 3), b (5, 3, 6), left indices (7) and right ones (2, 1).
    let cases: &[Axes] = &[
        [Some(0), None, None, None],
        [Some(2), Some(1), None, None],
        [None, Some(3), None, None],
        [None, None, Some(0), None],
        [None, None, None, Some(1)],
        [Some(1), Some(0), Some(1), Some(0)],
    ];
    let shapes: [&[i32]; 4] = [&[4, 2, 3], &[5, 3, 6], &[7], &[2, 1]];
    for axes in cases {
        let inputs = (0..4).map(|i| {
            let mut shape = shapes[i].to_vec();
            if let Some(axis) = axes[i] {
                shape.insert(axis as usize, 3);
            }
            match i {
                0 | 1 => numbers(i as u32, &shape),
                _ => indices(i as i32, &shape, i as i32 + 2),
            }
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        for given in [[true, true], [true, false], [false, true]] {
            if (0..2).any(|i| axes[2 + i].is_some() && !given[i]) {
                continue;
            }
            let one = move |x: &[Array]| {
                let (a, b) = match given {
                    [true, true] => (x[0].clone(), x[1].clone()),
                    [true, false] => (x[0].clone(), x[1].get(0..1)?),
                    _ => (x[0].get(0..1)?, x[1].clone()),
                };
                let picks = [given[0].then_some(&x[2]), given[1].then_some(&x[3])];
                ours(&[a, b], picks)
            };
            let found = transforms::vmap(one, &inputs, axes, &[Some(0)])?.remove(0);
            // One after the other.
            let at = |i: i32, n: usize| match axes[n] {
                Some(axis) => ops::take_axis(&inputs[n], &Array::scalar(i)?, axis),
                None => Ok(inputs[n].clone()),
            };
            let single = (0..3).map(|i| {
                let x = (0..4).map(|n| at(i, n)).collect::<Result<Vec<_>>>()?;
                Ok(one(&x)?.remove(0))
            });
            let wanted = ops::stack(&single.collect::<Result<Vec<_>>>()?)?;
            assert_close(1e-5, &found, &wanted)?;

            // The gradients too.
            let slopes = move |x: &[Array]| {
                let rest = x[2..].to_vec();
                let loss = move |y: &[Array]| {
                    let y = one(&[y, &rest].concat())?.remove(0);
                    Ok(vec![ops::sum(&ops::square(&y)?, false)?])
                };
                transforms::grad(loss, &[0, 1], &x[..2])
            };
            let found = transforms::vmap(slopes, &inputs, axes, &[Some(0), Some(0)])?;
            for (n, found) in found.iter().enumerate() {
                let single = (0..3).map(|i| {
                    let x = (0..4).map(|n| at(i, n)).collect::<Result<Vec<_>>>()?;
                    Ok(slopes(&x)?.remove(n))
                });
                let wanted = ops::stack(&single.collect::<Result<Vec<_>>>()?)?;
                assert_close(1e-5, found, &wanted)?;
            }
        }
    }
    Ok(())
}

#[test]
fn compiled_with_changing_shapes() -> Result<()> {
    let b = numbers(2, &[5, 9, 6])?;
    let weights = b.clone();
    let function = move |x: &[Array]| {
        let y = ours(&[x[0].clone(), b.clone()], [None, Some(&x[1])])?.remove(0);
        Ok(vec![ops::exp(&y)?])
    };
    let compiled = transforms::compile(function, true)?;
    for tokens in [4, 19, 1] {
        let (x, picks) = (numbers(1, &[tokens, 1, 9])?, indices(3, &[tokens], 5)?);
        let wanted = ops::exp(&theirs(&[x.clone(), weights.clone()], [None, Some(&picks)])?[0])?;
        assert_close(1e-5, &compiled.call(&[x, picks])?[0], &wanted)?;
    }
    Ok(())
}

/// The gradient of the sum of squares, as a function to differentiate once more.
fn slopes(
    function: impl Fn(&[Array]) -> Result<Vec<Array>> + Clone + 'static,
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + 'static {
    move |x: &[Array]| {
        let function = function.clone();
        let loss = move |x: &[Array]| Ok(vec![ops::sum(&ops::square(&function(x)?[0])?, false)?]);
        transforms::grad(loss, &[0, 1], x)
    }
}

#[test]
fn second_derivatives() -> Result<()> {
    let (lhs, rhs) = (indices(1, &[6, 1], 4)?, indices(2, &[2], 3)?);
    for picks in [[Some(&lhs), Some(&rhs)], [None, Some(&rhs)], [Some(&lhs), None]] {
        let stack = if picks[0].is_some() { 4 } else { 2 };
        let x = [numbers(1, &[stack, 2, 3])?, numbers(2, &[3, 3, 5])?];
        let like = [numbers(3, x[0].shape())?, numbers(4, x[1].shape())?];
        let (_, found) = transforms::vjp(slopes(fixed(ours, picks)), &x, &like)?;
        let (_, wanted) = transforms::vjp(slopes(fixed(theirs, picks)), &x, &like)?;
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_close(1e-4, found, wanted)?;
        }
        // What it is scattered by has no derivative of this kind in MLX. That of a gradient is
        // symmetric.
        if picks[0].is_none() {
            let (_, found) = transforms::jvp(slopes(fixed(ours, picks)), &x, &like)?;
            for (found, wanted) in found.iter().zip(&wanted) {
                assert_close(1e-4, found, wanted)?;
            }
        }
    }
    Ok(())
}
