//! The kernels that work on rows against MLX's own operations.

#[allow(dead_code)]
#[path = "common/cases.rs"]
mod cases;
#[allow(dead_code)] // of what the tests share, a part
mod common;

use cases::{
    ALL, CROSS_ENTROPY, LAYER_NORM, LOGSUMEXP, RMS_NORM, SOFTMAX, SWIGLU, assert_close,
    assert_close_by, spread, targets,
};
use common::{assert_within, numbers};
use mlx_graft::{Array, Dtype, ErrorKind, Result, ops, transforms};

#[test]
fn shapes_of_all_kinds() -> Result<()> {
    let shapes: &[&[i32]] = &[
        &[1, 1],
        &[3, 7],
        &[17, 33],
        &[64, 64],
        &[63, 65],
        &[2, 3, 5, 9],
        &[1, 257],
        &[1, 70_001],
        &[5, 40_003],
        // Many tasks, the last of them shorter.
        &[301, 307],
        &[4, 3, 101, 103],
    ];
    for case in ALL {
        for shape in shapes {
            case.check(&spread(1, shape)?)?;
        }
    }
    SOFTMAX.check(&spread(1, &[300])?)?;
    CROSS_ENTROPY.check(&spread(1, &[300])?)?;
    SWIGLU.check(&spread(1, &[100_000])?)?;
    SWIGLU.check(&spread(1, &[])?)?;
    for empty in [&[0, 5][..], &[2, 0, 5], &[0, 0]] {
        for case in [SOFTMAX, RMS_NORM, LAYER_NORM, SWIGLU] {
            case.check(&numbers(1, empty)?)?;
        }
    }
    for empty in [&[0][..], &[3, 0]] {
        SOFTMAX.check(&numbers(1, empty)?)?;
        SWIGLU.check(&numbers(1, empty)?)?;
    }
    // MLX's logsumexp refuses these.
    for rows in [&[0][..], &[2, 0]] {
        let logits = numbers(1, &[rows, &[5]].concat())?;
        let losses = graft_kernels::cross_entropy(&logits, &targets(&logits)?)?;
        assert_eq!(losses.shape(), rows);
    }
    Ok(())
}

#[test]
fn numbers_of_16_bits() -> Result<()> {
    for case in ALL {
        for shape in [&[1, 1][..], &[3, 7], &[63, 65], &[2, 3, 5, 9], &[301, 307]] {
            case.check_halves(&spread(1, shape)?, Dtype::Bfloat16, 1.0 / 256.0)?;
            case.check_halves(&spread(1, shape)?, Dtype::Float16, 1.0 / 2048.0)?;
        }
    }
    Ok(())
}

/// Bit for bit, in values and derivatives; arrays that do not fit are added by MLX.
#[test]
fn a_sum_and_its_norm_are_those_of_two_operations() -> Result<()> {
    let ours = |x: &[Array]| {
        let (sum, normal) = graft_kernels::add_rms_norm(&x[0], &x[1], &x[2], 1e-5)?;
        Ok(vec![sum, normal])
    };
    let theirs = |x: &[Array]| {
        let sum = ops::add(&x[0], &x[1])?;
        let normal = graft_kernels::rms_norm(&sum, Some(&x[2]), 1e-5)?;
        Ok(vec![sum, normal])
    };
    for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
        let of = |seed, shape: &[i32]| ops::astype(&spread(seed, shape)?, dtype);
        for (x, y) in
            [(&[63, 65][..], &[63, 65][..]), (&[2, 4, 65], &[2, 4, 65]), (&[4, 65], &[65])]
        {
            let cotangents = [of(4, x)?, of(5, x)?];
            let x = [of(1, x)?, of(2, y)?, of(3, &[65])?];
            let (found, of_found) = transforms::vjp(ours, &x, &cotangents)?;
            let (wanted, of_wanted) = transforms::vjp(theirs, &x, &cotangents)?;
            let pairs = found.iter().chain(&of_found).zip(wanted.iter().chain(&of_wanted));
            for (found, wanted) in pairs {
                assert_eq!(found.dtype(), dtype);
                assert!(ops::array_equal(found, wanted, false)?.item::<bool>()?, "{dtype}");
            }
        }
    }
    let (x, weight) = (numbers(1, &[3])?, numbers(1, &[4])?);
    let failed = graft_kernels::add_rms_norm(&x, &x, &weight, 0.0);
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::InvalidArgument);
    Ok(())
}

