//! The product with a weight that has a low-rank update, against the same made of MLX's operations.

mod common;

use common::{assert_within, numbers};
use graft_kernels::{Packed, adapted_quantized_matmul};
use mlx_graft::ops::{DequantizeOptions, QuantizeOptions, QuantizedMatmulOptions};
use mlx_graft::{Array, Dtype, Result, ops, transforms};

const SCALE: f32 = 3.0;

fn ours(x: &[Array]) -> Result<Vec<Array>> {
    Ok(vec![graft_kernels::adapted_matmul(&x[0], &x[1], &x[2], &x[3], SCALE)?])
}

/// The formula in float64, rounded to float32.
fn theirs(x: &[Array]) -> Result<Vec<Array>> {
    let wide: Vec<Array> =
        x.iter().map(|x| ops::astype(x, Dtype::Float64)).collect::<Result<_>>()?;
    let [x, w, a, b] = wide.as_slice() else { unreachable!("four inputs") };
    let update = ops::matmul(&ops::matmul(x, a)?, b)?;
    let update = ops::multiply(&update, &ops::astype(&Array::scalar(SCALE)?, Dtype::Float64)?)?;
    let sum = ops::add(&ops::matmul(x, &ops::swapaxes(w, -1, -2)?)?, &update)?;
    Ok(vec![ops::astype(&sum, Dtype::Float32)?])
}

/// `x`, `w`, `a` and `b` for so many rows, inputs, outputs and ranks.
fn inputs(rows: &[i32], [inputs, outputs, rank]: [i32; 3]) -> Result<Vec<Array>> {
    Ok(vec![
        numbers(1, &[rows, &[inputs]].concat())?,
        numbers(2, &[outputs, inputs])?,
        numbers(3, &[inputs, rank])?,
        numbers(4, &[rank, outputs])?,
    ])
}

/// Compares arrays whose numbers are sums of as many products as `terms`.
#[track_caller]
fn check(found: &[Array], wanted: &[Array], terms: f32) -> Result<()> {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        let bound = ops::add(&ops::abs(wanted)?, &Array::scalar(terms)?)?;
        assert_within(found, wanted, &ops::multiply(&bound, &Array::scalar(1e-6_f32)?)?);
    }
    Ok(())
}

/// Sizes that are and that are not multiples of what a kernel computes at once; few rows and few
/// columns are several operations.
const SIZES: [(&[i32], [i32; 3]); 6] = [
    (&[2, 33], [257, 130, 3]),
    (&[128], [1040, 256, 8]),
    (&[71], [256, 129, 128]),
    (&[64], [300, 128, 1]),
    (&[3, 5], [260, 140, 4]),
    (&[70], [30, 20, 2]),
];

#[test]
fn values_and_derivatives_are_those_of_the_formula() -> Result<()> {
    for (rows, sizes) in SIZES {
        let x = inputs(rows, sizes)?;
        let terms = 64.0 * sizes[0].max(sizes[1]) as f32;
        let wanted = theirs(&x)?;
        check(&ours(&x)?, &wanted, terms)?;
        let cotangents = [numbers(5, wanted[0].shape())?];
        let found = transforms::vjp(ours, &x, &cotangents)?.1;
        check(&found, &transforms::vjp(theirs, &x, &cotangents)?.1, terms)?;
        let tangents: Vec<Array> =
            x.iter().map(|x| numbers(6, x.shape())).collect::<Result<_>>()?;
        let found = transforms::jvp(ours, &x, &tangents)?.1;
        check(&found, &transforms::jvp(theirs, &x, &tangents)?.1, 4.0 * terms)?;
    }
    Ok(())
}

/// Of the derivative's own derivative, which is made of the same operation.
#[test]
fn second_derivatives_are_those_of_the_formula() -> Result<()> {
    // Of many rows, which are one product, and of few.
    for (rows, sizes) in [(66, [256, 128, 4]), (7, [30, 20, 2])] {
        second_derivatives(&inputs(&[rows], sizes)?)?;
    }
    Ok(())
}

