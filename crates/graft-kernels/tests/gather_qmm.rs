//! `graft_kernels::gather_qmm` against products with what MLX unpacks.

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
use mlx_graft::ops::GatherQmmOptions;
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, ops, transforms};
use packed::{DTYPES, Packed, assert_product, formats, of};
use picks::{assert_close, gathered, indices};

type Multiply = fn(&Array, &Array, &Array, &GatherQmmOptions<'_>) -> Result<Array>;
type Picks<'a> = [Option<&'a Array>; 2];

fn by(multiply: Multiply, packed: &Packed, x: &Array, [lhs, rhs]: Picks<'_>) -> Result<Array> {
    let options = GatherQmmOptions::default()
        .biases(packed.arrays.get(2))
        .lhs_indices(lhs)
        .rhs_indices(rhs)
        .transpose(packed.transpose)
        .group_size(packed.group_size)
        .bits(packed.bits)
        .mode(packed.mode);
    multiply(x, &packed.arrays[0], &packed.arrays[1], &options)
}

fn ours(packed: &Packed, x: &Array, picks: Picks<'_>) -> Result<Array> {
    by(graft_kernels::gather_qmm, packed, x, picks)
}

/// Compares the products with those of the gathered matrices, unpacked.
#[track_caller]
fn check(packed: &Packed, x: &Array, picks: Picks<'_>) -> Result<()> {
    let found = ours(packed, x, picks)?;
    let (numbers, reach) = packed.unpacked()?;
    let (numbers, reach) = (gathered(&numbers, picks[1])?, gathered(&reach, picks[1])?);
    let x = gathered(x, picks[0])?;
    let x = ops::broadcast_to(
        &x,
        &[&found.shape()[..found.ndim() - 2], &x.shape()[x.ndim() - 2..]].concat(),
    )?;
    assert_product(&found, &x, &numbers, &reach)
}

#[test]
fn all_formats_and_orientations() -> Result<()> {
    for format in formats() {
        for (dtype, scale_dtype) in DTYPES.into_iter().zip([DTYPES[0], DTYPES[1], DTYPES[0]]) {
            for transpose in [true, false] {
                let w = numbers(1, &[5, 37, 128])?;
                let packed = Packed::new(format, transpose, scale_dtype, &w)?;
                let length = if transpose { 128 } else { 37 };
                // Experts with one row, with a few, and with many.
                for (tokens, top) in [(1, 2), (9, 2), (40, 1), (40, 3)] {
                    let x = of(dtype, 2, &[tokens, 1, 1, length])?;
                    check(&packed, &x, [None, Some(&indices(3, &[tokens, top], 5)?)])?;
                }
            }
        }
    }
    Ok(())
}

/// Few rows meet one expert and many another, as when experts are loved unequally.
#[test]
fn experts_of_unequal_load() -> Result<()> {
    for format in [("affine", 64, 4), ("affine", 128, 8), ("affine", 32, 3), ("mxfp8", 32, 8)] {
        for dtype in DTYPES {
            let packed = Packed::new(format, true, Dtype::Float32, &numbers(1, &[4, 130, 256])?)?;
            let mut picked = vec![2; 100];
            picked[7] = 0;
            picked[30..45].fill(3);
            let x = of(dtype, 2, &[100, 1, 256])?;
            check(&packed, &x, [None, Some(&Array::from_slice(&picked, &[100])?)])?;
            picked.sort_unstable();
            check(&packed, &x, [None, Some(&Array::from_slice(&picked, &[100])?)])?;
        }
    }
    Ok(())
}

