//! The derivatives of attention, from scores that are computed again.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]
#![allow(unsafe_code)]

use std::mem;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use mlx_graft::primitive::{InputBuffer, KernelError, OutputBuffer, Strided};
use pulp::{Simd, WithSimd};

use super::heads::{Block, Heads, ROWS, Stretch};
use super::parts::{Pieces, WriteRows, deal, prefetch};
use crate::floats::Float;
use crate::isa;
use crate::lanes;
use crate::matmul::factor::{self, Factor};
use crate::matmul::matrix::Matrix;
use crate::tasks;

/// Rows of a block: the derivatives with respect to keys and values are sums over them, and short sums
/// are slow.
const MOST_ROWS: usize = 2 * ROWS;

/// What is known of the queries: the attention, its statistics, and the cotangent, each of shape
/// `(B, T, H, …)`.
struct Known<'a, T> {
    out: Strided<'a, T>,
    statistics: Strided<'a, f32>,
    cotangent: Strided<'a, T>,
}

impl<'a, T: Float> Known<'a, T> {
    /// The cotangent of a head, position by position.
    fn cotangent_of(&self, batch: usize, head: usize) -> Matrix<'a, T> {
        Matrix::along(&self.cotangent, 1, &[batch, head])
    }

    /// The attention of a head.
    fn out_of(&self, batch: usize, head: usize) -> Matrix<'a, T> {
        Matrix::along(&self.out, 1, &[batch, head])
    }

    /// For each position the highest score, and the inverse of the sum of exponentials.
    fn statistics_of(&self, batch: usize, head: usize) -> Matrix<'a, f32> {
        Matrix::along(&self.statistics, 1, &[batch, head])
    }
}

/// What a thread computes in, kept from task to task.
#[derive(Default)]
struct Memory {
    wide: [Vec<f32>; 2],
    packed: [factor::Memory; 4],
    queries: Vec<f32>,
    cotangent: Vec<f32>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
    product: Vec<f32>,
    /// The derivatives with respect to keys and values.
    sums: [Vec<f32>; 2],
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
        let blocks = |stretch: &Stretch| {
            stretch.queries.len().div_ceil(self.block_length(stretch, MOST_ROWS))
        };
        let most_blocks = stretches.iter().map(blocks).max().unwrap_or(1);
        let parts = parts_of_queries(tasks, tasks::threads(), most_blocks);
        // Whole blocks of the queries of a stretch.
        let part = |stretch: &Stretch, part: usize| {
            let (start, end) = (stretch.queries.start, stretch.queries.end);
            let at = |part: usize| {
                blocks(stretch) * part / parts * self.block_length(stretch, MOST_ROWS)
            };
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
        tasks::for_each_item(dq.into_iter(), true, |task, dq, memory: &mut Memory| {
            let (i, group) = (task / self.groups, task % self.groups);
            let (stretch, range) = &queries[i];
            self.group_gradients(stretch, range, group, (&known, dq), memory);
            let sums = &sums[i / parts * self.groups + group];
            sums.put(i % parts, [self.dim, self.value_dim], &mut memory.sums);
        });
        Ok(())
    }

