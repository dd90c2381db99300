//! Attention against the same in float64 operations of MLX.

#[allow(dead_code)] // of what the tests share, a part
mod common;

use common::{assert_within, numbers};
use graft_kernels::{Mask, scaled_dot_product_attention};
use mlx_graft::fast::ScaledDotProductAttentionOptions;
use mlx_graft::{Array, Dtype, Result, fast, ops, transforms};

/// A mask that a test can keep.
#[derive(Clone)]
enum Kind {
    None,
    Causal,
    From(Array),
    Array(Array),
}

impl Kind {
    fn as_mask(&self) -> Mask<'_> {
        match self {
            Self::None => Mask::None,
            Self::Causal => Mask::Causal,
            Self::From(first) => Mask::From(first),
            Self::Array(mask) => Mask::Array(mask),
        }
    }
}

const SCALE: f32 = 0.3;

fn ours(x: &[Array], mask: &Kind) -> Result<Vec<Array>> {
    Ok(vec![scaled_dot_product_attention(&x[0], &x[1], &x[2], SCALE, mask.as_mask())?])
}

fn repeat(x: &Array, heads: i32) -> Result<Array> {
    ops::repeat_axis(x, heads / x.dim(1)?, 1)
}

/// The attention in float64, rounded to float32.
fn wanted(x: &[Array], mask: &Kind) -> Result<Vec<Array>> {
    let wide = |x: &Array| ops::astype(x, Dtype::Float64);
    let heads = x[0].dim(1)?;
    let (q, k, v) = (wide(&x[0])?, repeat(&wide(&x[1])?, heads)?, repeat(&wide(&x[2])?, heads)?);
    let scores = ops::matmul(&q, &ops::swapaxes(&k, -1, -2)?)?;
    let scores = ops::multiply(&scores, &Array::scalar(f64::from(SCALE))?)?;
    let hidden = wide(&Array::scalar(f32::MIN)?)?;
    let scores = match mask {
        Kind::None => scores,
        Kind::Causal => {
            let (t, s) = (scores.dim(-2)?, scores.dim(-1)?);
            ops::where_(&ops::tri(t, s, s - t, Dtype::Bool)?, &scores, &hidden)?
        }
        Kind::From(first) => {
            let (rows, t, s) = (first.dim(0)?, scores.dim(-2)?, scores.dim(-1)?);
            let mut seen = Vec::new();
            for (i, first) in first.to_vec::<i32>()?.into_iter().enumerate() {
                let own = s - t + i as i32 % t;
                seen.extend((0..s).map(|key| (first.min(own)..=own).contains(&key)));
            }
            ops::where_(&Array::from_slice(&seen, &[rows, 1, t, s])?, &scores, &hidden)?
        }
        Kind::Array(mask) if mask.dtype() == Dtype::Bool => ops::where_(mask, &scores, &hidden)?,
        Kind::Array(mask) => ops::add(&scores, &wide(mask)?)?,
    };
    let out = ops::matmul(&ops::softmax_axis(&scores, -1, true)?, &v)?;
    Ok(vec![ops::astype(&out, Dtype::Float32)?])
}

#[track_caller]
fn assert_close(found: &Array, wanted: &Array, bound: f32) -> Result<()> {
    let found = ops::astype(found, Dtype::Float32)?;
    let size = ops::add(&ops::abs(wanted)?, &Array::scalar(1.0_f32)?)?;
    assert_within(&found, wanted, &ops::multiply(&size, &Array::scalar(bound)?)?);
    Ok(())
}

/// Queries `(b, h, t, d)`, keys and values.
fn inputs([b, h, groups, t, s, d, e]: [i32; 7], dtype: Dtype) -> Result<Vec<Array>> {
    let spread = |seed: u32, shape: &[i32]| -> Result<Array> {
        let x = ops::multiply(&numbers(seed, shape)?, &Array::scalar(3.0_f32)?)?;
        ops::astype(&x, dtype)
    };
    Ok(vec![
        spread(1, &[b, h, t, d])?,
        spread(2, &[b, groups, s, d])?,
        spread(3, &[b, groups, s, e])?,
    ])
}

