//! What the tests share.

mod numbers;

use mlx_graft::Array;
pub use numbers::numbers;

/// Asserts that two arrays have one shape and differ nowhere by more than `bound`.
#[track_caller]
pub fn assert_within(found: &Array, wanted: &Array, bound: &Array) {
    assert_eq!(found.shape(), wanted.shape());
    let read = |x: &Array| x.to_vec::<f32>().expect("float32");
    for (i, ((x, y), bound)) in read(found).iter().zip(read(wanted)).zip(read(bound)).enumerate() {
        let same = x.is_nan() && y.is_nan() || x.to_bits() == y.to_bits();
        assert!(same || (x - y).abs() <= bound, "element {i}: {x} instead of {y} ± {bound}");
    }
}