    /// Writes the derivatives with respect to some queries of one group of heads, and leaves as sums
    /// what they add to those with respect to the keys and values of the stretch.
    fn group_gradients(
        &self,
        stretch: &Stretch,
        queries: &Range<usize>,
        group: usize,
        (known, mut dq): (&Known<'_, T>, Pieces<'_, T>),
        memory: &mut Memory,
    ) {
        let (batch, start, count) = (stretch.batch, stretch.keys.start, stretch.keys.len());
        let Memory { wide: [wide_keys, wide_values], packed, .. } = memory;
        let keys = T::wide(self.keys_of(batch, group, stretch.keys.clone()), wide_keys);
        let values = T::wide(self.values_of(batch, group, stretch.keys.clone()), wide_values);
        let [first, second, third, packed_rows] = packed;
        let transposed_keys = Factor::new(keys.transposed(), first);
        let transposed_values = Factor::new(values.transposed(), second);
        let keys = Factor::new(keys, third);
        let [key_sums, value_sums] = &mut memory.sums;
        for (sums, dim) in [(&mut *key_sums, self.dim), (&mut *value_sums, self.value_dim)] {
            sums.clear();
            sums.resize(count * dim, 0.0);
        }
        let Memory { queries: scaled, cotangent, scores, slopes, product, .. } = memory;
        let length = self.block_length(stretch, MOST_ROWS);
        let block = |first: usize| {
            let count = length.min(queries.end - first);
            Block { batch, group, first, count }
        };
        for (first, dq) in queries.clone().step_by(length).zip(dq.chunks_mut(length)) {
            if first + length < queries.end {
                self.prefetch_known(block(first + length), known);
            }
            let block = block(first);
            let (seen, rows) = (self.keys_seen(stretch, block), self.rows(block));
            prefetch(dq);
            let (width, from) = (seen.len(), seen.start - start..seen.end - start);
            let stride = Factor::stride(width);
            self.scaled_queries(block, scaled);
            let queries = Matrix::from_rows(scaled, rows, self.dim);
            let part = (0..self.dim, from.clone());
            transposed_keys.product_into(scores, queries, part, stride);
            self.mask(block, stride, scores);

            cotangent.resize(rows * self.value_dim, 0.0);
            let read = ReadKnown { heads: self, block, known, cotangent };
            let known = isa::arch().dispatch(read);
            let cotangent = Matrix::from_rows(cotangent, rows, self.value_dim);
            let part = (0..self.value_dim, from.clone());
            transposed_values.product_into(slopes, cotangent, part, stride);
            let visible = (0..rows).map(|row| self.visible(block, row, &seen)).collect();
            isa::arch().dispatch(Derive { stride, visible, known, weights: scores, slopes });
            self.mask_slopes(block, stride, slopes);

            let weights = Matrix::from_rows(scores, rows, stride).columns(0, width).transposed();
            let slopes = Matrix::from_rows(slopes, rows, stride).columns(0, width);
            let sums = |dim: usize| from.start * dim..from.end * dim;
            let added = &mut value_sums[sums(self.value_dim)];
            Factor::new(cotangent, packed_rows).add_product(added, weights);
            let added = &mut key_sums[sums(self.dim)];
            Factor::new(queries, packed_rows).add_product(added, slopes.transposed());
            keys.product_into(product, slopes, (from, 0..self.dim), self.dim);
            let scale = |_| self.scale();
            isa::arch().dispatch(WriteRows { rows: product, dim: self.dim, pieces: dq, scale });
        }
    }

    /// Asks for the queries of a block and what is known of them.
    fn prefetch_known(&self, block: Block, known: &Known<'_, T>) {
        self.prefetch(block, |head| self.queries_of(block.batch, head));
        self.prefetch(block, |head| known.cotangent_of(block.batch, head));
        self.prefetch(block, |head| known.out_of(block.batch, head));
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

    /// Takes what part number `i` adds, in rows of `dims` numbers. The last to come writes the sums,
    /// which are those of the parts in their order, so that results repeat.
    fn put(&self, i: usize, dims: [usize; 2], sums: &mut [Vec<f32>; 2]) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Parts { found, outputs } = &mut *parts;
        if found.len() > 1 {
            found[i] = Some(mem::take(sums));
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
            *sums = found.drain(..).flatten().reduce(add).unwrap_or_default();
        }
        for ((pieces, rows), dim) in outputs.iter_mut().zip(sums).zip(dims) {
            isa::arch().dispatch(WriteRows { rows, dim, pieces, scale: |_| 1.0 });
        }
    }
}

/// Reads the cotangent of a block, row by row, and finds for each row the highest score, the inverse
/// of the sum of exponentials, and the product of the cotangent with the attention.
struct ReadKnown<'a, 'b, T> {
    heads: &'a Heads<'b, T>,
    block: Block,
    known: &'a Known<'b, T>,
    cotangent: &'a mut [f32],
}

impl<T: Float> WithSimd for ReadKnown<'_, '_, T> {
    type Output = Vec<[f32; 3]>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<[f32; 3]> {
        let Self { heads, block, known, cotangent } = self;
        let dim = heads.value_dim;
        let mut found = Vec::with_capacity(heads.rows(block));
        let mut out = vec![0.0; dim];
        for (repeat, rows) in cotangent.chunks_mut(block.count * dim).enumerate() {
            let head = heads.head(block, repeat);
            let cotangents = known.cotangent_of(block.batch, head);
            let outs = known.out_of(block.batch, head);
            let statistics = known.statistics_of(block.batch, head);
            for (query, row) in (block.first..).zip(rows.chunks_exact_mut(dim)) {
                cotangents.widen_row(query, row);
                let out = outs.wide_row(query, &mut out);
                let (highest, scale) = (statistics.get(query, 0), statistics.get(query, 1));
                found.push([highest, scale, lanes::dot(simd, row, out)]);
            }
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
