//! Updates by Adam against the formula in float64.

#[allow(dead_code)] // of what the tests share, a part
mod common;

use common::numbers;
use graft_kernels::{Adam, AdamStep, adam};
use mlx_graft::{Array, Dtype, Result, memory, ops, transforms};

const PLAIN: Adam =
    Adam { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, bias_correction: false };
const DECAYED: Adam =
    Adam { betas: [0.8, 0.95], eps: 1e-3, weight_decay: 0.1, bias_correction: true };
const RATE: f32 = 0.01;
const STEP: f32 = 3.0;

/// Weights, moments (the second is not negative) and gradient.
fn inputs(count: i32, dtype: Dtype) -> Result<[Array; 4]> {
    let of = |seed: u32| ops::astype(&numbers(seed, &[count])?, dtype);
    Ok([of(1)?, of(2)?, ops::square(&of(3)?)?, of(4)?])
}

fn update(options: Adam, [values, m, v, gradient]: &[Array; 4], sound: bool) -> Result<[Array; 3]> {
    let (rate, step) = (Array::scalar(RATE)?, Array::scalar(STEP)?);
    let at = AdamStep { rate: &rate, step: &step, sound: &Array::scalar(sound)? };
    adam(options, [values, m, v], gradient, at)
}

fn wide(x: &Array) -> Result<Vec<f64>> {
    ops::astype(x, Dtype::Float64)?.to_vec::<f64>()
}

/// The update of one element.
fn wanted(options: Adam, [value, m, v, gradient]: [f64; 4]) -> [f64; 3] {
    let (rate, step, [b_1, b_2]) = (f64::from(RATE), f64::from(STEP), options.betas);
    let m = b_1 * m + (1.0 - b_1) * gradient;
    let v = b_2 * v + (1.0 - b_2) * gradient * gradient;
    let (left_1, left_2) = if options.bias_correction {
        (1.0 - b_1.powf(step), 1.0 - b_2.powf(step))
    } else {
        (1.0, 1.0)
    };
    let change = rate * (m / left_1) / ((v / left_2).sqrt() + options.eps);
    [value * (1.0 - rate * options.weight_decay) - change, m, v]
}

#[track_caller]
fn check(options: Adam, count: i32, dtype: Dtype, bound: f64) -> Result<()> {
    let inputs = inputs(count, dtype)?;
    let found = update(options, &inputs, true)?;
    let [values, m, v, gradient] = inputs.each_ref().map(|x| wide(x).expect("numbers"));
    let found = found.each_ref().map(|x| {
        assert_eq!((x.dtype(), x.shape()), (dtype, &[count][..]));
        wide(x).expect("numbers")
    });
    for i in 0..count as usize {
        let wanted = wanted(options, [values[i], m[i], v[i], gradient[i]]);
        for (found, wanted) in found.iter().zip(wanted) {
            let error = (found[i] - wanted).abs();
            assert!(error <= bound * (1.0 + wanted.abs()), "{i}: {} for {wanted}", found[i]);
        }
    }
    Ok(())
}

#[test]
fn updates_are_those_of_the_formula() -> Result<()> {
    for options in [PLAIN, DECAYED] {
        // One task and many, the last row shorter or not.
        for count in [0, 1, 1023, 1024, 1025, 200_003] {
            check(options, count, Dtype::Float32, 1e-6)?;
        }
        check(options, 3001, Dtype::Bfloat16, 1.0 / 256.0)?;
        check(options, 3001, Dtype::Float16, 1.0 / 2048.0)?;
        // Through MLX's operations.
        check(options, 100, Dtype::Float64, 1e-6)?;
    }
    Ok(())
}

#[test]
fn a_step_that_is_not_sound_changes_nothing() -> Result<()> {
    for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16, Dtype::Float64] {
        let mut inputs = inputs(5000, dtype)?;
        inputs[3] = ops::multiply(&inputs[3], &Array::scalar(f32::NAN)?)?;
        let found = update(DECAYED, &inputs, false)?;
        for (found, old) in found.iter().zip(&inputs) {
            assert_eq!(wide(found)?, wide(old)?);
        }
    }
    Ok(())
}