#[test]
fn arrays_that_are_not_contiguous() -> Result<()> {
    let x = spread(1, &[6, 40, 42])?;
    let views = [
        ops::transpose_axes(&x, &[1, 0, 2])?,
        ops::transpose_axes(&spread(2, &[42, 6, 40])?, &[1, 2, 0])?,
        ops::slice(&x, &[0, 0, 0], &[6, 40, 42], &[2, 4, 3])?,
        ops::slice(&x, &[5, 39, 41], &[-7, -41, -43], &[-1, -1, -1])?,
        ops::broadcast_to(&spread(3, &[42])?, &[40, 42])?,
        ops::broadcast_to(&spread(4, &[9, 1])?, &[2, 9, 30])?,
    ];
    for case in ALL {
        for view in &views {
            case.check(view)?;
        }
    }
    Ok(())
}

#[test]
fn values_at_the_limits() -> Result<()> {
    let limits = [1e4, -1e4, 88.0, -88.0, 1e-30, -0.0, f32::MIN, f32::MAX];
    // The squares of the largest numbers overflow in `float32`, in MLX too.
    for case in [SOFTMAX, LOGSUMEXP, CROSS_ENTROPY, SWIGLU] {
        for shift in limits {
            case.check(&ops::add(&spread(1, &[40, 45])?, &Array::scalar(shift)?)?)?;
        }
        let row: Vec<f32> = (0..45).map(|i| limits[i % 6] + i as f32).collect();
        case.check(&Array::from_slice(&row, &[1, 45])?)?;
    }
    Ok(())
}

/// Both are NaN, or both are the same within 1e-6.
#[track_caller]
fn assert_same(found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    for (i, (x, y)) in found.iter().zip(wanted).enumerate() {
        #[allow(clippy::float_cmp)] // infinities
        let same = x == y || x.is_nan() && y.is_nan() || (x - y).abs() < 1e-6;
        assert!(same, "element {i}: {x} instead of {y}");
    }
}

#[test]
fn nan_and_infinity_spread_as_in_mlx() -> Result<()> {
    for case in ALL {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for column in [0, 20, 40] {
                let mut values = numbers(1, &[40, 41])?.to_vec::<f32>()?;
                values[12 * 41 + column] = special;
                let inputs = (case.inputs)(&Array::from_slice(&values, &[40, 41])?)?;
                let found = (case.ours)(&inputs)?[0].to_vec::<f32>()?;
                let wanted = case.wanted(&inputs)?[0].to_vec::<f32>()?;
                assert_same(&found, &wanted);
            }
        }
    }
    let hidden = ops::full(&[2, 3], &Array::scalar(f32::NEG_INFINITY)?, Dtype::Float32)?;
    assert!(graft_kernels::softmax(&hidden)?.to_vec::<f32>()?.iter().all(|x| x.is_nan()));
    Ok(())
}