/// Compares values and all three gradients.
#[track_caller]
fn check(x: &[Array], mask: &Kind, bound: f32) -> Result<()> {
    let dtype = x[0].dtype();
    let wanted_values = wanted(x, mask)?;
    let found = ours(x, mask)?;
    assert_eq!(found[0].dtype(), dtype);
    assert_close(&found[0], &wanted_values[0], bound)?;

    let cotangent = ops::astype(&numbers(9, wanted_values[0].shape())?, dtype)?;
    let (m, n) = (mask.clone(), mask.clone());
    let (_, found) =
        transforms::vjp(move |x: &[Array]| ours(x, &m), x, std::slice::from_ref(&cotangent))?;
    let cotangent = ops::astype(&cotangent, Dtype::Float32)?;
    let (_, gradients) = transforms::vjp(move |x: &[Array]| wanted(x, &n), x, &[cotangent])?;
    for (found, wanted) in found.iter().zip(&gradients) {
        assert_eq!(found.dtype(), dtype);
        assert_close(found, &ops::astype(wanted, Dtype::Float32)?, 4.0 * bound)?;
    }
    Ok(())
}

fn masks(t: i32, s: i32, h: i32) -> Result<Vec<Kind>> {
    let seen = ops::greater(&numbers(5, &[t, s])?, &Array::scalar(-0.5_f32)?)?;
    let of_heads = ops::greater(&numbers(6, &[h, 1, s])?, &Array::scalar(0.0_f32)?)?;
    let added = numbers(7, &[1, h, t, s])?;
    let mut masks = vec![Kind::None, Kind::Array(seen), Kind::Array(of_heads), Kind::Array(added)];
    if t <= s {
        masks.push(Kind::Causal);
        // A window, and rows that lie one behind the other.
        let window: Vec<i32> = (s - t..s).map(|own| own - 4).collect();
        let rows: Vec<i32> = (s - t..s).map(|own| own / 5 * 5).collect();
        // Without any order, some before all keys and some behind the query's own.
        let any: Vec<i32> = (0..t).map(|i| i * 37 % (s + 5) - 3).collect();
        for first in [window, rows, any] {
            masks.push(Kind::From(Array::from_slice(&first, &[1, t])?));
        }
    }
    Ok(masks)
}

#[test]
fn shapes_and_masks() -> Result<()> {
    // One query and few (generation), many, more keys than queries, heads that share keys, values
    // of another length than keys, more than one block of queries.
    for shape in [
        [1, 1, 1, 1, 1, 1, 1],
        [2, 4, 2, 1, 37, 16, 16],
        [1, 3, 1, 2, 9, 5, 7],
        [2, 4, 2, 13, 13, 8, 8],
        [1, 6, 3, 33, 70, 24, 40],
        [1, 2, 1, 300, 500, 16, 16],
        [1, 2, 2, 7, 3, 4, 4],
        // A few rows of queries for a head of keys, of as many numbers as registers hold, and more.
        [1, 1, 1, 1, 21, 64, 80],
        [1, 6, 2, 1, 9, 130, 64],
        [1, 5, 1, 1, 9, 72, 128],
        [1, 8, 2, 2, 40, 64, 192],
    ] {
        let x = inputs(shape, Dtype::Float32)?;
        for mask in masks(shape[3], shape[4], shape[1])? {
            check(&x, &mask, 4e-6)?;
        }
    }
    Ok(())
}

#[test]
fn numbers_of_16_bits() -> Result<()> {
    for (dtype, unit) in [(Dtype::Bfloat16, 1.0 / 256.0), (Dtype::Float16, 1.0 / 2048.0)] {
        for shape in [[2, 4, 2, 1, 37, 16, 16], [1, 4, 2, 1, 20, 80, 16], [1, 4, 2, 40, 50, 16, 8]]
        {
            let x = inputs(shape, dtype)?;
            let window: Vec<i32> = (shape[4] - shape[3]..shape[4]).map(|own| own - 7).collect();
            let window = Kind::From(Array::from_slice(&window, &[1, shape[3]])?);
            for mask in [Kind::None, Kind::Causal, window] {
                check(&x, &mask, unit)?;
            }
        }
    }
    Ok(())
}

