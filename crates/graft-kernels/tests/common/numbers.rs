//! Test data.

use mlx_graft::{Array, Result};

/// Seeded, evenly spread numbers in [-1, 1).
pub fn numbers(seed: u32, shape: &[i32]) -> Result<Array> {
    let size = shape.iter().product::<i32>();
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let values: Vec<f32> = (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Array::from_slice(&values, shape)
}
