//! Test data.

use mlx_graft::{Array, Dtype, ops};

/// The numbers from 0 on.
pub fn numbers(shape: &[i32]) -> Array {
    let size = shape.iter().product::<i32>();
    let x = ops::arange(0.0, f64::from(size), 1.0, Dtype::Float32).expect("numbers");
    ops::reshape(&x, shape).expect("an array of as many numbers as the shape says")
}