#[test]
fn indices_of_both_sides_and_strides() -> Result<()> {
    for transpose in [true, false] {
        let format = ("affine", 32, 4);
        let packed = Packed::new(format, transpose, Dtype::Float32, &numbers(1, &[5, 64, 64])?)?;
        let x = numbers(2, &[2, 3, 4, 64])?;
        let (lhs, rhs) = (indices(3, &[7, 1], 6)?, indices(4, &[1, 2], 5)?);
        check(&packed, &x, [Some(&lhs), Some(&rhs)])?;
        check(&packed, &x, [Some(&lhs), None])?;
        check(&packed, &numbers(2, &[3, 4, 64])?, [None, Some(&indices(5, &[2, 3], 5)?)])?;
        check(&packed, &numbers(2, &[4, 64])?, [None, Some(&Array::scalar(3)?)])?;
        let turned = ops::swapaxes(&numbers(2, &[6, 64, 9])?, -1, -2)?;
        let view = ops::slice(&lhs, &[6, 0], &[-8, 1], &[-2, 1])?;
        check(&packed, &turned, [Some(&view), Some(&ops::astype(&rhs, Dtype::Uint32)?)])?;
        // Quantized matrices in other strides.
        let mut swapped =
            Packed::new(format, transpose, Dtype::Float32, &numbers(1, &[64, 3, 64])?)?;
        for array in &mut swapped.arrays {
            *array = ops::swapaxes(array, 0, 1)?;
        }
        check(&swapped, &x, [Some(&lhs), Some(&indices(4, &[1, 2], 3)?)])?;
        // Stacks of stacks.
        let stacks = Packed::new(format, transpose, Dtype::Float32, &numbers(1, &[2, 3, 64, 64])?)?;
        check(&stacks, &x, [Some(&lhs), Some(&indices(4, &[7, 2], 6)?)])?;
    }
    Ok(())
}

#[test]
fn without_indices_it_is_the_packed_product() -> Result<()> {
    let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, &[3, 8, 32])?)?;
    let x = numbers(2, &[3, 5, 32])?;
    assert_close(1e-6, &ours(&packed, &x, [None, None])?, &packed.multiply(&x)?)
}

#[test]
fn nothing_and_sums_of_nothing() -> Result<()> {
    let packed = |shape: &[i32]| {
        let zeros = |dtype, last: i32| ops::zeros(&[shape, &[last]].concat(), dtype);
        let scales = zeros(Dtype::Float32, 1)?;
        let arrays = vec![zeros(Dtype::Uint32, 8)?, scales.clone(), scales];
        Result::Ok(Packed { mode: "affine", group_size: 64, bits: 4, transpose: true, arrays })
    };
    let none = indices(1, &[0], 1)?;
    let some = indices(1, &[3], 2)?;
    let y = ours(&packed(&[2, 5])?, &numbers(1, &[2, 1, 64])?, [Some(&none), Some(&none)])?;
    assert_eq!(y.shape(), [0, 1, 5]);
    let y = ours(&packed(&[0, 5])?, &numbers(1, &[0, 1, 64])?, [Some(&none), Some(&none)])?;
    assert_eq!(y.shape(), [0, 1, 5]);
    y.eval()?;
    let y = ours(&packed(&[2, 0])?, &numbers(1, &[2, 1, 64])?, [Some(&some), Some(&some)])?;
    assert_eq!(y.shape(), [3, 1, 0]);
    y.eval()?;
    let y = ours(&packed(&[2, 5])?, &numbers(1, &[2, 0, 64])?, [Some(&some), Some(&some)])?;
    assert_eq!(y.shape(), [3, 0, 5]);
    y.eval()?;
    let backward = Packed { transpose: false, ..packed(&[2, 0])? };
    let y = ours(&backward, &numbers(1, &[2, 1, 0])?, [Some(&some), Some(&some)])?;
    assert_eq!(y.to_vec::<f32>()?, [0.0; 3 * 64]);
    Ok(())
}

