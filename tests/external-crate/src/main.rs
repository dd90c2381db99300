//! Fits a line by gradient descent, as a user's program would.

use mlx_graft::transforms::{ValueAndGrad, eval};
use mlx_graft::{Array, Result, ops};

/// The mean squared error of `slope * x + offset`; the inputs are slope, offset, x, y.
fn loss(inputs: &[Array]) -> Result<Vec<Array>> {
    let [slope, offset, x, y] = inputs else { unreachable!("called with four arrays") };
    let line = ops::add(&ops::multiply(slope, x)?, offset)?;
    let error = ops::square(&ops::subtract(&line, y)?)?;
    Ok(vec![ops::mean(&error, false)?])
}

fn main() -> Result<()> {
    let x = Array::from_slice(&[0.0_f32, 1.0, 2.0, 3.0], &[4])?;
    let y = Array::from_slice(&[1.0_f32, 3.0, 5.0, 7.0], &[4])?;
    let rate = Array::scalar(0.1_f32)?;
    let mut slope = Array::scalar(0.0_f32)?;
    let mut offset = Array::scalar(0.0_f32)?;
    let step = ValueAndGrad::new(loss, &[0, 1])?;
    for _ in 0..200 {
        let (_, gradients) = step.call(&[&slope, &offset, &x, &y])?;
        slope = ops::subtract(&slope, &ops::multiply(&rate, &gradients[0])?)?;
        offset = ops::subtract(&offset, &ops::multiply(&rate, &gradients[1])?)?;
        eval(&[&slope, &offset])?;
    }
    println!("y = {:.3} x + {:.3}", slope.item::<f32>()?, offset.item::<f32>()?);
    Ok(())
}