/// The moments lie where they did, unless something else needs them; with the other tests' arrays,
/// which are small, there is memory for new weights alone.
#[test]
fn moments_are_written_over() -> Result<()> {
    let bytes = 32 << 20;
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let size = (bytes / dtype.size()) as i32;
        let [mut values, mut m, mut v, gradient] = inputs(size, dtype)?;
        transforms::eval(&[&values, &m, &v, &gradient])?;
        let kept = (m.clone(), wide(&ops::slice(&m, &[0], &[5], &[1])?)?);
        let parts = |x: [&Array; 3]| -> Result<[Vec<f64>; 3]> {
            let part = |x: &Array| wide(&ops::slice(x, &[size - 5], &[size], &[1])?);
            Ok([part(x[0])?, part(x[1])?, part(x[2])?])
        };
        let mut wanted = parts([&values, &m, &v])?;
        let gradients = wide(&ops::slice(&gradient, &[size - 5], &[size], &[1])?)?;
        let mut step = |sound: bool| -> Result<usize> {
            let (rate, number) = (Array::scalar(RATE)?, Array::scalar(STEP)?);
            let at = AdamStep { rate: &rate, step: &number, sound: &Array::scalar(sound)? };
            memory::clear_cache()?;
            memory::reset_peak()?;
            let before = memory::active()?;
            [values, m, v] = adam(DECAYED, [&values, &m, &v], &gradient, at)?;
            transforms::eval(&[&values, &m, &v])?;
            let found = parts([&values, &m, &v])?;
            for i in 0..5 {
                let of = |parts: &[Vec<f64>; 3]| [parts[0][i], parts[1][i], parts[2][i]];
                let [value, old_m, old_v] = of(&wanted);
                let next = self::wanted(DECAYED, [value, old_m, old_v, gradients[i]]);
                let next = if sound { next } else { [value, old_m, old_v] };
                for (found, next) in of(&found).into_iter().zip(next) {
                    let bound = if dtype == Dtype::Float32 { 1e-6 } else { 1.0 / 256.0 };
                    let bound = if sound { bound * (1.0 + next.abs()) } else { 0.0 };
                    assert!((found - next).abs() <= bound, "{i}: {found} for {next}");
                }
            }
            wanted = found;
            Ok(memory::peak()?.saturating_sub(before))
        };
        // Something else needs the moments, which are copied and stay.
        step(true)?;
        assert_eq!(wide(&ops::slice(&kept.0, &[0], &[5], &[1])?)?, kept.1);
        for sound in [true, false, true] {
            let grown = step(sound)?;
            assert!(grown < bytes * 7 / 4, "{grown} bytes for an update of 3 times {bytes}");
        }
    }
    Ok(())
}

#[test]
fn derivatives_are_those_of_mlx() -> Result<()> {
    let gradients = |dtype: Dtype| -> Result<Vec<Vec<f64>>> {
        let inputs = inputs(50, dtype)?;
        let cotangents: Vec<Array> = (10..13)
            .map(|seed| ops::astype(&numbers(seed, &[50])?, dtype))
            .collect::<Result<_>>()?;
        let f = |x: &[Array]| {
            let x: &[Array; 4] = x.try_into().expect("four arrays");
            Ok(update(DECAYED, x, true)?.to_vec())
        };
        let (_, found) = transforms::vjp(f, &inputs, &cotangents)?;
        found.iter().map(wide).collect()
    };
    let (found, wanted) = (gradients(Dtype::Float32)?, gradients(Dtype::Float64)?);
    for (found, wanted) in found.concat().iter().zip(wanted.concat()) {
        assert!((found - wanted).abs() <= 1e-5 * (1.0 + wanted.abs()), "{found} for {wanted}");
    }
    Ok(())
}