#[test]
fn arrays_that_are_not_contiguous() -> Result<()> {
    // (B, T, H, D) seen as (B, H, T, D), every second position, and keys that all heads share.
    let q = ops::transpose_axes(&numbers(1, &[2, 12, 4, 8])?, &[0, 2, 1, 3])?;
    let k = ops::slice(&numbers(2, &[2, 2, 24, 8])?, &[0, 0, 0, 0], &[2, 2, 24, 8], &[1, 1, 2, 1])?;
    let v = ops::broadcast_to(&numbers(3, &[1, 1, 12, 8])?, &[2, 2, 12, 8])?;
    let reversed =
        ops::slice(&numbers(4, &[2, 4, 8, 12])?, &[0, 0, -1, 0], &[2, 4, -9, 12], &[1, 1, -1, 1])?;
    for q in [q, ops::swapaxes(&reversed, -1, -2)?] {
        for mask in masks(12, 12, 4)? {
            check(&[q.clone(), k.clone(), v.clone()], &mask, 4e-6)?;
        }
    }
    Ok(())
}

#[test]
fn batches_whose_rows_begin_elsewhere() -> Result<()> {
    let x = inputs([2, 4, 2, 90, 90, 8, 8], Dtype::Float32)?;
    let begin = |starts: &[i32]| {
        let latest = |i: i32| *starts.iter().rfind(|&&start| start <= i).expect("one is 0");
        (0..90).map(latest).collect::<Vec<_>>()
    };
    let first = [begin(&[0, 1, 2, 50]), begin(&[0, 89])].concat();
    check(&x, &Kind::From(Array::from_slice(&first, &[2, 90])?), 4e-6)
}

#[test]
fn first_keys_of_dtypes_that_mlx_computes() -> Result<()> {
    let x = inputs([2, 4, 2, 6, 9, 4, 5], Dtype::Float64)?;
    let first = Kind::From(Array::from_slice(&[3, 3, 5, 6, 6, 6], &[1, 6])?);
    assert_close(&ours(&x, &first)?[0], &wanted(&x, &first)?[0], 1e-6)
}

#[test]
fn first_keys_that_do_not_fit_are_refused() -> Result<()> {
    let x = inputs([2, 4, 2, 6, 9, 4, 5], Dtype::Float32)?;
    let first = |shape: &[i32], dtype: Dtype| Ok(Kind::From(ops::zeros(shape, dtype)?));
    let wrong =
        [first(&[6], Dtype::Int32), first(&[1, 9], Dtype::Int32), first(&[1, 6], Dtype::Float32)];
    for first in wrong {
        let message = ours(&x, &first?).expect_err("it does not fit").to_string();
        assert!(message.contains("wanted int32 of shape [2, 6] or [1, 6]"), "{message}");
    }
    Ok(())
}

#[test]
fn a_query_that_sees_nothing_gets_the_mean() -> Result<()> {
    let x = inputs([1, 2, 1, 20, 20, 8, 8], Dtype::Float32)?;
    let nothing = ops::zeros(&[20, 20], Dtype::Bool)?;
    check(&x, &Kind::Array(nothing), 4e-6)
}

#[test]
fn every_byte_of_a_boolean_mask_but_zero_is_true() -> Result<()> {
    for (t, s) in [(1, 40), (20, 30)] {
        let x = inputs([1, 2, 1, t, s, 8, 8], Dtype::Float32)?;
        let bytes: Vec<u8> = (0..t * s).map(|i| [0, 2, 255, 1, 0][i as usize % 5]).collect();
        let truths: Vec<bool> = bytes.iter().map(|&byte| byte != 0).collect();
        let odd = ops::view(&Array::from_slice(&bytes, &[t, s])?, Dtype::Bool)?;
        let plain = Array::from_slice(&truths, &[t, s])?;
        // Row after row, and column after column.
        let column_wise = |x: &Array| {
            let columns = ops::contiguous(&ops::transpose(x)?, false)?;
            ops::transpose(&columns)
        };
        let odd_columns = {
            let bytes = column_wise(&Array::from_slice(&bytes, &[t, s])?)?;
            ops::transpose(&ops::view(&ops::transpose(&bytes)?, Dtype::Bool)?)?
        };
        for (odd, plain) in [(&odd, &plain), (&odd_columns, &column_wise(&plain)?)] {
            let run = |mask: &Array| {
                let mask = Kind::Array(mask.clone());
                let cotangent = numbers(9, &[1, 2, t, 8])?;
                transforms::vjp(move |x: &[Array]| ours(x, &mask), &x, &[cotangent])
            };
            let ((values, slopes), (wanted_values, wanted_slopes)) = (run(odd)?, run(plain)?);
            for (found, wanted) in
                values.iter().chain(&slopes).zip(wanted_values.iter().chain(&wanted_slopes))
            {
                assert_eq!(found.to_vec::<f32>()?, wanted.to_vec::<f32>()?);
            }
        }
    }
    Ok(())
}