#[test]
fn targets_out_of_range() -> Result<()> {
    let logits = numbers(1, &[4, 5])?;
    let targets = Array::from_slice(&[-6, 4, 5, i32::MAX], &[4])?;
    let losses = graft_kernels::cross_entropy(&logits, &targets)?.to_vec::<f32>()?;
    let refused: Vec<bool> = losses.iter().map(|x| x.is_nan()).collect();
    assert_eq!(refused, [true, false, true, true]);

    // A loss that is multiplied by 0 does not reach the gradient.
    let weights = Array::from_slice(&[1.0_f32, 1.0, 0.0, 0.0], &[4])?;
    let loss = move |x: &[Array]| {
        let losses = graft_kernels::cross_entropy(&x[0], &targets)?;
        Ok(vec![ops::sum(&ops::multiply(&losses, &weights)?, false)?])
    };
    let gradient = transforms::grad(loss, &[0], &[&logits])?[0].to_vec::<f32>()?;
    let rows: Vec<&[f32]> = gradient.chunks(5).collect();
    assert!(rows[0].iter().all(|x| x.is_nan()));
    assert!(rows[1].iter().sum::<f32>().abs() < 1e-6 && rows[1][4] < -0.5);
    assert_same(&gradient[10..], &[0.0; 10]);

    // i32::MIN has no opposite.
    let far = Array::from_slice(&[i32::MIN], &[1])?;
    let loss = graft_kernels::cross_entropy(&numbers(1, &[1, 5])?, &far)?;
    assert!(loss.to_vec::<f32>()?[0].is_nan());
    Ok(())
}

#[test]
fn targets_from_the_end() -> Result<()> {
    let logits = numbers(1, &[3, 5])?;
    let slopes = |targets: &[i32; 3]| -> Result<(Array, Array)> {
        let targets = Array::from_slice(targets, &[3])?;
        let loss = move |x: &[Array]| {
            let losses = graft_kernels::cross_entropy(&x[0], &targets)?;
            Ok(vec![ops::sum(&ops::square(&losses)?, false)?])
        };
        let slope = move |x: &[Array]| {
            let slope = transforms::grad(loss.clone(), &[0], x)?.remove(0);
            Ok(vec![ops::sum(&ops::square(&slope)?, false)?])
        };
        let first = slope(std::slice::from_ref(&logits))?.remove(0);
        Ok((first, transforms::grad(slope, &[0], &[&logits])?.remove(0)))
    };
    let (found, wanted) = (slopes(&[-1, -5, 2])?, slopes(&[4, 0, 2])?);
    assert_same(&found.0.to_vec::<f32>()?, &wanted.0.to_vec::<f32>()?);
    assert_same(&found.1.to_vec::<f32>()?, &wanted.1.to_vec::<f32>()?);
    Ok(())
}

#[test]
fn shapes_that_do_not_fit() -> Result<()> {
    let scalar = Array::scalar(1.0_f32)?;
    assert!(graft_kernels::softmax(&scalar).is_err());
    let error = graft_kernels::rms_norm(&numbers(1, &[3])?, Some(&numbers(1, &[4])?), 0.0);
    assert_eq!(error.expect_err("does not fit").kind(), ErrorKind::InvalidArgument);
    let four = &numbers(1, &[4])?;
    for (weight, bias) in [(Some(four), None), (None, Some(four)), (Some(four), Some(four))] {
        let error = graft_kernels::layer_norm(&numbers(1, &[3])?, weight, bias, 0.0);
        assert_eq!(error.expect_err("does not fit").kind(), ErrorKind::InvalidArgument);
    }
    assert!(graft_kernels::layer_norm(&scalar, None, None, 0.0).is_err());
    assert!(graft_kernels::swiglu(&numbers(1, &[3])?, four).is_err());
    // As MLX, with broadcasting.
    let y = graft_kernels::swiglu(&numbers(1, &[2, 1])?, &numbers(1, &[1, 4])?)?;
    assert_eq!(y.shape(), [2, 4]);
    Ok(())
}