#[test]
fn infinities_and_nan_stay_with_their_rows() -> Result<()> {
    let wide = |x: &Array| ops::astype(x, Dtype::Float32);
    let kinds = DTYPES.into_iter().zip([1e-4, 2e-2, 3e-3]);
    let formats = [("affine", 64, 4), ("affine", 64, 3), ("mxfp4", 32, 4)];
    for (format, (dtype, bound)) in
        formats.into_iter().flat_map(|format| kinds.clone().map(move |kind| (format, kind)))
    {
        let packed = Packed::new(format, true, dtype, &numbers(1, &[3, 20, 128])?)?;
        let unpacked = packed.unpacked()?.0;
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for tokens in [4, 60] {
                let mut values = numbers(2, &[tokens, 1, 128])?.to_vec::<f32>()?;
                values[128 + 7] = special;
                let x = ops::astype(&Array::from_slice(&values, &[tokens, 1, 128])?, dtype)?;
                let rhs = indices(3, &[tokens], 3)?;
                let found = ours(&packed, &x, [None, Some(&rhs)])?;
                assert_eq!(found.dtype(), dtype);
                let found = wide(&found)?.to_vec::<f32>()?;
                let wanted = ops::matmul(&wide(&x)?, &gathered(&unpacked, Some(&rhs))?)?;
                let wanted = wide(&ops::astype(&wanted, dtype)?)?.to_vec::<f32>()?;
                for (i, (x, y)) in found.iter().zip(&wanted).enumerate() {
                    assert_eq!(x.is_finite(), i / 20 != 1);
                    let same = x.is_nan() && y.is_nan() || x.to_bits() == y.to_bits();
                    assert!(same || (x - y).abs() <= bound * y.abs().max(1.0), "{x} {y}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_to_x() -> Result<()> {
    for format in formats() {
        for transpose in [true, false] {
            let w = numbers(1, &[3, 128, 256])?;
            let packed = Packed::new(format, transpose, Dtype::Float32, &w)?;
            let (numbers_of, reach) = packed.unpacked()?;
            let k = numbers_of.dim(1)?;
            for (tokens, dtype) in [(2, DTYPES[0]), (40, DTYPES[1]), (40, DTYPES[0])] {
                let rhs = indices(3, &[tokens], 3)?;
                let x = of(dtype, 2, &[tokens, 1, k])?;
                let packed = Packed { arrays: packed.arrays.clone(), ..packed };
                let y = ours(&packed, &x, [None, Some(&rhs)])?;
                let (g, moved) = (of(y.dtype(), 4, y.shape())?, of(dtype, 5, x.shape())?);
                let picks = rhs.clone();
                let again = Packed { arrays: packed.arrays.clone(), ..packed };
                let function =
                    move |x: &[Array]| Ok(vec![ours(&packed, &x[0], [None, Some(&picks)])?]);
                let (_, found) = transforms::vjp(function, from_ref(&x), from_ref(&g))?;
                assert_eq!(found[0].dtype(), dtype);
                let pick = |x: &Array| gathered(x, Some(&rhs));
                let turned = |x: &Array| ops::swapaxes(&pick(x)?, -1, -2);
                assert_product(&found[0], &g, &turned(&numbers_of)?, &turned(&reach)?)?;
                let picks = rhs.clone();
                let function =
                    move |x: &[Array]| Ok(vec![ours(&again, &x[0], [None, Some(&picks)])?]);
                let (_, found) = transforms::jvp(function, &[x], from_ref(&moved))?;
                assert_product(&found[0], &moved, &pick(&numbers_of)?, &pick(&reach)?)?;
            }
        }
    }
    Ok(())
}

/// A function of `x` for a stack of experts, and the same of what is unpacked.
type Function = Box<dyn Fn(&[Array]) -> Result<Vec<Array>>>;

fn both(picks: Picks<'_>) -> Result<[Function; 2]> {
    let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, &[3, 64, 32])?)?;
    let unpacked = packed.unpacked()?.0;
    let (picks, same) = (picks.map(Option::<&Array>::cloned), picks.map(Option::<&Array>::cloned));
    let ours =
        move |x: &[Array]| Ok(vec![ours(&packed, &x[0], picks.each_ref().map(Option::as_ref))?]);
    let theirs = move |x: &[Array]| {
        let (x, w) = (gathered(&x[0], same[0].as_ref())?, gathered(&unpacked, same[1].as_ref())?);
        Ok(vec![ops::matmul(&x, &w)?])
    };
    Ok([Box::new(ours), Box::new(theirs)])
}

#[test]
fn gradients_to_what_is_picked_often() -> Result<()> {
    let (lhs, rhs) = (indices(1, &[7, 1], 4)?, indices(2, &[2], 3)?);
    for (picks, shape) in [
        ([Some(&lhs), Some(&rhs)], [2, 2, 5, 32]),
        ([None, Some(&rhs)], [4, 1, 5, 32]),
        ([Some(&lhs), None], [2, 2, 5, 32]),
    ] {
        let x = numbers(2, &shape)?;
        let [ours, theirs] = both(picks)?;
        let g = numbers(3, theirs(from_ref(&x))?[0].shape())?;
        let (_, found) = transforms::vjp(ours, from_ref(&x), from_ref(&g))?;
        let (_, wanted) = transforms::vjp(theirs, &[x], &[g])?;
        assert_close(1e-5, &found[0], &wanted[0])?;
    }
    Ok(())
}

#[test]
fn second_derivatives() -> Result<()> {
    let rhs = indices(2, &[4, 2], 3)?;
    let x = numbers(2, &[4, 1, 1, 32])?;
    let slopes = |function: Function| {
        let function = std::rc::Rc::new(function);
        move |x: &[Array]| {
            let function = function.clone();
            let loss =
                move |x: &[Array]| Ok(vec![ops::sum(&ops::square(&function(x)?[0])?, false)?]);
            transforms::grad(loss, &[0], x)
        }
    };
    let [ours, theirs] = both([None, Some(&rhs)])?.map(slopes);
    let like = numbers(3, x.shape())?;
    let (_, found) = transforms::vjp(ours, from_ref(&x), from_ref(&like))?;
    let (_, wanted) = transforms::vjp(theirs, &[x], &[like])?;
    assert_close(1e-4, &found[0], &wanted[0])
}

#[test]
fn vectorized() -> Result<()> {
    type Axes = [Option<i32>; 4];
    // Mapped axes of x (4, 2, 32), packed (3, 64, 32), left indices (7) and right ones (2, 1).
    let cases: &[Axes] = &[
        [Some(0), None, None, None],
        [Some(3), None, None, None],
        [None, Some(0), None, None],
        [None, None, Some(0), None],
        [None, None, None, Some(1)],
        [Some(1), Some(1), Some(1), Some(0)],
    ];
    let shapes: [&[i32]; 4] = [&[4, 2, 32], &[3, 64, 32], &[7], &[2, 1]];
    for axes in cases {
        let shape = |i: usize| {
            let mut shape = shapes[i].to_vec();
            if let Some(axis) = axes[i] {
                shape.insert(axis as usize, 3);
            }
            shape
        };
        let format = ("affine", 32, 4);
        let packed = Packed::new(format, true, Dtype::Float32, &numbers(1, &shape(1))?)?;
        let mut inputs = vec![numbers(2, &shape(0))?];
        inputs.extend(packed.arrays);
        inputs.extend([indices(2, &shape(2), 4)?, indices(3, &shape(3), 3)?]);
        let all_axes = [axes[0], axes[1], axes[1], axes[1], axes[2], axes[3]];
        let one = move |x: &[Array]| {
            let packed = Packed { arrays: x[1..4].to_vec(), ..packed_like() };
            Ok(vec![ours(&packed, &x[0], [Some(&x[4]), Some(&x[5])])?])
        };
        let found = transforms::vmap(one, &inputs, &all_axes, &[Some(0)])?.remove(0);
        let at = |i: i32, n: usize| match all_axes[n] {
            Some(axis) => ops::take_axis(&inputs[n], &Array::scalar(i)?, axis),
            None => Ok(inputs[n].clone()),
        };
        let single = (0..3).map(|i| {
            let x = (0..6).map(|n| at(i, n)).collect::<Result<Vec<_>>>()?;
            Ok(one(&x)?.remove(0))
        });
        assert_close(1e-5, &found, &ops::stack(&single.collect::<Result<Vec<_>>>()?)?)?;
    }
    Ok(())
}

/// The format of the packed arrays above.
fn packed_like() -> Packed {
    Packed { mode: "affine", group_size: 32, bits: 4, transpose: true, arrays: Vec::new() }
}

#[test]
fn compiled_with_changing_shapes() -> Result<()> {
    let packed = Packed::new(("affine", 64, 4), true, Dtype::Float32, &numbers(1, &[3, 40, 128])?)?;
    let unpacked = packed.unpacked()?.0;
    let function =
        move |x: &[Array]| Ok(vec![ops::exp(&ours(&packed, &x[0], [None, Some(&x[1])])?)?]);
    let compiled = transforms::compile(function, true)?;
    for tokens in [4, 190, 1] {
        let (x, rhs) = (numbers(2, &[tokens, 1, 128])?, indices(3, &[tokens], 3)?);
        let wanted = ops::exp(&ops::matmul(&x, &gathered(&unpacked, Some(&rhs))?)?)?;
        assert_close(1e-4, &compiled.call(&[x, rhs])?[0], &wanted)?;
    }
    Ok(())
}

#[test]
fn an_index_out_of_range_is_an_error() -> Result<()> {
    let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, &[3, 8, 32])?)?;
    let x = numbers(2, &[2, 1, 32])?;
    let right = Array::from_slice(&[0, 1], &[2])?;
    for (i, wrong) in [[0, 3], [-1, 0], [0, i32::MAX]].iter().enumerate() {
        let wrong = Array::from_slice(wrong, &[2])?;
        let picks =
            if i == 1 { [Some(&wrong), Some(&right)] } else { [Some(&right), Some(&wrong)] };
        let error = ours(&packed, &x, picks)?.eval().expect_err("out of range");
        assert!(matches!(error, Error::Index { .. }), "{error}");
    }
    Ok(())
}