#[track_caller]
fn second_derivatives(x: &[Array]) -> Result<()> {
    let slope = |f: fn(&[Array]) -> Result<Vec<Array>>| {
        move |x: &[Array]| {
            let loss = move |x: &[Array]| {
                let y = ops::multiply(&f(x)?[0], &Array::scalar(0.01_f32)?)?;
                Ok(vec![ops::sum(&ops::square(&y)?, false)?])
            };
            let slopes = transforms::grad(loss, &[0, 2, 3], x)?;
            let squares = slopes.iter().map(|slope| {
                let small = ops::multiply(slope, &Array::scalar(0.01_f32)?)?;
                ops::sum(&ops::square(&small)?, false)
            });
            let squares: Vec<Array> = squares.collect::<Result<_>>()?;
            Ok(vec![ops::add(&ops::add(&squares[0], &squares[1])?, &squares[2])?])
        }
    };
    let all = [0, 1, 2, 3];
    let found = transforms::grad(slope(ours), &all, x)?;
    let wanted = transforms::grad(slope(theirs), &all, x)?;
    for (found, wanted) in found.iter().zip(&wanted) {
        let largest = ops::max(&ops::abs(wanted)?, false)?.item::<f32>()?;
        assert!(largest > 0.0);
        let bound = ops::full_like(wanted, &Array::scalar(1e-5 * largest)?, Dtype::Float32)?;
        assert_within(found, wanted, &bound);
    }
    Ok(())
}

#[test]
fn all_dtypes_layouts_and_transforms() -> Result<()> {
    let x = inputs(&[2, 40], [256, 160, 8])?;
    let wanted = theirs(&x)?;
    // A step is compiled, and its weights may be views.
    let compiled = transforms::compile(ours, false)?;
    check(&compiled.call(&x)?, &wanted, 3e4)?;
    let turned = x.iter().map(|x| {
        let turned = ops::contiguous(&ops::swapaxes(x, -1, -2)?, false)?;
        ops::swapaxes(&turned, -1, -2)
    });
    check(&ours(&turned.collect::<Result<Vec<_>>>()?)?, &wanted, 3e4)?;

    for (dtype, unit) in [(Dtype::Bfloat16, 1.0_f32 / 64.0), (Dtype::Float16, 1.0 / 512.0)] {
        let x: Vec<Array> = x.iter().map(|x| ops::astype(x, dtype)).collect::<Result<_>>()?;
        let found = ours(&x)?.remove(0);
        assert_eq!(found.dtype(), dtype);
        let found = ops::astype(&found, Dtype::Float32)?;
        let wanted = theirs(&x)?.remove(0);
        let size = ops::add(&ops::abs(&wanted)?, &Array::scalar(64.0_f32)?)?;
        assert_within(&found, &wanted, &ops::multiply(&size, &Array::scalar(unit)?)?);
    }

    // Of the rows alone, and of all.
    let stack = |x: &Array| ops::stack(&[x, &ops::negative(x)?]);
    let stacked: Vec<Array> = x.iter().map(stack).collect::<Result<_>>()?;
    for mapped in [[true, false, false, false], [true; 4], [false, true, true, false]] {
        let pick = |i: usize| if mapped[i] { stacked[i].clone() } else { x[i].clone() };
        let some: Vec<Array> = (0..4).map(pick).collect();
        let axes = mapped.map(|mapped| mapped.then_some(0));
        let found = transforms::vmap(ours, &some, &axes, &[Some(0)])?.remove(0);
        let each = (0..2_i32).map(|i| {
            let at = |j: usize| {
                if mapped[j] {
                    ops::take_axis(&stacked[j], &Array::scalar(i)?, 0)
                } else {
                    Ok(x[j].clone())
                }
            };
            Ok(theirs(&(0..4).map(at).collect::<Result<Vec<_>>>()?)?.remove(0))
        });
        let each = each.collect::<Result<Vec<_>>>()?;
        check(&[found], &[ops::stack(&[&each[0], &each[1]])?], 3e4)?;
    }
    Ok(())
}

