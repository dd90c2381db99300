//! The attention of queries, a block at a time.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]
#![allow(unsafe_code)]

use std::cmp::Reverse;
use std::mem::MaybeUninit;
use std::ops::Range;

use mlx_graft::primitive::{KernelError, OutputBuffer};
use pulp::{Simd, WithSimd};

use super::few_queries;
use super::heads::{Block, Heads, ROWS, Stretch};
use super::parts::{Pieces, WriteRows, deal, prefetch};
use crate::floats::Float;
use crate::isa;
use crate::lanes;
use crate::matmul::factor::{self, Factor};
use crate::matmul::matrix::Matrix;
use crate::tasks;

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 17;

/// What a thread computes in, kept from part to part.
#[derive(Default)]
struct Memory {
    wide: [Vec<f32>; 2],
    packed: [factor::Memory; 2],
    queries: Vec<f32>,
    scores: Vec<f32>,
    product: Vec<f32>,
}

impl<T: Float> Heads<'_, T> {
    /// Writes the attention and the statistics of its scores.
    pub(super) fn forward(&self, outputs: &mut [OutputBuffer<'_>]) -> Result<(), KernelError> {
        let [out, statistics] = outputs else {
            return Err(KernelError::new("attention has two outputs"));
        };
        // SAFETY: all of both outputs is written.
        let (out, statistics) =
            unsafe { (out.as_uninit_slice::<T>()?, statistics.as_uninit_slice::<f32>()?) };
        self.write(out, statistics);
        Ok(())
    }

    /// Writes the attention alone.
    pub(super) fn attend(&self, out: &mut OutputBuffer<'_>) -> Result<(), KernelError> {
        let rows = self.batch * self.queries * self.groups * self.repeats;
        // SAFETY: all of it is written.
        let out = unsafe { out.as_uninit_slice::<T>()? };
        self.write(out, &mut vec![MaybeUninit::uninit(); 2 * rows]);
        Ok(())
    }

    /// Writes the attention and the statistics, all of both.
    fn write(&self, out: &mut [MaybeUninit<T>], statistics: &mut [MaybeUninit<f32>]) {
        let stretches = self.stretches();
        // Enough tasks for all threads: whole blocks of the queries of a stretch.
        let cut = (tasks::PER_THREAD * tasks::threads()).div_ceil(self.groups * stretches.len());
        let mut parts: Vec<(&Stretch, Range<usize>)> = Vec::new();
        for stretch in &stretches {
            let (length, queries) = (self.block_length(stretch, ROWS), &stretch.queries);
            let length = queries.len().div_ceil(length).div_ceil(cut) * length;
            let part = |first: usize| (stretch, first..queries.end.min(first + length));
            parts.extend(queries.clone().step_by(length).map(part));
        }
        // Those that see the most keys come first, so that threads end together.
        parts.sort_by_key(|(stretch, queries)| Reverse(queries.end - stretch.queries.start));
        let mut part_of = vec![0; self.batch * self.queries];
        for (i, (stretch, queries)) in parts.iter().enumerate() {
            let start = stretch.batch * self.queries;
            part_of[start + queries.start..start + queries.end].fill(i);
        }
        let tasks = parts.len() * self.groups;
        // Piece number `i` of an output lies at (batch, query, group).
        let owner = |i: usize| part_of[i / self.groups] * self.groups + i % self.groups;
        let out = deal(out, self.repeats * self.value_dim, tasks, owner);
        let statistics = deal(statistics, self.repeats * 2, tasks, owner);
        let run = |task: usize, outputs: (Pieces<'_, T>, Pieces<'_, f32>), memory: &mut Memory| {
            let (group, (stretch, queries)) = (task % self.groups, &parts[task / self.groups]);
            self.part(stretch, queries, group, outputs, memory);
        };
        let outputs = out.into_iter().zip(statistics);
        tasks::for_each_item(outputs, self.work() >= PARALLEL_FROM, run);
    }

    /// Writes the pieces of some queries of one group of heads, one for each query.
    fn part(
        &self,
        stretch: &Stretch,
        queries: &Range<usize>,
        group: usize,
        (mut out, mut statistics): (Pieces<'_, T>, Pieces<'_, f32>),
        memory: &mut Memory,
    ) {
        let length = self.block_length(stretch, ROWS);
        let block = |first: usize| {
            let count = length.min(queries.end - first);
            Block { batch: stretch.batch, group, first, count }
        };
        let origin = stretch.keys.start;
        let seen = origin..self.seen(stretch.batch, queries.end - 1).end;
        let keys = self.keys_of(stretch.batch, group, seen.clone());
        let values = self.values_of(stretch.batch, group, seen);
        let Memory { wide, packed, queries: scaled, scores, product } = memory;
        let few = self.repeats * length <= few_queries::ROWS;
        let factors = (!few).then(|| {
            let ([wide_keys, wide_values], [packed_keys, packed_values]) = (wide, packed);
            let keys = T::wide(keys, wide_keys).transposed();
            let values = T::wide(values, wide_values);
            (Factor::new(keys, packed_keys), Factor::new(values, packed_values))
        });
        let outputs = out.chunks_mut(length).zip(statistics.chunks_mut(length));
        for (first, (out, statistics)) in queries.clone().step_by(length).zip(outputs) {
            if first + length < queries.end {
                let next = block(first + length);
                self.prefetch(next, |head| self.queries_of(next.batch, head));
            }
            let block = block(first);
            prefetch(out);
            let (seen, rows) = (self.keys_seen(stretch, block), self.rows(block));
            self.scaled_queries(block, scaled);
            let from = seen.start - origin..seen.end - origin;
            let stride = if few { seen.len() } else { Factor::stride(seen.len()) };
            if let Some((keys, _)) = &factors {
                let queries = Matrix::from_rows(scaled, rows, self.dim);
                keys.product_into(scores, queries, (0..self.dim, from.clone()), stride);
            } else {
                few_queries::scores(scaled, keys.rows(from.start, from.len()), scores);
            }
            self.mask(block, stride, scores);
            let found = self.weigh(block, &seen, (scores, stride));
            if let Some((_, values)) = &factors {
                let weights = Matrix::from_rows(scores, rows, stride).columns(0, seen.len());
                values.product_into(product, weights, (from, 0..self.value_dim), self.value_dim);
            } else {
                few_queries::mix(scores, values.rows(from.start, from.len()), product);
            }
            let scale = |row: usize| found[row][1];
            let (rows, dim) = (&product[..], self.value_dim);
            isa::arch().dispatch(WriteRows { rows, dim, pieces: out, scale });
            for (i, statistics) in statistics.iter_mut().enumerate() {
                for (repeat, statistics) in statistics.chunks_exact_mut(2).enumerate() {
                    for (out, x) in statistics.iter_mut().zip(found[repeat * block.count + i]) {
                        out.write(x);
                    }
                }
            }
        }
    }

    /// Replaces the scores of a block by their exponentials relative to the highest of the row,
    /// and by zeros where a key is hidden. Returns the highest and the inverse of the sum.
    fn weigh(
        &self,
        block: Block,
        seen: &Range<usize>,
        (scores, stride): (&mut [f32], usize),
    ) -> Vec<[f32; 2]> {
        let visible = (0..self.rows(block)).map(|row| self.visible(block, row, seen)).collect();
        isa::arch().dispatch(Weigh { stride, visible, scores })
    }
}

/// The rows of scores of a block, and which of each are visible.
struct Weigh<'a> {
    stride: usize,
    visible: Vec<Range<usize>>,
    scores: &'a mut [f32],
}

impl WithSimd for Weigh<'_> {
    type Output = Vec<[f32; 2]>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<[f32; 2]> {
        let mut found = Vec::with_capacity(self.visible.len());
        for (visible, scores) in self.visible.into_iter().zip(self.scores.chunks_mut(self.stride)) {
            let whole = lanes::whole(&visible, scores.len());
            scores[..whole.start].fill(0.0);
            scores[whole.end..].fill(0.0);
            // Of these the exponential is 0.
            scores[whole.start..visible.start].fill(f32::NEG_INFINITY);
            scores[visible.end..whole.end].fill(f32::NEG_INFINITY);
            let scores = &mut scores[whole];
            let highest = lanes::maximum(simd, scores);
            for x in &mut *scores {
                *x = lanes::exp(simd, *x - highest);
            }
            found.push([highest, 1.0 / lanes::sum(simd, scores)]);
        }
        found
    }
}
