//! `graft_kernels::quantized_matmul_each` against products with what MLX unpacks, and MLX's own.

#[allow(dead_code)] // of what the tests share, a part
mod common;
#[allow(dead_code)]
#[path = "common/packed.rs"]
mod packed;

use common::{assert_within, numbers};
use graft_kernels::{Packed, quantized_matmul_each};
use mlx_graft::ops::QuantizedMatmulOptions;
use mlx_graft::{Array, Dtype, Result, ops, transforms};
use packed::{DTYPES, Packed as Matrix, assert_product, formats, of};

/// Matrices of so many rows of `k` numbers, packed alike.
fn matrices(
    format: (&'static str, i32, i32),
    dtype: Dtype,
    rows: &[i32],
    k: i32,
) -> Result<Vec<Matrix>> {
    let matrix = |(seed, &n): (usize, &i32)| {
        Matrix::new(format, true, dtype, &numbers(seed as u32, &[n, k])?)
    };
    rows.iter().enumerate().map(matrix).collect()
}

fn options(matrix: &Matrix) -> QuantizedMatmulOptions<'static> {
    let options = QuantizedMatmulOptions::default();
    options.group_size(matrix.group_size).bits(matrix.bits).mode(matrix.mode)
}

fn multiply(x: &Array, matrices: &[Matrix]) -> Result<Vec<Array>> {
    let packed: Vec<_> = matrices
        .iter()
        .map(|Matrix { arrays, .. }| Packed {
            w: &arrays[0],
            scales: &arrays[1],
            biases: arrays.get(2),
        })
        .collect();
    quantized_matmul_each(x, &packed, &options(&matrices[0]))
}