#[test]
fn nan_and_infinity_spread() -> Result<()> {
    for (input, value) in [(0, f32::NAN), (1, f32::INFINITY), (2, f32::NAN), (2, f32::INFINITY)] {
        for t in [1, 16] {
            let mut x = inputs([1, 1, 1, t, 16, 4, 4], Dtype::Float32)?;
            let mut values = x[input].to_vec::<f32>()?;
            values[1] = value;
            x[input] = Array::from_slice(&values, x[input].shape())?;
            let theirs = fast::scaled_dot_product_attention(
                &x[0],
                &x[1],
                &x[2],
                SCALE,
                &ScaledDotProductAttentionOptions::default(),
            )?;
            let finite = |x: &Array| ops::isfinite(x)?.to_vec::<bool>();
            assert_eq!(finite(&ours(&x, &Kind::None)?[0])?, finite(&theirs)?);
        }
    }
    Ok(())
}

#[test]
fn derivatives_of_other_kinds() -> Result<()> {
    let x = inputs([2, 4, 2, 6, 9, 4, 5], Dtype::Float32)?;
    for mask in masks(6, 9, 4)? {
        let tangents: Vec<Array> =
            (0..3).map(|i| numbers(20 + i, x[i as usize].shape())).collect::<Result<_>>()?;
        let (m, n) = (mask.clone(), mask.clone());
        let (_, found) = transforms::jvp(move |x: &[Array]| ours(x, &m), &x, &tangents)?;
        let (_, wanted) = transforms::jvp(move |x: &[Array]| wanted(x, &n), &x, &tangents)?;
        assert_close(&found[0], &wanted[0], 2e-5)?;
    }
    // With respect to numbers that are added.
    let added = numbers(7, &[4, 6, 9])?;
    let of_mask = |attention: fn(&[Array], &Kind) -> Result<Vec<Array>>| {
        let x = x.clone();
        let cotangent = numbers(9, &[2, 4, 6, 5])?;
        let f = move |mask: &[Array]| attention(&x, &Kind::Array(mask[0].clone()));
        transforms::vjp(f, std::slice::from_ref(&added), &[cotangent])
    };
    assert_close(&of_mask(ours)?.1[0], &of_mask(wanted)?.1[0], 2e-5)
}

#[test]
fn vectorized_and_compiled() -> Result<()> {
    let x = inputs([2, 4, 2, 6, 9, 4, 4], Dtype::Float32)?;
    let stack = numbers(30, &[2, 4, 6, 4, 3])?;
    for mask in masks(6, 9, 4)? {
        let (m, k, v) = (mask.clone(), x[1].clone(), x[2].clone());
        let function = move |q: &[Array]| ours(&[q[0].clone(), k.clone(), v.clone()], &m);
        let mapped = transforms::vmap(
            function.clone(),
            std::slice::from_ref(&stack),
            &[Some(4)],
            &[Some(0)],
        )?;
        let compiled = transforms::compile(function, false)?;
        for i in 0..3 {
            let q = ops::take_axis(&stack, &Array::scalar(i)?, -1)?;
            let wanted = wanted(&[q.clone(), x[1].clone(), x[2].clone()], &mask)?;
            let one = ops::take_axis(&mapped[0], &Array::scalar(i)?, 0)?;
            assert_close(&one, &wanted[0], 4e-6)?;
            assert_close(&compiled.call(&[q])?[0], &wanted[0], 4e-6)?;
        }
    }
    Ok(())
}

