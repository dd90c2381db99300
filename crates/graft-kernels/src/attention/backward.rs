//! The derivatives of attention, from scores that are computed again.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use mlx_graft::primitive::{InputBuffer, KernelError, OutputBuffer, Strided};
use pulp::{Simd, WithSimd};

use super::heads::{Block, Heads, Stretch, prefetch_rows};
use super::parts::{Pieces, deal, prefetch};
use crate::floats::Float;
use crate::isa;
use crate::lanes;
use crate::matmul::factor::Factor;
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
        // SAFETY: the tasks below write all of their pieces and, when the last part of a group has
        // come, those of its sums; together they are all of the outputs.
        let (dq, dk, dv) = unsafe {
            (dq.as_uninit_slice::<T>()?, dk.as_uninit_slice::<T>()?, dv.as_uninit_slice::<T>()?)
        };
        let stretches = self.stretches();
        let tasks = self.groups * stretches.len();
        let blocks = |stretch: &Stretch| stretch.queries.len().div_ceil(self.block_length(stretch));
        let most_blocks = stretches.iter().map(blocks).max().unwrap_or(1);
        let parts = parts_of_queries(tasks, tasks::threads(), most_blocks);
        // Whole blocks of the queries of a stretch.
        let part = |stretch: &Stretch, part: usize| {
            let (start, end) = (stretch.queries.start, stretch.queries.end);
            let at = |part: usize| blocks(stretch) * part / parts * self.block_length(stretch);
            (start + at(part)).min(end)..(start + at(part + 1)).min(end)
        };
        let of_stretch =
            |stretch| (0..parts).map(move |i| (stretch, part(stretch, i))).collect::<Vec<_>>();
        let queries: Vec<(&Stretch, Range<usize>)> =
            stretches.iter().flat_map(of_stretch).collect();
        let keys: Vec<_> =
            stretches.iter().map(|stretch| (stretch, stretch.keys.clone())).collect();
        // Piece number `i` of an output lies at (batch, position, group).
        let owner = |positions: usize, ranges: &[(&Stretch, Range<usize>)]| {
            let mut owners = vec![0; self.batch * positions];
            for (i, (stretch, range)) in ranges.iter().enumerate() {
                let start = stretch.batch * positions;
                owners[start + range.start..start + range.end].fill(i);
            }
            move |i: usize| owners[i / self.groups] * self.groups + i % self.groups
        };
        let of_queries = owner(self.queries, &queries);
        let dq = deal(dq, self.repeats * self.dim, tasks * parts, of_queries);
        let dk = deal(dk, self.dim, tasks, owner(self.keys, &keys));
        let dv = deal(dv, self.value_dim, tasks, owner(self.keys, &keys));
        let sums: Vec<_> = dk.into_iter().zip(dv).map(|out| Sums::new(parts, out)).collect();
        tasks::for_each_item(dq.into_iter(), true, |task, dq| {
            let (i, group) = (task / self.groups, task % self.groups);
            let (stretch, range) = &queries[i];
            let found = self.group_gradients(stretch, range, group, &known, dq);
            sums[i / parts * self.groups + group].put(i % parts, found);
        });
        Ok(())
    }

    /// Writes the derivatives with respect to some queries of one group of heads, and returns what
    /// they add to those with respect to the keys and values of the stretch.
    fn group_gradients(
        &self,
        stretch: &Stretch,
        queries: &Range<usize>,
        group: usize,
        known: &Known<'_, T>,
        dq: Pieces<'_, T>,
    ) -> [Vec<f32>; 2] {
        let (mut key_scratch, mut value_scratch) = (Vec::new(), Vec::new());
        let (batch, start, count) = (stretch.batch, stretch.keys.start, stretch.keys.len());
        let keys = T::wide(self.keys_of(batch, group).rows(start, count), &mut key_scratch);
        let values = T::wide(self.values_of(batch, group).rows(start, count), &mut value_scratch);
        let factors = [keys.transposed(), values.transposed(), keys].map(Factor::new);
        let [transposed_keys, transposed_values, keys] = &factors;
        let mut key_sums = vec![0.0; count * self.dim];
        let mut value_sums = vec![0.0; count * self.value_dim];
        let (mut scores, mut slopes, mut product) = (Vec::new(), Vec::new(), Vec::new());
        let mut dq = dq.into_iter();
        let length = self.block_length(stretch);
        let block = |first: usize| {
            let count = length.min(queries.end - first);
            Block { batch, group, first, count }
        };
        for first in queries.clone().step_by(length) {
            if first + length < queries.end {
                self.prefetch_block(block(first + length), known);
            }
            let block = block(first);
            let (seen, rows) = (self.keys_seen(stretch, block), self.rows(block));
            let dq: Pieces<'_, T> = dq.by_ref().take(block.count).collect();
            prefetch(&dq);
            let (width, from) = (seen.len(), seen.start - start..seen.end - start);
            let stride = Factor::stride(width);
            let queries = self.scaled_queries(block);
            let queries = Matrix::from_rows(&queries, rows, self.dim);
            let part = (0..self.dim, from.clone());
            transposed_keys.product_into(&mut scores, queries, part, stride);
            self.mask(block, stride, &mut scores);

            let (cotangent, out, statistics) = self.known_rows(block, known);
            let along = Along { dim: self.value_dim, cotangent: &cotangent, out: &out, statistics };
            let known = isa::arch().dispatch(along);
            let cotangent = Matrix::from_rows(&cotangent, rows, self.value_dim);
            let part = (0..self.value_dim, from.clone());
            transposed_values.product_into(&mut slopes, cotangent, part, stride);
            let visible = (0..rows).map(|row| self.visible(block, row, &seen)).collect();
            isa::arch().dispatch(Derive {
                stride,
                visible,
                known,
                weights: &mut scores,
                slopes: &mut slopes,
            });
            self.mask_slopes(block, stride, &mut slopes);

            let weights = Matrix::from_rows(&scores, rows, stride).columns(0, width).transposed();
            let slopes = Matrix::from_rows(&slopes, rows, stride).columns(0, width);
            let sums = |dim: usize| from.start * dim..from.end * dim;
            let added = &mut value_sums[sums(self.value_dim)];
            Factor::new(cotangent).add_product(added, weights);
            let added = &mut key_sums[sums(self.dim)];
            Factor::new(queries).add_product(added, slopes.transposed());
            keys.product_into(&mut product, slopes, (from, 0..self.dim), self.dim);
            for (i, dq) in dq.into_iter().enumerate() {
                for (repeat, dq) in dq.chunks_mut(self.dim).enumerate() {
                    let row = repeat * block.count + i;
                    for (dq, &x) in dq.iter_mut().zip(&product[row * self.dim..]) {
                        dq.write(T::round(x * self.scale()));
                    }
                }
            }
        }
        [key_sums, value_sums]
    }

    /// Asks for what is known of a block.
    fn prefetch_block(&self, block: Block, known: &Known<'_, T>) {
        self.prefetch_heads(block, &self.q);
        for i in 0..block.count {
            for array in [&known.cotangent, &known.out] {
                let heads = Matrix::of(array, &[block.batch, block.first + i]);
                prefetch_rows(heads.rows(block.group * self.repeats, self.repeats));
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

/// The parts into which the queries of a stretch are cut, of at most `blocks`, where there are fewer
/// tasks than threads: twice as many as it takes, as a causal mask leaves less work to the first.
fn parts_of_queries(tasks: usize, threads: usize, blocks: usize) -> usize {
    if tasks < threads { (2 * threads).div_ceil(tasks).min(blocks) } else { 1 }
}

/// The derivatives with respect to the keys and values of a group: sums over parts of its queries.
struct Sums<'a, T>(Mutex<Parts<'a, T>>);

struct Parts<'a, T> {
    found: Vec<Option<[Vec<f32>; 2]>>,
    outputs: [Pieces<'a, T>; 2],
}

impl<'a, T: Float> Sums<'a, T> {
    fn new(parts: usize, (dk, dv): (Pieces<'a, T>, Pieces<'a, T>)) -> Self {
        Self(Mutex::new(Parts { found: vec![None; parts], outputs: [dk, dv] }))
    }

    /// Takes what part number `i` adds. The last to come writes the sums, which are those of the
    /// parts in their order, so that results repeat.
    fn put(&self, i: usize, sums: [Vec<f32>; 2]) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Parts { found, outputs } = &mut *parts;
        found[i] = Some(sums);
        if found.iter().any(Option::is_none) {
            return;
        }
        let add = |mut sums: [Vec<f32>; 2], part: [Vec<f32>; 2]| {
            for (sums, part) in sums.iter_mut().zip(&part) {
                for (sum, x) in sums.iter_mut().zip(part) {
                    *sum += x;
                }
            }
            sums
        };
        let sums = found.drain(..).flatten().reduce(add).unwrap_or_default();
        for (pieces, sums) in outputs.iter_mut().zip(&sums) {
            let length = pieces.first().map_or(1, |piece| piece.len());
            for (piece, sums) in pieces.iter_mut().zip(sums.chunks(length)) {
                for (out, &x) in piece.iter_mut().zip(sums) {
                    out.write(T::round(x));
                }
            }
        }
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
        let mut found = Vec::with_capacity(self.statistics.len());
        let rows = self.cotangent.chunks_exact(self.dim).zip(self.out.chunks_exact(self.dim));
        for ([highest, scale], (x, y)) in self.statistics.into_iter().zip(rows) {
            found.push([highest, scale, lanes::dot(simd, x, y)]);
        }
        found
    }
}

/// From the scores and the derivatives with respect to the weights: the weights, and the derivatives
/// with respect to the scores; zeros where a key is hidden.
struct Derive<'a> {
    stride: usize,
    visible: Vec<Range<usize>>,
    known: Vec<[f32; 3]>,
    weights: &'a mut [f32],
    slopes: &'a mut [f32],
}

impl WithSimd for Derive<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.weights.chunks_mut(self.stride).zip(self.slopes.chunks_mut(self.stride));
        let known = self.visible.into_iter().zip(self.known);
        for ((weights, slopes), (visible, [highest, scale, along])) in rows.zip(known) {
            let whole = lanes::whole(&visible, weights.len());
            for (weight, slope) in weights[whole.clone()].iter_mut().zip(&mut slopes[whole]) {
                *weight = lanes::exp(simd, *weight - highest) * scale;
                *slope = *weight * (*slope - along);
            }
            for numbers in [weights, slopes] {
                numbers[..visible.start].fill(0.0);
                numbers[visible.end..].fill(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_cut_where_threads_would_wait() {
        assert_eq!([1, 2, 3, 8].map(|tasks| parts_of_queries(tasks, 8, 100)), [16, 8, 6, 1]);
        assert_eq!(parts_of_queries(1, 8, 3), 3);
        assert_eq!(parts_of_queries(1, 1, 3), 1);
    }
}