/// Calls of a vectorized function, and of a trace without shapes, with no rows, no inputs or no outputs.
#[test]
fn products_of_nothing() -> Result<()> {
    let x = inputs(&[70], [256, 130, 8])?;
    let none = Array::from_slice::<f32>(&[], &[0, 70, 256])?;
    let some = [none, x[1].clone(), x[2].clone(), x[3].clone()];
    let found = transforms::vmap(ours, &some, &[Some(0), None, None, None], &[Some(0)])?;
    assert_eq!((found[0].shape(), found[0].to_vec::<f32>()?), (&[0, 70, 130][..], vec![]));

    for narrow in [false, true] {
        let traced = |rows: i32, sizes| -> Result<Vec<Array>> {
            let mut x = inputs(&[rows], sizes)?;
            if narrow {
                // With an update of `float32`, which is another operation.
                x[0] = ops::astype(&x[0], Dtype::Bfloat16)?;
                x[1] = ops::astype(&x[1], Dtype::Bfloat16)?;
            }
            Ok(x)
        };
        let compiled = transforms::compile(ours, true)?;
        compiled.call(&traced(70, [256, 130, 8])?)?[0].eval()?;
        for (rows, sizes) in [(0, [256, 130, 8]), (3, [0, 130, 8]), (3, [256, 0, 8])] {
            let found = compiled.call(&traced(rows, sizes)?)?.remove(0);
            assert_eq!(found.shape(), [rows, sizes[1]]);
            let found = ops::astype(&found, Dtype::Float32)?.to_vec::<f32>()?;
            assert!(found.iter().all(|&x| x == 0.0), "{rows} {sizes:?}");
        }
    }
    Ok(())
}

/// What is trained is of `float32`, whatever dtype `x` and the frozen weight have.
#[test]
fn updates_of_float32() -> Result<()> {
    for (dtype, unit) in [(Dtype::Bfloat16, 1.0_f32 / 256.0), (Dtype::Float16, 1.0 / 2048.0)] {
        let more = [(&[1, 1][..], [96, 80, 8]), (&[300][..], [320, 290, 48])];
        for (rows, sizes) in SIZES.into_iter().chain(more) {
            let mut x = inputs(rows, sizes)?;
            for x in &mut x[..2] {
                *x = ops::astype(x, dtype)?;
            }
            check_update(ours, theirs, &x, unit)?;
        }
    }
    Ok(())
}

/// As MLX's operations do, an update of one column is added to all, and one of others is refused.
#[test]
fn updates_of_other_columns() -> Result<()> {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let mut x = inputs(&[5], [64, 96, 4])?;
        for x in &mut x[..2] {
            *x = ops::astype(x, dtype)?;
        }
        x[3] = numbers(4, &[4, 1])?;
        let (found, wanted) = (ours(&x)?.remove(0), theirs(&x)?.remove(0));
        let bound = ops::full_like(&wanted, &Array::scalar(0.5_f32)?, Dtype::Float32)?;
        assert_within(&ops::astype(&found, Dtype::Float32)?, &wanted, &bound);
        x[3] = numbers(4, &[4, 48])?;
        let message = ours(&x).expect_err("48 columns are not 96").to_string();
        assert!(message.contains("48") && message.contains("96"), "{message}");
    }
    Ok(())
}

/// The same with a quantized weight, which the formula gets unpacked.
#[test]
fn updates_of_packed_weights() -> Result<()> {
    for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
        let unit = match dtype {
            Dtype::Float32 => 1e-6_f32,
            Dtype::Bfloat16 => 1.0 / 256.0,
            _ => 1.0 / 2048.0,
        };
        for (rows, sizes) in
            [(&[2, 40][..], [256, 160, 8]), (&[70], [64, 129, 3]), (&[1, 1], [128, 64, 16])]
        {
            for bits in [4, 8] {
                let mut x = inputs(rows, sizes)?;
                x[0] = ops::astype(&x[0], dtype)?;
                let options = QuantizeOptions::default().group_size(32).bits(bits);
                let packed = ops::quantize(&ops::astype(&x[1], dtype)?, &options)?;
                let unpack = DequantizeOptions::default().group_size(32).bits(bits);
                x[1] = ops::dequantize(&packed[0], &packed[1], &unpack.biases(&packed[2]))?;
                let ours = move |x: &[Array]| {
                    let (w, scales, biases) = (&packed[0], &packed[1], Some(&packed[2]));
                    let packed = Packed { w, scales, biases };
                    let options = QuantizedMatmulOptions::default().group_size(32).bits(bits);
                    let (a, b) = (&x[2], &x[3]);
                    let y = adapted_quantized_matmul(&x[0], packed, &options, a, b, SCALE)?;
                    Ok(vec![y])
                };
                check_update(ours, theirs, &x, unit)?;
            }
        }
    }
    Ok(())
}

