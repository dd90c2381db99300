//! Outputs in pieces, each written by one task.

use std::mem::MaybeUninit;

use crate::prefetch::prefetch_far_row;

/// The pieces of an output that one task writes.
pub(super) type Pieces<'a, T> = Vec<&'a mut [MaybeUninit<T>]>;

/// Asks for pieces that are written soon.
pub(super) fn prefetch<T>(pieces: &[&mut [MaybeUninit<T>]]) {
    for piece in pieces {
        prefetch_far_row(piece);
    }
}

/// Cuts `out` into pieces of `length` and gives piece number `i` to task `owner(i)`; those of a
/// task keep their order.
pub(super) fn deal<T>(
    out: &mut [MaybeUninit<T>],
    length: usize,
    tasks: usize,
    owner: impl Fn(usize) -> usize,
) -> Vec<Pieces<'_, T>> {
    let mut dealt: Vec<_> = (0..tasks).map(|_| Vec::new()).collect();
    for (i, piece) in out.chunks_exact_mut(length).enumerate() {
        dealt[owner(i)].push(piece);
    }
    dealt
}
