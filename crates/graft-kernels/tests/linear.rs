//! Linear layers, one and several at once, against products of MLX in float64.

mod common;

use common::{assert_within, numbers};
use graft_kernels::{linear, linear_each};
use mlx_graft::{Array, Dtype, Result, ops, transforms};

/// Each dtype, and how much results may be off by rounding to it.
const DTYPES: [(Dtype, f32); 3] =
    [(Dtype::Float32, 0.0), (Dtype::Bfloat16, 1.0 / 256.0), (Dtype::Float16, 1.0 / 2048.0)];

/// The products of the first array and each of the others.
fn ours(x: &[Array]) -> Result<Vec<Array>> {
    linear_each(&x[0], &x[1..].iter().collect::<Vec<_>>())
}

/// The same in float64, rounded to float32.
fn theirs(x: &[Array]) -> Result<Vec<Array>> {
    let wide = |x: &Array| ops::astype(x, Dtype::Float64);
    let product = |w: &Array| {
        let product = ops::matmul(&wide(&x[0])?, &ops::swapaxes(&wide(w)?, -1, -2)?)?;
        ops::astype(&product, Dtype::Float32)
    };
    x[1..].iter().map(product).collect()
}

/// Rows of `k` numbers, and matrices of so many rows each.
fn inputs(rows: &[i32], k: i32, outputs: &[i32]) -> Result<Vec<Array>> {
    let mut inputs = vec![numbers(1, &[rows, &[k]].concat())?];
    for (seed, &n) in (2..).zip(outputs) {
        inputs.push(numbers(seed, &[n, k])?);
    }
    Ok(inputs)
}

/// Compares sums of so many products of numbers below 1, rounded with errors of `unit`.
#[track_caller]
fn check(found: &[Array], wanted: &[Array], terms: i32, unit: f32) -> Result<()> {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        let rounding = ops::multiply(&ops::abs(wanted)?, &Array::scalar(unit)?)?;
        let bound = ops::add(&rounding, &Array::scalar(terms as f32 * 1e-6)?)?;
        assert_within(&ops::astype(found, Dtype::Float32)?, wanted, &bound);
    }
    Ok(())
}

fn of(dtype: Dtype, x: &[Array]) -> Result<Vec<Array>> {
    x.iter().map(|x| ops::astype(x, dtype)).collect()
}

#[test]
fn all_dtypes_and_rows() -> Result<()> {
    for (dtype, unit) in DTYPES {
        for rows in [&[1][..], &[1, 1], &[3], &[2, 2], &[5], &[2, 40], &[600]] {
            // Sizes that are shared among threads, and that are no multiples of anything.
            for (k, outputs) in
                [(300, &[700, 64, 1][..]), (33, &[7, 130]), (1, &[3]), (1100, &[257])]
            {
                let x = of(dtype, &inputs(rows, k, outputs)?)?;
                let found = ours(&x)?;
                assert!(found.iter().all(|found| found.dtype() == dtype));
                check(&found, &theirs(&x)?, k, unit)?;
                let one = linear(&x[0], &x[1])?;
                check(&[one], &theirs(&x[..2])?, k, unit)?;
            }
        }
    }
    Ok(())
}

#[test]
fn arrays_that_are_not_contiguous_or_empty() -> Result<()> {
    for rows in [2, 70] {
        let x = inputs(&[rows], 260, &[300, 140])?;
        let wanted = theirs(&x)?;
        let turned = x.iter().map(|x| {
            let turned = ops::contiguous(&ops::swapaxes(x, 0, 1)?, false)?;
            ops::swapaxes(&turned, 0, 1)
        });
        check(&ours(&turned.collect::<Result<Vec<_>>>()?)?, &wanted, 260, 0.0)?;
        // Every second row of matrices, and every second number of rows.
        let apart = x.iter().map(|x| {
            let [rows, columns] = [x.dim(0)?, x.dim(1)?];
            let apart = ops::repeat_axis(&ops::repeat_axis(x, 2, 0)?, 2, 1)?;
            ops::slice(&apart, &[0, 0], &[2 * rows, 2 * columns], &[2, 2])
        });
        check(&ours(&apart.collect::<Result<Vec<_>>>()?)?, &wanted, 260, 0.0)?;
    }
    for (rows, k, outputs) in [(0, 5, [3, 4]), (3, 5, [0, 4]), (2, 0, [3, 4])] {
        let x = inputs(&[rows], k, &outputs)?;
        for (found, n) in ours(&x)?.iter().zip(outputs) {
            assert_eq!(found.shape(), [rows, n]);
            assert!(found.to_vec::<f32>()?.iter().all(|&x| k > 0 || x == 0.0));
        }
    }
    assert!(linear_each(&numbers(1, &[2, 3])?, &[])?.is_empty());
    Ok(())
}