/// A norm with a part of its weight and bias is that with ones and zeros for the rest.
#[test]
fn layer_norms_without_a_weight_or_a_bias() -> Result<()> {
    let norm = |x: &[Array], weight: bool, bias: bool| {
        let (weight, bias) = (weight.then_some(&x[1]), bias.then_some(&x[2]));
        Ok(vec![graft_kernels::layer_norm(&x[0], weight, bias, 0.01)?])
    };
    let x = spread(1, &[3, 5, 37])?;
    let (ones, zeros) = (ops::ones(&[37], Dtype::Float32)?, ops::zeros(&[37], Dtype::Float32)?);
    for (has_weight, has_bias) in [(false, false), (true, false), (false, true)] {
        let weight = if has_weight { numbers(2, &[37])? } else { ones.clone() };
        let bias = if has_bias { numbers(3, &[37])? } else { zeros.clone() };
        let inputs = [x.clone(), weight, bias];
        let some = move |x: &[Array]| norm(x, has_weight, has_bias);
        let all = move |x: &[Array]| norm(x, true, true);
        assert_close(&some(&inputs)?[0], &all(&inputs)?[0])?;

        let used = [true, has_weight, has_bias];
        let cotangent = [numbers(4, x.shape())?];
        let tangents = [numbers(5, x.shape())?, numbers(6, &[37])?, numbers(7, &[37])?];
        let tangents: Vec<Array> = tangents
            .iter()
            .zip(used)
            .map(|(x, used)| if used { Ok(x.clone()) } else { ops::zeros_like(x) })
            .collect::<Result<_>>()?;
        let (_, found) = transforms::vjp(some, &inputs, &cotangent)?;
        let (_, wanted) = transforms::vjp(all, &inputs, &cotangent)?;
        for (i, _) in used.iter().enumerate().filter(|(_, used)| **used) {
            assert_close_by(2e-5, &found[i], &wanted[i])?;
        }
        let (_, found) = transforms::jvp(some, &inputs, &tangents)?;
        let (_, wanted) = transforms::jvp(all, &inputs, &tangents)?;
        assert_close_by(2e-5, &found[0], &wanted[0])?;

        // The vectors are mapped too.
        let stack = |x: &Array| ops::stack(&[x.clone(), ops::negative(x)?]);
        let stacks = inputs.iter().map(stack).collect::<Result<Vec<_>>>()?;
        let axes = used.map(|used| used.then_some(0));
        let stacks: Vec<Array> =
            (0..3).map(|i| if used[i] { stacks[i].clone() } else { inputs[i].clone() }).collect();
        let found = transforms::vmap(some, &stacks, &axes, &[Some(0)])?;
        let wanted = transforms::vmap(all, &stacks, &axes, &[Some(0)])?;
        assert_close(&found[0], &wanted[0])?;
    }
    Ok(())
}

#[test]
fn other_dtypes_run_through_mlx() -> Result<()> {
    let x = ops::astype(&numbers(1, &[5, 6])?, Dtype::Float16)?;
    for case in ALL {
        let narrow = |x: Array| match x.dtype() {
            Dtype::Int32 => Ok(x),
            _ => ops::astype(&x, Dtype::Float16),
        };
        let inputs = (case.inputs)(&x)?.into_iter().map(narrow).collect::<Result<Vec<_>>>()?;
        let (found, wanted) = ((case.ours)(&inputs)?, case.wanted(&inputs)?);
        assert_eq!(found[0].dtype(), Dtype::Float16);
        let bound = ops::full(wanted[0].shape(), &Array::scalar(5e-3_f32)?, Dtype::Float32)?;
        assert_within(&ops::astype(&found[0], Dtype::Float32)?, &wanted[0], &bound);
    }
    Ok(())
}

/// The mean of equal numbers is rounded, and what that leaves must not pass for their deviation.
#[test]
fn layer_norm_of_equal_numbers_is_the_bias() -> Result<()> {
    for width in [3, 30, 100, 1023] {
        let x = ops::broadcast_to(&spread(5, &[50, 1])?, &[50, width])?;
        let found = graft_kernels::layer_norm(&x, None, None, 1e-5)?;
        let most: f32 = ops::max(&ops::abs(&found)?, false)?.item()?;
        assert!(most < 1e-6, "{width}: {most}");
    }
    Ok(())
}
