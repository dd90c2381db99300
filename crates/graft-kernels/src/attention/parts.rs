//! Outputs in pieces, each written by one task.
#![allow(clippy::inline_always)] // see `lanes`

use std::mem::MaybeUninit;

use pulp::NullaryFnOnce;

use crate::floats::Float;
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

/// Writes rows of `dim` numbers, head by head the row of each piece, times a factor of each.
pub(super) struct WriteRows<'a, 'o, T, F> {
    pub(super) rows: &'a [f32],
    pub(super) dim: usize,
    pub(super) pieces: &'a mut [&'o mut [MaybeUninit<T>]],
    pub(super) scale: F,
}

impl<T: Float, F: Fn(usize) -> f32> NullaryFnOnce for WriteRows<'_, '_, T, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let count = self.pieces.len();
        for (i, piece) in self.pieces.iter_mut().enumerate() {
            for (head, out) in piece.chunks_exact_mut(self.dim).enumerate() {
                let row = head * count + i;
                let (numbers, scale) =
                    (&self.rows[row * self.dim..][..self.dim], (self.scale)(row));
                for (out, &x) in out.iter_mut().zip(numbers) {
                    out.write(T::round(x * scale));
                }
            }
        }
    }
}