/// Rows of one dimension and arrays of other dtypes go through the product, and errors are its.
#[test]
fn others_are_products_with_the_transposed_matrix() -> Result<()> {
    let x = inputs(&[4], 20, &[9])?;
    let (row, wanted) = (ops::take_axis(&x[0], &Array::scalar(0)?, 0)?, theirs(&x)?.remove(0));
    check(&[linear(&row, &x[1])?], &[ops::take_axis(&wanted, &Array::scalar(0)?, 0)?], 20, 0.0)?;
    let narrow = of(Dtype::Bfloat16, &x)?;
    let found = linear(&narrow[0], &x[1])?;
    assert_eq!(found.dtype(), Dtype::Float32);
    check(&[found], &theirs(&[narrow[0].clone(), x[1].clone()])?, 20, 0.0)?;
    let whole = linear(&of(Dtype::Int32, &x)?[0], &x[1])?;
    assert_eq!(whole.shape(), [4, 9]);

    let (found, wanted) =
        (linear(&x[0], &numbers(3, &[9, 21])?), ops::matmul(&x[0], &numbers(3, &[21, 9])?));
    assert_eq!(found.unwrap_err().to_string(), wanted.unwrap_err().to_string());
    Ok(())
}

#[test]
fn derivatives_are_those_of_the_products() -> Result<()> {
    let sizes = [(&[2, 3][..], 40, &[24, 50][..]), (&[70], 260, &[130]), (&[1], 9, &[4])];
    // Whose derivative with respect to the rows is one operation.
    let together = [(&[2, 40][..], 140, &[300, 260][..]), (&[65], 128, &[256, 1030, 257])];
    for (rows, k, outputs) in sizes.into_iter().chain(together) {
        let x = inputs(rows, k, outputs)?;
        let terms = 16 * k.max(*outputs.iter().max().unwrap());
        let shapes = theirs(&x)?;
        let cotangents =
            shapes.iter().map(|y| numbers(7, y.shape())).collect::<Result<Vec<_>>>()?;
        let found = transforms::vjp(ours, &x, &cotangents)?.1;
        check(&found, &transforms::vjp(theirs, &x, &cotangents)?.1, terms, 0.0)?;
        let tangents = x.iter().map(|x| numbers(8, x.shape())).collect::<Result<Vec<_>>>()?;
        let found = transforms::jvp(ours, &x, &tangents)?.1;
        check(&found, &transforms::jvp(theirs, &x, &tangents)?.1, terms, 0.0)?;
    }
    Ok(())
}

/// With respect to rows of 16 bits, within the roundings of the products of which it is the sum.
#[test]
fn derivatives_of_16_bits() -> Result<()> {
    for (dtype, unit) in &DTYPES[1..] {
        let x = of(*dtype, &inputs(&[2, 40], 140, &[300, 260])?)?;
        let cotangents = of(*dtype, &theirs(&x)?)?;
        let found = transforms::vjp(ours, &x, &cotangents)?.1.remove(0);
        assert_eq!(found.dtype(), *dtype);
        let (x, cotangents) = (of(Dtype::Float32, &x)?, of(Dtype::Float32, &cotangents)?);
        let of_one = |i: usize| -> Result<Array> {
            let pair = [x[0].clone(), x[1 + i].clone()];
            Ok(transforms::vjp(theirs, &pair, &cotangents[i..=i])?.1.remove(0))
        };
        let (y, z) = (of_one(0)?, of_one(1)?);
        let size = ops::add(&ops::abs(&y)?, &ops::abs(&z)?)?;
        // Each of the two is rounded, and their sum.
        let rounding = ops::multiply(&size, &Array::scalar(2.0 * *unit)?)?;
        let bound = ops::add(&rounding, &Array::scalar(560.0 * 1e-6_f32)?)?;
        assert_within(&ops::astype(&found, Dtype::Float32)?, &ops::add(&y, &z)?, &bound);
    }
    // A trace without shapes may meet no rows, and no outputs of one or of all.
    let slope = |x: &[Array]| Ok(vec![transforms::vjp(ours, &x[..3], &x[3..])?.1.remove(0)]);
    let compiled = transforms::compile(slope, true)?;
    for (rows, outputs) in [(70, [300, 260]), (0, [300, 260]), (3, [0, 260]), (3, [0, 0])] {
        let x = inputs(&[rows], 140, &outputs)?;
        let cotangents = theirs(&x)?;
        let wanted = transforms::vjp(theirs, &x, &cotangents)?.1.remove(0);
        check(&compiled.call(&[x, cotangents].concat())?, &[wanted], 16 * 560, 0.0)?;
    }
    Ok(())
}

