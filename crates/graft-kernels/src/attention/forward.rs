//! The attention of queries, a block at a time.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ops::Range;

use mlx_graft::primitive::{KernelError, OutputBuffer};
use pulp::{NullaryFnOnce, Simd, WithSimd};

use super::few_queries;
use super::heads::{Block, Heads, Stretch};
use super::parts::{Pieces, deal};
use crate::floats::Float;
use crate::isa;
use crate::lanes;
use crate::matmul::float32::product_into;
use crate::matmul::matrix::Matrix;
use crate::tasks;

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 17;

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
        // Of each block: the batch, and the queries.
        let mut blocks: Vec<(usize, Range<usize>)> = Vec::new();
        let mut block_of = vec![0; self.batch * self.queries];
        for stretch in self.stretches() {
            let length = self.block_length(&stretch);
            let Stretch { batch, queries, .. } = stretch;
            for first in queries.clone().step_by(length) {
                let queries = first..queries.end.min(first + length);
                let start = batch * self.queries;
                block_of[start + queries.start..start + queries.end].fill(blocks.len());
                blocks.push((batch, queries));
            }
        }
        let tasks = self.groups * blocks.len();
        // Piece number `i` of an output lies at (batch, query, group).
        let owner = |i: usize| i % self.groups * blocks.len() + block_of[i / self.groups];
        let out = deal(out, self.repeats * self.value_dim, tasks, owner);
        let statistics = deal(statistics, self.repeats * 2, tasks, owner);
        let run = |task: usize, (out, statistics): (Pieces<'_, T>, Pieces<'_, f32>)| {
            let (group, block) = (task / blocks.len(), &blocks[task % blocks.len()]);
            let (batch, queries) = (block.0, &block.1);
            let block = Block { batch, group, first: queries.start, count: queries.len() };
            self.block(block, out, statistics);
        };
        let outputs = out.into_iter().zip(statistics);
        tasks::for_each_item(outputs, self.work() >= PARALLEL_FROM, run);
    }

    /// Writes the pieces of a block, one for each query.
    fn block(&self, block: Block, out: Pieces<'_, T>, statistics: Pieces<'_, f32>) {
        let (seen, rows) = (self.keys_seen(block), self.rows(block));
        let keys = self.keys_of(block.batch, block.group).rows(seen.start, seen.len());
        let values = self.values_of(block.batch, block.group).rows(seen.start, seen.len());
        let queries = self.scaled_queries(block);
        let (mut scores, mut product) = (Vec::new(), Vec::new());
        let few = rows <= few_queries::ROWS;
        let mut scratch = Vec::new();
        if few {
            few_queries::scores(&queries, keys, &mut scores);
        } else {
            let queries = Matrix::from_rows(&queries, rows, self.dim);
            let keys = T::wide(keys, &mut scratch);
            product_into(&mut scores, queries, keys.transposed(), false);
        }
        self.mask(block, seen.len(), &mut scores);
        let found = self.weigh(block, &seen, &mut scores);
        if few {
            few_queries::mix(&scores, values, &mut product);
        } else {
            let weights = Matrix::from_rows(&scores, rows, seen.len());
            let values = T::wide(values, &mut scratch);
            product_into(&mut product, weights, values, false);
        }
        isa::arch().dispatch(Write {
            product: &product,
            found: &found,
            block,
            repeats: self.repeats,
            out,
        });
        for (i, statistics) in statistics.into_iter().enumerate() {
            for (repeat, statistics) in statistics.chunks_exact_mut(2).enumerate() {
                for (out, x) in statistics.iter_mut().zip(found[repeat * block.count + i]) {
                    out.write(x);
                }
            }
        }
    }

    /// Replaces the scores of a block by their exponentials relative to the highest of the row,
    /// and by zeros where a key is hidden. Returns the highest and the inverse of the sum.
    fn weigh(&self, block: Block, seen: &Range<usize>, scores: &mut [f32]) -> Vec<[f32; 2]> {
        let visible = (0..self.rows(block)).map(|row| self.visible(block, row, seen)).collect();
        isa::arch().dispatch(Weigh { width: seen.len(), visible, scores })
    }
}

/// The rows of scores of a block, and which of each are visible.
struct Weigh<'a> {
    width: usize,
    visible: Vec<Range<usize>>,
    scores: &'a mut [f32],
}

impl WithSimd for Weigh<'_> {
    type Output = Vec<[f32; 2]>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<[f32; 2]> {
        let mut found = Vec::with_capacity(self.visible.len());
        for (visible, scores) in self.visible.into_iter().zip(self.scores.chunks_mut(self.width)) {
            scores[..visible.start].fill(0.0);
            scores[visible.end..].fill(0.0);
            let scores = &mut scores[visible];
            let highest = lanes::maximum(simd, scores);
            for x in &mut *scores {
                *x = lanes::exp(simd, *x - highest);
            }
            found.push([highest, 1.0 / lanes::sum(simd, scores)]);
        }
        found
    }
}

/// Sums of values, not yet divided by the sums of their weights, and where they go.
struct Write<'a, 'o, T> {
    product: &'a [f32],
    found: &'a [[f32; 2]],
    block: Block,
    repeats: usize,
    out: Pieces<'o, T>,
}

impl<T: Float> NullaryFnOnce for Write<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let dim = self.product.len() / self.found.len();
        for (i, out) in self.out.into_iter().enumerate() {
            for repeat in 0..self.repeats {
                let row = repeat * self.block.count + i;
                let (product, scale) = (&self.product[row * dim..][..dim], self.found[row][1]);
                for (out, &x) in out[repeat * dim..].iter_mut().zip(product) {
                    out.write(T::round(x * scale));
                }
            }
        }
    }
}