#[test]
fn what_is_not_known_here_is_left_to_mlx() -> Result<()> {
    let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, &[2, 8, 32])?)?;
    let rhs = indices(1, &[2], 2)?;
    let wrong = |x: &Array, rhs: &Array, format: (&'static str, i32, i32)| -> Result<()> {
        let (mode, group_size, bits) = format;
        let packed = Packed { mode, group_size, bits, arrays: packed.arrays.clone(), ..packed };
        let picks = [None, Some(rhs)];
        let found = ours(&packed, x, picks).unwrap_err();
        let wanted = by(ops::gather_qmm, &packed, x, picks).unwrap_err();
        assert_eq!(found.kind(), ErrorKind::InvalidArgument);
        assert_eq!(found.to_string(), wanted.to_string());
        Ok(())
    };
    let x = numbers(2, &[2, 3, 32])?;
    wrong(&numbers(2, &[2, 3, 33])?, &rhs, ("affine", 32, 4))?;
    wrong(&x, &rhs, ("affine", 64, 4))?;
    wrong(&x, &rhs, ("affine", 32, 8))?;
    wrong(&x, &rhs, ("mxfp4", 32, 4))?;
    wrong(&x, &rhs, ("other", 32, 4))?;
    wrong(&x, &indices(1, &[3], 2)?, ("affine", 32, 4))?;
    wrong(&x, &numbers(1, &[2])?, ("affine", 32, 4))?;
    wrong(&ops::astype(&x, Dtype::Complex64)?, &rhs, ("affine", 32, 4))
}

/// Functions of x, scales and biases.
#[test]
fn gradients_to_scales_and_biases_are_those_of_mlx() -> Result<()> {
    let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, &[3, 24, 64])?)?;
    let inputs = [numbers(2, &[6, 1, 64])?, packed.arrays[1].clone(), packed.arrays[2].clone()];
    let of_all = |multiply: Multiply| {
        let w = packed.arrays[0].clone();
        move |x: &[Array]| {
            let rhs = indices(3, &[6], 3)?;
            let options = GatherQmmOptions::default().biases(&x[2]).rhs_indices(&rhs);
            Ok(vec![multiply(&x[0], &w, &x[1], &options.group_size(32))?])
        }
    };
    let g = [numbers(3, &[6, 1, 24])?];
    let (_, found) = transforms::vjp(of_all(graft_kernels::gather_qmm), &inputs, &g)?;
    let (_, wanted) = transforms::vjp(of_all(ops::gather_qmm), &inputs, &g)?;
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_close(1e-4, found, wanted)?;
    }
    Ok(())
}
