//! The kernels that work on rows under `compile`, `vmap` and a second derivative.

#[allow(dead_code)]
#[path = "common/cases.rs"]
mod cases;
#[allow(dead_code)] // of what the tests share, a part
mod common;

use cases::{ALL, assert_close, assert_close_by, spread};
use common::numbers;
use mlx_graft::{Array, Result, ops, transforms};

/// How far second derivatives may be off: they are sums of products of first ones.
const SECOND: f32 = 1e-4;

#[test]
fn compiled_with_changing_shapes() -> Result<()> {
    for case in ALL {
        let ours = case.ours;
        let shapeless = transforms::compile(ours, true)?;
        for shape in [[4, 9], [7, 33], [2, 2]] {
            let inputs = (case.inputs)(&spread(1, &shape)?)?;
            assert_close(&shapeless.call(&inputs)?[0], &case.wanted(&inputs)?[0])?;
        }
        // Two norms of different parameters are not merged.
        let both = transforms::compile(
            |x| {
                let norm = |eps| graft_kernels::rms_norm(&x[0], None, eps);
                Ok(vec![ops::subtract(&norm(0.0)?, &norm(1.0)?)?])
            },
            false,
        )?;
        let difference = both.call(&[numbers(1, &[3, 3])?])?[0].to_vec::<f32>()?;
        assert!(difference[2].abs() > 0.01);
    }
    Ok(())
}

#[test]
fn vectorized() -> Result<()> {
    for case in ALL {
        let inputs = (case.inputs)(&spread(1, &[5, 4, 6])?)?;
        let wanted = case.wanted(&inputs)?;
        // A weight is for all rows.
        let axes: Vec<_> = inputs.iter().map(|x| (x.ndim() > 1).then_some(0)).collect();
        let mapped = transforms::vmap(case.ours, &inputs, &axes, &[Some(0)])?;
        assert_close(&mapped[0], &wanted[0])?;

        // The mapped dimension of the first is last, and the second has none.
        let mut inputs = (case.inputs)(&spread(1, &[4, 6])?)?;
        let stack = spread(2, &[4, 6, 5])?;
        inputs[0] = stack.clone();
        let mut axes = vec![None; inputs.len()];
        axes[0] = Some(2);
        let mapped = transforms::vmap(case.ours, &inputs, &axes, &[Some(0)])?;
        for i in 0..5 {
            let index = Array::scalar(i)?;
            inputs[0] = ops::take_axis(&stack, &index, -1)?;
            assert_close(&ops::take_axis(&mapped[0], &index, 0)?, &case.wanted(&inputs)?[0])?;
        }
    }
    Ok(())
}

/// The gradient of the sum of squares, as a function to differentiate once more.
fn slopes(
    function: impl Fn(&[Array]) -> Result<Vec<Array>> + Clone + 'static,
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + Clone + 'static {
    move |x: &[Array]| {
        let function = function.clone();
        let loss = move |x: &[Array]| {
            let squares = ops::square(&function(x)?[0])?;
            Ok(vec![ops::sum(&squares, false)?])
        };
        transforms::grad(loss, &(0..x.len() as i32).collect::<Vec<_>>(), x)
    }
}

#[test]
fn second_derivatives() -> Result<()> {
    for case in ALL {
        let inputs = (case.inputs)(&numbers(1, &[4, 6])?)?;
        let (moved, fixed) = inputs.split_at(case.differentiable);
        let fixed = fixed.to_vec();
        let both = move |x: &[Array]| [x, &fixed].concat();
        let with_fixed = both.clone();
        let ours = slopes(move |x: &[Array]| (case.ours)(&both(x)));
        let theirs = slopes(move |x: &[Array]| case.wanted(&with_fixed(x)));
        let like = |seed: u32| -> Result<Vec<Array>> {
            moved.iter().map(|x| numbers(seed, x.shape())).collect()
        };

        let (_, found) = transforms::vjp(ours.clone(), moved, &like(3)?)?;
        let (_, wanted) = transforms::vjp(theirs.clone(), moved, &like(3)?)?;
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_close_by(SECOND, found, wanted)?;
        }
        let (_, found) = transforms::jvp(ours, moved, &like(4)?)?;
        let (_, wanted) = transforms::jvp(theirs, moved, &like(4)?)?;
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_close_by(SECOND, found, wanted)?;
        }
    }
    Ok(())
}