#[test]
fn all_formats_and_rows() -> Result<()> {
    for format in formats() {
        for dtype in DTYPES {
            let matrices = matrices(format, dtype, &[40, 7, 96], 384)?;
            for shape in [&[384][..], &[1, 384], &[2, 3, 384], &[40, 384]] {
                let x = of(dtype, 3, shape)?;
                let found = multiply(&x, &matrices)?;
                assert_eq!(found.len(), 3);
                for (found, matrix) in found.iter().zip(&matrices) {
                    let by_mlx = matrix.multiply_by_mlx(&x)?;
                    assert_eq!((found.dtype(), found.shape()), (by_mlx.dtype(), by_mlx.shape()));
                    let (unpacked, reach) = matrix.unpacked()?;
                    assert_product(found, &x, &unpacked, &reach)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_shared_among_threads_and_what_is_empty() -> Result<()> {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let matrices = matrices(("affine", 64, 4), dtype, &[1030, 0, 300], 1024)?;
        for rows in [1, 3, 70, 0] {
            let x = of(dtype, 5, &[rows, 1024])?;
            for (found, matrix) in multiply(&x, &matrices)?.iter().zip(&matrices) {
                assert_eq!(found.shape(), [rows, matrix.arrays[0].dim(0)?]);
                if found.size() > 0 {
                    let (unpacked, reach) = matrix.unpacked()?;
                    assert_product(found, &x, &unpacked, &reach)?;
                }
            }
        }
    }
    Ok(())
}

/// Matrices of other dtypes than `x`, or shapes that do not fit, go the way of one after the other.
#[test]
fn what_is_not_alike_is_multiplied_one_by_one() -> Result<()> {
    let matrices = matrices(("affine", 32, 8), Dtype::Float32, &[24, 8], 64)?;
    let x = of(Dtype::Bfloat16, 1, &[2, 64])?;
    for (found, matrix) in multiply(&x, &matrices)?.iter().zip(&matrices) {
        assert_eq!(found.dtype(), Dtype::Float32);
        let (unpacked, reach) = matrix.unpacked()?;
        assert_product(found, &x, &unpacked, &reach)?;
    }
    let x = numbers(1, &[2, 65])?;
    let (found, wanted) = (multiply(&x, &matrices), matrices[0].multiply_by_mlx(&x));
    assert_eq!(found.unwrap_err().to_string(), wanted.unwrap_err().to_string());
    Ok(())
}

/// The products of `x[0]` and the quantized matrices behind it.
fn of_all(x: &[Array], by_mlx: bool) -> Result<Vec<Array>> {
    let packed = x[1..].chunks(3).map(|p| Packed { w: &p[0], scales: &p[1], biases: Some(&p[2]) });
    let options = QuantizedMatmulOptions::default().group_size(32).bits(4);
    if by_mlx {
        let product =
            |p: Packed<'_>| ops::quantized_matmul(&x[0], p.w, p.scales, &options.biases(p.biases));
        return packed.map(product).collect();
    }
    quantized_matmul_each(&x[0], &packed.collect::<Vec<_>>(), &options)
}

fn assert_close(found: &[Array], wanted: &[Array]) -> Result<()> {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        let bound = ops::broadcast_to(&Array::scalar(1e-4_f32)?, wanted.shape())?;
        assert_within(found, wanted, &bound);
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_mlx() -> Result<()> {
    let mut inputs = vec![numbers(9, &[5, 64])?];
    for matrix in matrices(("affine", 32, 4), Dtype::Float32, &[24, 40], 64)? {
        inputs.extend(matrix.arrays);
    }
    let scalar = |by_mlx| {
        move |x: &[Array]| {
            let products = of_all(x, by_mlx)?;
            let [a, b] = products.as_slice() else { unreachable!() };
            let squares = ops::add(&ops::sum(&ops::square(a)?, false)?, &ops::sum(b, false)?)?;
            Ok(vec![squares])
        }
    };
    // To x, and to the scales and biases of the second matrix.
    let (_, found) = transforms::value_and_grad(scalar(false), &[0, 5, 6], &inputs)?;
    let (_, wanted) = transforms::value_and_grad(scalar(true), &[0, 5, 6], &inputs)?;
    for (found, wanted) in found.iter().zip(&wanted) {
        let size = ops::add(&ops::abs(wanted)?, &Array::scalar(1.0_f32)?)?;
        assert_within(found, wanted, &ops::multiply(&size, &Array::scalar(1e-4_f32)?)?);
    }
    Ok(())
}

#[test]
fn vectorized_and_compiled() -> Result<()> {
    let mut inputs = vec![numbers(9, &[6, 5, 64])?];
    for matrix in matrices(("affine", 32, 4), Dtype::Float32, &[24, 40], 64)? {
        inputs.extend(matrix.arrays);
    }
    let wanted = of_all(&inputs, true)?;
    let mut axes = vec![None; inputs.len()];
    axes[0] = Some(0);
    let found = transforms::vmap(|x| of_all(x, false), &inputs, &axes, &[Some(0); 2])?;
    assert_close(&found, &wanted)?;

    // Several of one matrix, and one of the other.
    let all = ops::stack(&[&inputs[1], &inputs[1]])?;
    let several = |i: usize| ops::stack(&[&inputs[i], &inputs[i]]);
    let (x, mut stacked) = (ops::take_axis(&inputs[0], &Array::scalar(0)?, 0)?, inputs.clone());
    stacked[..4].clone_from_slice(&[x.clone(), all, several(2)?, several(3)?]);
    let axes = [None, Some(0), Some(0), Some(0), None, None, None];
    let found = transforms::vmap(|x| of_all(x, false), &stacked, &axes, &[Some(0); 2])?;
    let mut one = inputs.clone();
    one[0] = x;
    let wanted = of_all(&one, true)?;
    let twice = |x: &Array| ops::stack(&[x, x]);
    assert_close(&found, &[twice(&wanted[0])?, twice(&wanted[1])?])?;

    let compiled = transforms::compile(|x: &[Array]| of_all(x, false), true)?;
    for rows in [1, 19] {
        inputs[0] = numbers(4, &[rows, 64])?;
        assert_close(&compiled.call(&inputs)?, &of_all(&inputs, true)?)?;
    }
    Ok(())
}
