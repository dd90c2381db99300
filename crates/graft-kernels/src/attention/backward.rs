//! The derivatives of attention, from scores that are computed again.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]
#![allow(unsafe_code)]

use std::ops::Range;

use mlx_graft::primitive::{InputBuffer, KernelError, OutputBuffer, Strided};
use pulp::{Arch, Simd, WithSimd};

use super::heads::{Block, Heads, Stretch};
use super::parts::{Pieces, deal};
use crate::floats::Float;
use crate::lanes;
use crate::matmul::float32::{add_product, product_into};
use crate::matmul::matrix::Matrix;
use crate::tasks;

/// What is known of the queries: the attention, its statistics, and the cotangent, each of shape
/// `(B, T, H, …)`.
struct Known<'a, T> {
    out: Strided<'a, T>,
    statistics: Strided<'a, f32>,
    cotangent: Strided<'a, T>,
}

impl<T: Float> Heads<'_, T> {
    /// Writes the derivatives with respect to queries, keys and values.
    pub(super) fn backward(
        &self,
        known: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (known, [dq, dk, dv]) = match (known, outputs) {
            ([out, statistics, cotangent], [dq, dk, dv]) => {
                let (out, statistics) = (out.strided()?, statistics.strided()?);
                (Known { out, statistics, cotangent: cotangent.strided()? }, [dq, dk, dv])
            }
            _ => return Err(KernelError::new("the derivative has six inputs and three outputs")),
        };
        // SAFETY: the tasks below write all their pieces, which are all of the outputs.
        let (dq, dk, dv) = unsafe {
            (dq.as_uninit_slice::<T>()?, dk.as_uninit_slice::<T>()?, dv.as_uninit_slice::<T>()?)
        };
        let stretches = self.stretches();
        let tasks = self.groups * stretches.len();
        // Piece number `i` of an output lies at (batch, position, group).
        let owner = |positions: usize, range: fn(&Stretch) -> &Range<usize>| {
            let mut stretch_of = vec![0; self.batch * positions];
            for (i, stretch) in stretches.iter().enumerate() {
                let (start, range) = (stretch.batch * positions, range(stretch));
                stretch_of[start + range.start..start + range.end].fill(i);
            }
            move |i: usize| stretch_of[i / self.groups] * self.groups + i % self.groups
        };
        let of_keys = || owner(self.keys, |stretch| &stretch.keys);
        let of_queries = owner(self.queries, |stretch| &stretch.queries);
        let dq = deal(dq, self.repeats * self.dim, tasks, of_queries);
        let dk = deal(dk, self.dim, tasks, of_keys());
        let dv = deal(dv, self.value_dim, tasks, of_keys());
        let outputs = dq.into_iter().zip(dk).zip(dv);
        tasks::for_each_item(outputs, true, |task, ((dq, dk), dv)| {
            let (stretch, group) = (&stretches[task / self.groups], task % self.groups);
            self.group_gradients(stretch, group, &known, dq, dk, dv);
        });
        Ok(())
    }

    /// Writes the derivatives of one group of heads.
    fn group_gradients(
        &self,
        stretch: &Stretch,
        group: usize,
        known: &Known<'_, T>,
        dq: Pieces<'_, T>,
        dk: Pieces<'_, T>,
        dv: Pieces<'_, T>,
    ) {
        let (mut key_scratch, mut value_scratch) = (Vec::new(), Vec::new());
        let (batch, start, count) = (stretch.batch, stretch.keys.start, stretch.keys.len());
        let keys = T::wide(self.keys_of(batch, group).rows(start, count), &mut key_scratch);
        let values = T::wide(self.values_of(batch, group).rows(start, count), &mut value_scratch);
        let mut key_sums = vec![0.0; count * self.dim];
        let mut value_sums = vec![0.0; count * self.value_dim];
        let (mut scores, mut slopes, mut product) = (Vec::new(), Vec::new(), Vec::new());
        let mut dq = dq.into_iter();
        let length = self.block_length(stretch);
        for first in stretch.queries.clone().step_by(length) {
            let count = length.min(stretch.queries.end - first);
            let block = Block { batch, group, first, count };
            let (seen, rows) = (self.keys_seen(block), self.rows(block));
            let (width, from) = (seen.len(), seen.start - start);
            let (seen_keys, seen_values) = (keys.rows(from, width), values.rows(from, width));
            let queries = self.scaled_queries(block);
            let queries = Matrix::from_rows(&queries, rows, self.dim);
            product_into(&mut scores, queries, seen_keys.transposed(), false);
            self.mask(block, width, &mut scores);

            let (cotangent, out, statistics) = self.known_rows(block, known);
            let along = Along { dim: self.value_dim, cotangent: &cotangent, out: &out, statistics };
            let known = Arch::new().dispatch(along);
            let cotangent = Matrix::from_rows(&cotangent, rows, self.value_dim);
            product_into(&mut slopes, cotangent, seen_values.transposed(), false);
            let visible = (0..rows).map(|row| self.visible(block, row, &seen)).collect();
            Arch::new().dispatch(Derive {
                width,
                visible,
                known,
                weights: &mut scores,
                slopes: &mut slopes,
            });
            self.mask_slopes(block, width, &mut slopes);

            let weights = Matrix::from_rows(&scores, rows, width).transposed();
            let slopes = Matrix::from_rows(&slopes, rows, width);
            let sums = |dim: usize| from * dim..(from + width) * dim;
            add_product(&mut value_sums[sums(self.value_dim)], weights, cotangent);
            add_product(&mut key_sums[sums(self.dim)], slopes.transposed(), queries);
            product_into(&mut product, slopes, seen_keys, false);
            for (i, dq) in dq.by_ref().take(count).enumerate() {
                for (repeat, dq) in dq.chunks_mut(self.dim).enumerate() {
                    let row = repeat * count + i;
                    for (dq, &x) in dq.iter_mut().zip(&product[row * self.dim..]) {
                        dq.write(T::round(x * self.scale()));
                    }
                }
            }
        }
        for (pieces, sums, dim) in [(dk, &key_sums, self.dim), (dv, &value_sums, self.value_dim)] {
            for (piece, sums) in pieces.into_iter().zip(sums.chunks(dim)) {
                piece.iter_mut().zip(sums).for_each(|(out, &x)| {
                    out.write(T::round(x));
                });
            }
        }
    }

    /// The rows of the cotangent of a block and of the attention, and for each the highest score and
    /// the inverse of the sum of exponentials.
    fn known_rows(
        &self,
        block: Block,
        known: &Known<'_, T>,
    ) -> (Vec<f32>, Vec<f32>, Vec<[f32; 2]>) {
        let rows = self.rows(block);
        let mut cotangent = vec![0.0; rows * self.value_dim];
        let mut out = vec![0.0; rows * self.value_dim];
        let mut statistics = vec![[0.0; 2]; rows];
        let both = cotangent.chunks_mut(self.value_dim).zip(out.chunks_mut(self.value_dim));
        for (row, ((cotangent, out), statistics)) in both.zip(&mut statistics).enumerate() {
            let head = self.head(block, row / block.count);
            let query = [block.batch, block.first + row % block.count];
            Matrix::of(&known.cotangent, &query).widen_row(head, cotangent);
            Matrix::of(&known.out, &query).widen_row(head, out);
            Matrix::of(&known.statistics, &query).widen_row(head, statistics);
        }
        (cotangent, out, statistics)
    }
}