/// Compares values, and derivatives with respect to all but the weight, within so many roundings of
/// the products and of what is added to them.
#[track_caller]
fn check_update(
    ours: impl Fn(&[Array]) -> Result<Vec<Array>> + Clone + 'static,
    theirs: impl Fn(&[Array]) -> Result<Vec<Array>> + Clone + 'static,
    x: &[Array],
    unit: f32,
) -> Result<()> {
    let wide = |x: &Array| ops::astype(x, Dtype::Float32);
    let close = |found: &Array, wanted: &Array, magnitude: &Array| {
        let size = ops::add(&ops::abs(magnitude)?, &Array::scalar(1.0_f32)?)?;
        let bound = ops::multiply(&size, &Array::scalar(4.0 * unit)?)?;
        assert_within(&wide(found)?, &wide(wanted)?, &bound);
        Result::Ok(())
    };
    // The magnitudes of the terms bound what rounding a part of the sum can change.
    let positive: Vec<Array> = x.iter().map(ops::abs).collect::<Result<_>>()?;
    let (found, wanted) = (ours(x)?.remove(0), theirs(x)?.remove(0));
    assert_eq!(found.dtype(), x[0].dtype());
    close(&found, &wanted, &theirs(&positive)?[0])?;

    let cotangent = ops::astype(&numbers(5, wanted.shape())?, x[0].dtype())?;
    let weight = x[1].clone();
    let with_weight =
        move |x: &[Array]| vec![x[0].clone(), weight.clone(), x[1].clone(), x[2].clone()];
    let trained = |x: &[Array]| vec![x[0].clone(), x[2].clone(), x[3].clone()];
    let (f, all) = (ours.clone(), with_weight.clone());
    let of_ours = move |x: &[Array]| f(&all(x));
    let (g, all) = (theirs.clone(), with_weight);
    let of_theirs = move |x: &[Array]| g(&all(x));
    let (_, found) =
        transforms::vjp(of_ours.clone(), &trained(x), std::slice::from_ref(&cotangent))?;
    let (_, wanted) = transforms::vjp(of_theirs.clone(), &trained(x), &[wide(&cotangent)?])?;
    let theirs_of = |x: &[Array]| Result::Ok(of_theirs(x)?.remove(0));
    let positive_weight = positive[1].clone();
    let formula = theirs.clone();
    let of_positive = move |x: &[Array]| {
        formula(&[x[0].clone(), positive_weight.clone(), x[1].clone(), x[2].clone()])
    };
    let cotangents = [ops::abs(&wide(&cotangent)?)?];
    let (_, sizes) = transforms::vjp(of_positive, &trained(&positive), &cotangents)?;
    for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert_eq!(found.dtype(), trained(x)[i].dtype());
        close(found, wanted, &wide(&sizes[i])?)?;
    }

    // Two of them at once.
    let stack = |x: &Array| ops::stack(&[x, &ops::negative(x)?]);
    let stacks = [stack(&x[0])?, x[2].clone(), stack(&x[3])?];
    let axes = [Some(0), None, Some(0)];
    let mapped = transforms::vmap(of_ours.clone(), &stacks, &axes, &[Some(0)])?.remove(0);
    let negative = theirs_of(&[ops::negative(&x[0])?, x[2].clone(), ops::negative(&x[3])?])?;
    let wanted = ops::stack(&[&theirs_of(&trained(x))?, &negative])?;
    close(&mapped, &wanted, &stack(&theirs(&positive)?[0])?)?;

    // Forward derivatives and those of a compiled function are of the same formula.
    let tangents: Vec<Array> = trained(x)
        .iter()
        .map(|x| ops::astype(&numbers(6, x.shape())?, x.dtype()))
        .collect::<Result<_>>()?;
    let (_, found) = transforms::jvp(of_ours.clone(), &trained(x), &tangents)?;
    let (_, wanted) = transforms::jvp(of_theirs, &trained(x), &tangents)?;
    let size = ops::max(&ops::abs(&wide(&wanted[0])?)?, false)?;
    close(&found[0], &wanted[0], &ops::broadcast_to(&size, wanted[0].shape())?)?;
    let compiled = transforms::compile(of_ours, false)?.call(&trained(x))?;
    assert_eq!(wide(&compiled[0])?.to_vec::<f32>()?, wide(&ours(x)?[0])?.to_vec::<f32>()?);
    Ok(())
}