#[test]
fn vectorized_over_nothing() -> Result<()> {
    let x = inputs([2, 4, 2, 6, 9, 4, 5], Dtype::Float32)?;
    for mask in masks(6, 9, 4)? {
        let (k, v, m) = (x[1].clone(), x[2].clone(), mask.clone());
        let values = move |q: &[Array]| ours(&[q[0].clone(), k.clone(), v.clone()], &m);
        let attention = values.clone();
        let slopes = move |q: &[Array]| {
            let f = values.clone();
            let loss = move |q: &[Array]| Ok(vec![ops::sum(&f(q)?[0], false)?]);
            transforms::grad(loss, &[0], q)
        };
        let nothing = [ops::zeros(&[2, 4, 0, 6, 4], Dtype::Float32)?];
        let found = transforms::vmap(attention, &nothing, &[Some(2)], &[Some(0)])?;
        assert_eq!(found[0].shape(), [0, 2, 4, 6, 5]);
        let found = transforms::vmap(slopes, &nothing, &[Some(2)], &[Some(0)])?;
        assert_eq!(found[0].shape(), [0, 2, 4, 6, 4]);
        transforms::eval(&found)?;
    }
    Ok(())
}

#[test]
fn what_the_kernel_does_not_know_runs_through_mlx() -> Result<()> {
    // Other dtypes side by side, and no key at all.
    let mut x = inputs([1, 2, 1, 3, 3, 4, 4], Dtype::Float32)?;
    x[0] = ops::astype(&x[0], Dtype::Float16)?;
    assert_eq!(ours(&x, &Kind::None)?[0].dtype(), Dtype::Float32);
    let x = inputs([1, 2, 1, 3, 3, 4, 4], Dtype::Float32)?;
    let error =
        scaled_dot_product_attention(&x[0], &x[1], &numbers(1, &[1, 1, 4, 4])?, 1.0, Mask::None);
    let theirs = fast::scaled_dot_product_attention(
        &x[0],
        &x[1],
        &numbers(1, &[1, 1, 4, 4])?,
        1.0,
        &ScaledDotProductAttentionOptions::default(),
    );
    let wording =
        |result: Result<Array>| result.and_then(|x| x.to_vec::<f32>()).err().map(|e| e.to_string());
    assert_eq!(wording(error), wording(theirs));
    Ok(())
}

#[test]
fn second_derivatives() -> Result<()> {
    let x = [numbers(1, &[1, 4, 5, 6])?, numbers(2, &[1, 2, 7, 6])?, numbers(3, &[1, 2, 7, 3])?];
    let slopes = |ours: bool, mask: Kind| {
        move |x: &[Array]| {
            let mask = mask.clone();
            let loss = move |x: &[Array]| {
                let out = if ours { self::ours(x, &mask)? } else { wanted(x, &mask)? };
                Ok(vec![ops::sum(&ops::square(&out[0])?, false)?])
            };
            transforms::grad(loss, &[0, 1, 2], x)
        }
    };
    let first = Array::from_slice(&[2, 0, 4, 5, 5], &[1, 5])?;
    let added = numbers(4, &[1, 4, 5, 7])?;
    for mask in [Kind::None, Kind::Causal, Kind::From(first), Kind::Array(added)] {
        let cotangents = x.iter().map(|x| numbers(5, x.shape())).collect::<Result<Vec<_>>>()?;
        let (_, found) = transforms::vjp(slopes(true, mask.clone()), &x, &cotangents)?;
        let (_, wanted) = transforms::vjp(slopes(false, mask), &x, &cotangents)?;
        for (found, wanted) in found.iter().zip(&wanted) {
            let size = ops::add(&ops::abs(wanted)?, &Array::scalar(1.0_f32)?)?;
            assert_within(found, wanted, &ops::multiply(&size, &Array::scalar(1e-4_f32)?)?);
        }
    }
    Ok(())
}
