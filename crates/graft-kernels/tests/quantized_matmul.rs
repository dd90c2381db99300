//! `graft_kernels::quantized_matmul` against products with what MLX unpacks.

#[allow(dead_code)] // of what the tests share, a part
mod common;
#[allow(dead_code)]
#[path = "common/packed.rs"]
mod packed;

use std::slice::from_ref;

use common::{assert_within, numbers};
use mlx_graft::ops::QuantizedMatmulOptions;
use mlx_graft::{Array, Dtype, ErrorKind, Result, ops, transforms};
use packed::{DTYPES, Multiply, Packed, assert_product, formats, of};

#[test]
fn all_formats_rows_and_orientations() -> Result<()> {
    for format in formats() {
        for (dtype, scale_dtype) in DTYPES.into_iter().zip([DTYPES[0], DTYPES[1], DTYPES[0]]) {
            for (n, k) in [(7, 128), (67, 384), (33, 1152)] {
                let forward = Packed::new(format, true, scale_dtype, &numbers(1, &[n, k])?)?;
                let backward = Packed::new(format, false, scale_dtype, &numbers(2, &[n, k])?)?;
                for rows in [1, 2, 3, 4, 5, 8, 9, 37] {
                    forward.check(&of(dtype, 3, &[rows, k])?)?;
                    backward.check(&of(dtype, 4, &[rows, n])?)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn lengths_that_fill_no_register() -> Result<()> {
    for format in formats() {
        for groups in [1, 2, 3, 5, 7, 9] {
            let k = format.1.max(32) * groups;
            let packed = Packed::new(format, true, Dtype::Float16, &numbers(1, &[5, k])?)?;
            packed.check(&numbers(2, &[k])?)?;
            packed.check(&numbers(3, &[3, k])?)?;
            packed.check(&numbers(3, &[11, k])?)?;
        }
    }
    Ok(())
}

#[test]
fn sizes_that_are_shared_among_threads() -> Result<()> {
    for format in [("affine", 64, 4), ("affine", 128, 8), ("mxfp8", 32, 8)] {
        for (n, k) in [(1030, 256), (300, 1024)] {
            let forward = Packed::new(format, true, Dtype::Float32, &numbers(1, &[n, k])?)?;
            let backward = Packed::new(format, false, Dtype::Float32, &numbers(2, &[n, k])?)?;
            for rows in [1, 6, 20, 530] {
                forward.check(&numbers(3, &[rows, k])?)?;
                backward.check(&numbers(4, &[rows, n])?)?;
            }
        }
    }
    Ok(())
}

/// Sums of more steps, and matrices of more columns, than are unpacked at a time.
#[test]
fn matrices_that_are_unpacked_in_parts() -> Result<()> {
    for (n, k) in [(2200, 1152), (96, 4224)] {
        for format in [("affine", 64, 4), ("affine", 128, 3), ("mxfp4", 32, 4)] {
            let forward = Packed::new(format, true, Dtype::Bfloat16, &numbers(1, &[n, k])?)?;
            let backward = Packed::new(format, false, Dtype::Bfloat16, &numbers(2, &[n, k])?)?;
            forward.check(&of(Dtype::Bfloat16, 3, &[50, k])?)?;
            backward.check(&of(Dtype::Bfloat16, 4, &[50, n])?)?;
        }
    }
    Ok(())
}

#[test]
fn stacks_and_strides() -> Result<()> {
    let format = ("affine", 32, 4);
    for transpose in [true, false] {
        let packed =
            |shape: &[i32]| Packed::new(format, transpose, Dtype::Float32, &numbers(1, shape)?);
        let one = packed(&[64, 64])?;
        for dtype in DTYPES {
            for shape in [&[64][..], &[5, 64], &[2, 3, 4, 64], &[2, 1, 64], &[0, 64], &[3, 0, 64]] {
                one.check(&of(dtype, 2, shape)?)?;
            }
            let x = of(dtype, 3, &[4, 64, 6])?;
            one.check(&ops::swapaxes(&x, -1, -2)?)?;
            one.check(&ops::slice(&of(dtype, 4, &[9, 128])?, &[8, 127], &[-10, -129], &[-2, -2])?)?;
            one.check(&ops::broadcast_to(&of(dtype, 5, &[1, 64])?, &[9, 64])?)?;
        }
        // Keys of attention: (batch, heads, 1, tokens, channels) and several queries to each head.
        for rows in [2, 12] {
            packed(&[2, 3, 1, 64, 64])?.check(&numbers(2, &[2, 3, 4, rows, 64])?)?;
            packed(&[3, 64, 64])?.check(&numbers(2, &[2, 1, rows, 64])?)?;
            packed(&[2, 1, 64, 64])?.check(&numbers(2, &[1, 5, rows, 64])?)?;
        }
        // A quantized matrix in other strides.
        let mut swapped = packed(&[64, 3, 64])?;
        for array in &mut swapped.arrays {
            *array = ops::swapaxes(array, 0, 1)?;
        }
        swapped.check(&numbers(2, &[3, 5, 64])?)?;
    }
    Ok(())
}

#[test]
fn nothing_and_sums_of_nothing() -> Result<()> {
    let empty = |shape: &[i32], dtype| ops::zeros(shape, dtype);
    for dtype in DTYPES {
        let (w, scales) = (empty(&[0, 8], Dtype::Uint32)?, empty(&[0, 1], dtype)?);
        let multiply = |x: &Array, transpose| {
            let options = QuantizedMatmulOptions::default().biases(&scales).transpose(transpose);
            graft_kernels::quantized_matmul(x, &w, &scales, &options)
        };
        assert_eq!(multiply(&empty(&[3, 64], dtype)?, true)?.shape(), [3, 0]);
        let nothing = multiply(&empty(&[3, 0], dtype)?, false)?;
        assert_eq!(nothing.dtype(), dtype);
        assert_eq!(ops::astype(&nothing, Dtype::Float32)?.to_vec::<f32>()?, [0.0; 192]);
    }
    Ok(())
}

#[test]
fn infinities_and_nan_spread_as_in_the_unpacked_product() -> Result<()> {
    let wide = |x: &Array| ops::astype(x, Dtype::Float32);
    let kinds = DTYPES.into_iter().zip([1e-4, 2e-2, 3e-3]);
    for (format, (dtype, bound)) in
        formats().into_iter().flat_map(|format| kinds.clone().map(move |kind| (format, kind)))
    {
        for transpose in [true, false] {
            let packed = Packed::new(format, transpose, dtype, &numbers(1, &[128, 128])?)?;
            let (numbers_of, _) = packed.unpacked()?;
            for rows in [1, 3, 20] {
                for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
                    let mut values = numbers(2, &[rows, 128])?.to_vec::<f32>()?;
                    values[77] = special;
                    let x = ops::astype(&Array::from_slice(&values, &[rows, 128])?, dtype)?;
                    let found = packed.multiply(&x)?;
                    assert_eq!(found.dtype(), dtype);
                    let found = wide(&found)?.to_vec::<f32>()?;
                    let wanted = ops::astype(&ops::matmul(&wide(&x)?, &numbers_of)?, dtype)?;
                    let wanted = wide(&wanted)?.to_vec::<f32>()?;
                    assert!(special.abs() <= f32::MAX || wanted.iter().any(|x| !x.is_finite()));
                    for (x, y) in found.iter().zip(&wanted) {
                        let same = x.is_nan() && y.is_nan() || x.to_bits() == y.to_bits();
                        assert!(same || (x - y).abs() <= bound * y.abs().max(1.0), "{x} {y}");
                    }
                }
            }
            // Zero times anything finite is zero, and an empty row says nothing about the others.
            let zeros = wide(&packed.multiply(&ops::zeros(&[3, 128], dtype)?)?)?;
            assert!(zeros.to_vec::<f32>()?.iter().all(|x| x.to_bits() << 1 == 0));
        }
    }
    Ok(())
}

#[test]
fn gradients_to_x() -> Result<()> {
    for format in formats() {
        for transpose in [true, false] {
            let packed = Packed::new(format, transpose, Dtype::Float32, &numbers(1, &[128, 256])?)?;
            let (numbers_of, reach) = packed.unpacked()?;
            let turned = ops::swapaxes(&numbers_of, -1, -2)?;
            let turned_reach = ops::swapaxes(&reach, -1, -2)?;
            let (k, n) = (numbers_of.dim(0)?, numbers_of.dim(1)?);
            for (rows, dtype) in [(1, DTYPES[0]), (5, DTYPES[1]), (19, DTYPES[0]), (19, DTYPES[2])]
            {
                let x = of(dtype, 2, &[2, rows, k])?;
                let packed = Packed { arrays: packed.arrays.clone(), ..packed };
                let product = packed.multiply(&x)?;
                let cotangent = of(product.dtype(), 3, &[2, rows, n])?;
                let tangent = of(dtype, 4, &[2, rows, k])?;
                let again = Packed { arrays: packed.arrays.clone(), ..packed };
                let function = move |x: &[Array]| Ok(vec![packed.multiply(&x[0])?]);
                let (_, found) = transforms::vjp(function, from_ref(&x), from_ref(&cotangent))?;
                assert_eq!(found[0].dtype(), dtype);
                assert_product(&found[0], &cotangent, &turned, &turned_reach)?;
                let function = move |x: &[Array]| Ok(vec![again.multiply(&x[0])?]);
                let (_, found) = transforms::jvp(function, &[x], from_ref(&tangent))?;
                assert_product(&found[0], &tangent, &numbers_of, &reach)?;
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_to_a_broadcast_x() -> Result<()> {
    let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, &[3, 64, 32])?)?;
    let x = numbers(2, &[1, 5, 32])?;
    let cotangent = numbers(3, &[3, 5, 64])?;
    let (numbers_of, _) = packed.unpacked()?;
    let ours = move |x: &[Array]| Ok(vec![packed.multiply(&x[0])?]);
    let theirs = move |x: &[Array]| Ok(vec![ops::matmul(&x[0], &numbers_of)?]);
    let (_, found) = transforms::vjp(ours, from_ref(&x), from_ref(&cotangent))?;
    let (_, wanted) = transforms::vjp(theirs, &[x], &[cotangent])?;
    let bound = ops::broadcast_to(&Array::scalar(1e-4_f32)?, wanted[0].shape())?;
    assert_within(&found[0], &wanted[0], &bound);
    Ok(())
}

/// A function of x, scales and biases.
fn of_all(multiply: Multiply, w: Array) -> impl Fn(&[Array]) -> Result<Vec<Array>> + 'static {
    move |x: &[Array]| {
        let options = QuantizedMatmulOptions::default().biases(&x[2]).group_size(32);
        Ok(vec![multiply(&x[0], &w, &x[1], &options)?])
    }
}

#[test]
fn gradients_to_scales_and_biases_are_those_of_mlx() -> Result<()> {
    let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, &[24, 64])?)?;
    let inputs = [numbers(2, &[6, 64])?, packed.arrays[1].clone(), packed.arrays[2].clone()];
    let cotangents = [numbers(3, &[6, 24])?];
    let w = || packed.arrays[0].clone();
    let (_, found) =
        transforms::vjp(of_all(graft_kernels::quantized_matmul, w()), &inputs, &cotangents)?;
    let (_, wanted) = transforms::vjp(of_all(ops::quantized_matmul, w()), &inputs, &cotangents)?;
    for (found, wanted) in found.iter().zip(&wanted) {
        let bound = ops::broadcast_to(&Array::scalar(1e-4_f32)?, wanted.shape())?;
        assert_within(found, wanted, &bound);
    }
    let found = transforms::jvp(of_all(graft_kernels::quantized_matmul, w()), &inputs, &inputs)
        .unwrap_err();
    let wanted = transforms::jvp(of_all(ops::quantized_matmul, w()), &inputs, &inputs).unwrap_err();
    assert_eq!(found.to_string(), wanted.to_string());
    Ok(())
}

/// The product of x, words, scales and biases.
fn by(multiply: Multiply, x: &[Array]) -> Result<Array> {
    let options = QuantizedMatmulOptions::default().biases(&x[3]).group_size(32);
    multiply(&x[0], &x[1], &x[2], &options)
}

#[test]
fn vectorized() -> Result<()> {
    type Axes = [Option<i32>; 2];
    let cases: &[(&[i32], &[i32], Axes)] = &[
        (&[6, 5, 64], &[32, 64], [Some(0), None]),
        (&[5, 6, 64], &[32, 64], [Some(1), None]),
        (&[6, 64], &[32, 64], [Some(0), None]),
        (&[64, 6], &[32, 64], [Some(1), None]),
        (&[5, 64], &[6, 32, 64], [None, Some(0)]),
        (&[64], &[6, 32, 64], [None, Some(0)]),
        (&[6, 64], &[6, 32, 64], [Some(0), Some(0)]),
        (&[2, 6, 5, 64], &[32, 6, 64], [Some(1), Some(1)]),
        (&[6, 2, 5, 64], &[2, 32, 64], [Some(0), None]),
        (&[2, 5, 64], &[2, 6, 32, 64], [None, Some(1)]),
    ];
    for (x, w, axes) in cases {
        let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, w)?)?;
        let mut inputs = vec![numbers(2, x)?];
        inputs.extend(packed.arrays);
        let multiply = |x: &[Array]| Ok(vec![by(graft_kernels::quantized_matmul, x)?]);
        let all_axes = [axes[0], axes[1], axes[1], axes[1]];
        let found = transforms::vmap(multiply, &inputs, &all_axes, &[Some(0)])?;
        // One product after the other.
        let at = |i: i32, n: usize| match all_axes[n] {
            Some(axis) => ops::take_axis(&inputs[n], &Array::scalar(i)?, axis),
            None => Ok(inputs[n].clone()),
        };
        let single = (0..6).map(|i| {
            let x = (0..4).map(|n| at(i, n)).collect::<Result<Vec<_>>>()?;
            by(ops::quantized_matmul, &x)
        });
        let wanted = ops::stack(&single.collect::<Result<Vec<_>>>()?)?;
        let bound = ops::broadcast_to(&Array::scalar(1e-4_f32)?, wanted.shape())?;
        assert_within(&found[0], &wanted, &bound);
    }
    Ok(())
}

#[test]
fn compiled_with_changing_shapes() -> Result<()> {
    let packed = Packed::new(("affine", 64, 4), true, Dtype::Float32, &numbers(1, &[40, 128])?)?;
    let by_mlx = Packed { arrays: packed.arrays.clone(), ..packed };
    let function = move |x: &[Array]| Ok(vec![ops::exp(&packed.multiply(&x[0])?)?]);
    let compiled = transforms::compile(function, true)?;
    for rows in [4, 19, 1] {
        let x = numbers(2, &[2, rows, 128])?;
        let wanted = ops::exp(&by_mlx.multiply_by_mlx(&x)?)?;
        let bound = ops::multiply(&wanted, &Array::scalar(1e-4_f32)?)?;
        assert_within(&compiled.call(&[x])?[0], &wanted, &bound);
    }
    Ok(())
}

#[test]
fn what_is_not_known_here_is_left_to_mlx() -> Result<()> {
    let packed = Packed::new(("affine", 32, 4), true, Dtype::Float32, &numbers(1, &[2, 8, 32])?)?;
    // MLX multiplies an `x` that is no stack with the first of a stack.
    let x = numbers(2, &[3, 32])?;
    let (found, wanted) = (packed.multiply(&x)?, packed.multiply_by_mlx(&x)?);
    assert_eq!(found.to_vec::<f32>()?, wanted.to_vec::<f32>()?);

    let wrong = |x: &Array, format: (&'static str, i32, i32)| -> Result<()> {
        let (mode, group_size, bits) = format;
        let packed = Packed { mode, group_size, bits, arrays: packed.arrays.clone(), ..packed };
        let (found, wanted) =
            (packed.multiply(x).unwrap_err(), packed.multiply_by_mlx(x).unwrap_err());
        assert_eq!(found.kind(), ErrorKind::InvalidArgument);
        assert_eq!(found.to_string(), wanted.to_string());
        Ok(())
    };
    wrong(&numbers(2, &[3, 33])?, ("affine", 32, 4))?;
    wrong(&numbers(2, &[3, 32])?, ("affine", 64, 4))?;
    wrong(&numbers(2, &[3, 32])?, ("affine", 32, 8))?;
    wrong(&numbers(2, &[3, 32])?, ("mxfp4", 32, 4))?;
    wrong(&numbers(2, &[3, 32])?, ("other", 32, 4))?;
    wrong(&numbers(2, &[3, 3, 32])?, ("affine", 32, 4))?;
    wrong(&ops::astype(&numbers(2, &[2, 3, 32])?, Dtype::Complex64)?, ("affine", 32, 4))
}