/// Joins to what is known of each row the product of its cotangent with the attention.
struct Along<'a> {
    dim: usize,
    cotangent: &'a [f32],
    out: &'a [f32],
    statistics: Vec<[f32; 2]>,
}

impl WithSimd for Along<'_> {
    type Output = Vec<[f32; 3]>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<[f32; 3]> {
        let rows = self.cotangent.chunks_exact(self.dim).zip(self.out.chunks_exact(self.dim));
        let join =
            |([highest, scale], (x, y)): ([f32; 2], _)| [highest, scale, lanes::dot(simd, x, y)];
        self.statistics.into_iter().zip(rows).map(join).collect()
    }
}

/// From the scores and the derivatives with respect to the weights: the weights, and the derivatives
/// with respect to the scores; zeros where a key is hidden.
struct Derive<'a> {
    width: usize,
    visible: Vec<Range<usize>>,
    known: Vec<[f32; 3]>,
    weights: &'a mut [f32],
    slopes: &'a mut [f32],
}

impl WithSimd for Derive<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.weights.chunks_mut(self.width).zip(self.slopes.chunks_mut(self.width));
        let known = self.visible.into_iter().zip(self.known);
        for ((weights, slopes), (visible, [highest, scale, along])) in rows.zip(known) {
            for numbers in [&mut *weights, &mut *slopes] {
                numbers[..visible.start].fill(0.0);
                numbers[visible.end..].fill(0.0);
            }
            for (weight, slope) in weights[visible.clone()].iter_mut().zip(&mut slopes[visible]) {
                *weight = lanes::exp(simd, *weight - highest) * scale;
                *slope = *weight * (*slope - along);
            }
        }
    }
}
