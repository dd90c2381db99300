//! Indices for tests.

use mlx_graft::{Array, Element, ops};

/// A row of indices.
pub fn indices<T: Element>(values: &[T]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).expect("indices")
}

/// The same values, not computed yet.
pub fn lazy(x: &Array) -> Array {
    ops::zeros_like(x).and_then(|zeros| ops::add(x, &zeros)).expect("the sum with zeros")
}