#[test]
fn second_derivatives_are_those_of_the_products() -> Result<()> {
    let x = inputs(&[5], 12, &[6, 7])?;
    let slope = |f: fn(&[Array]) -> Result<Vec<Array>>| {
        move |x: &[Array]| {
            let loss = move |x: &[Array]| {
                let [y, z] = [0, 1].map(|i| f(x).map(|mut y| y.swap_remove(i)));
                let cube =
                    ops::multiply(&ops::sum(&ops::square(&y?)?, false)?, &ops::sum(&z?, false)?)?;
                Ok(vec![cube])
            };
            let slopes = transforms::grad(loss, &[0, 1, 2], x)?;
            let sums = slopes.iter().map(|slope| ops::sum(&ops::square(slope)?, false));
            let sums = sums.collect::<Result<Vec<_>>>()?;
            Ok(vec![ops::add(&ops::add(&sums[0], &sums[1])?, &sums[2])?])
        }
    };
    let found = transforms::grad(slope(ours), &[0, 1, 2], &x)?;
    let wanted = transforms::grad(slope(theirs), &[0, 1, 2], &x)?;
    for (found, wanted) in found.iter().zip(&wanted) {
        let largest = ops::max(&ops::abs(wanted)?, false)?.item::<f32>()?;
        assert!(largest > 0.0);
        let bound = ops::full_like(wanted, &Array::scalar(1e-5 * largest)?, Dtype::Float32)?;
        assert_within(found, wanted, &bound);
    }
    Ok(())
}

#[test]
fn vectorized_and_compiled() -> Result<()> {
    let x = inputs(&[3, 5], 40, &[24, 50])?;
    let stack = |x: &Array| ops::stack(&[x, &ops::negative(x)?, x]);
    let stacked = x.iter().map(stack).collect::<Result<Vec<_>>>()?;
    // The last: of one matrix alone.
    for mapped in [[true, false, false], [true; 3], [true, false, true], [false, false, true]] {
        let pick = |i: usize| if mapped[i] { stacked[i].clone() } else { x[i].clone() };
        let some: Vec<Array> = (0..3).map(pick).collect();
        let axes = mapped.map(|mapped| mapped.then_some(0));
        let found = transforms::vmap(ours, &some, &axes, &[Some(0); 2])?;
        for at in 0..3 {
            let index = Array::scalar(at)?;
            let part = |i: usize| {
                if mapped[i] { ops::take_axis(&stacked[i], &index, 0) } else { Ok(x[i].clone()) }
            };
            let one = (0..3).map(part).collect::<Result<Vec<_>>>()?;
            let found: Vec<Array> =
                found.iter().map(|y| ops::take_axis(y, &index, 0)).collect::<Result<_>>()?;
            check(&found, &theirs(&one)?, 40, 0.0)?;
        }
    }

    let compiled = transforms::compile(ours, true)?;
    for (rows, k) in [(1, 40), (19, 40), (0, 40), (3, 0)] {
        let x = inputs(&[rows], k, &[24, 50])?;
        check(&compiled.call(&x)?, &theirs(&x)?, 40, 0.0)?;
    }
    Ok(())
}
