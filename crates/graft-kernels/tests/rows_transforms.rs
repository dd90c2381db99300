//! The kernels that work on rows under `compile`, `vmap` and a second `grad`.

#[allow(dead_code)]
#[path = "common/cases.rs"]
mod cases;
#[allow(dead_code)] // of what the tests share, a part
mod common;

use cases::{ALL, assert_close, spread};
use common::numbers;
use mlx_graft::{Array, Result, ops, transforms};

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
        let axes = vec![Some(0); inputs.len()];
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

#[test]
fn second_derivatives_are_refused() -> Result<()> {
    for case in ALL {
        let inputs = (case.inputs)(&spread(1, &[4, 6])?)?;
        let ours = case.ours;
        let fixed = inputs[1..].to_vec();
        let slope = move |x: &[Array]| {
            let fixed = fixed.clone();
            let loss = move |x: &[Array]| {
                let y = ours(&[x, &fixed].concat())?;
                Ok(vec![ops::sum(&ops::square(&y[0])?, false)?])
            };
            Ok(vec![ops::sum(&transforms::grad(loss, &[0], x)?[0], false)?])
        };
        let error = transforms::grad(slope, &[0], &inputs[..1]).expect_err("not implemented");
        assert!(error.to_string().contains("not implemented"), "{error}");
    }
    Ok(())
}
