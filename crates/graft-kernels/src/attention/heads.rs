//! The inputs of attention, a block of queries at a time.
#![allow(clippy::inline_always)] // see `lanes`

use std::ops::Range;

use mlx_graft::primitive::{InputBuffer, KernelError, Strided};
use mlx_graft::{Dtype, Element};
use pulp::NullaryFnOnce;

use super::Attention;
use crate::floats::Float;
use crate::isa;
use crate::matmul::factor::Factor;
use crate::matmul::matrix::Matrix;
use crate::prefetch::prefetch_far_row;
use crate::tasks;

/// Rows of a block. With more of them a causal mask hides more of the scores that are computed, and
/// the scores leave the first-level cache; below, a product is slow.
pub(super) const ROWS: usize = 32;

/// Scores of a block of more rows: half a megabyte of `float32`, which a second-level cache keeps.
const SCORES: usize = 1 << 17;

/// Queries, keys and values.
pub(super) struct Heads<'a, T> {
    q: Strided<'a, T>,
    k: Strided<'a, T>,
    v: Strided<'a, T>,
    mask: Option<MaskRows<'a>>,
    attention: Attention,
    pub(super) batch: usize,
    /// Heads of keys and values.
    pub(super) groups: usize,
    /// Heads of queries for each of keys.
    pub(super) repeats: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// The length of a query.
    pub(super) dim: usize,
    /// The length of a value.
    pub(super) value_dim: usize,
}

/// A mask of shape `(B, H, T, S)`, or the first keys.
enum MaskRows<'a> {
    /// The first key that each query sees, `(B, T)`.
    From(Matrix<'a, i32>),
    /// Where a key is seen: a byte is not zero.
    Seen(Strided<'a, bool>),
    /// What is added to a score.
    Added(Strided<'a, f32>),
}

/// Consecutive queries, and consecutive keys which no other query sees.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stretch {
    pub(super) batch: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

/// Consecutive queries of all heads that share keys. Its row `r * count + i` is query `first + i` of
/// head `r` of the group.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) batch: usize,
    pub(super) group: usize,
    pub(super) first: usize,
    pub(super) count: usize,
}

impl<'a, T: Float> Heads<'a, T> {
    /// Reads queries, keys and values; the shapes fit, as `suits` has found.
    pub(super) fn new(
        inputs: &[InputBuffer<'a>],
        mask: Option<&InputBuffer<'a>>,
        attention: Attention,
    ) -> Result<Self, KernelError> {
        let read = |mask: &InputBuffer<'a>| -> Result<_, KernelError> {
            Ok(match mask.dtype() {
                Dtype::Int32 => MaskRows::From(Matrix::of(&mask.strided()?, &[])),
                Dtype::Bool => MaskRows::Seen(mask.strided()?),
                _ => MaskRows::Added(mask.strided()?),
            })
        };
        let (q, k, v) = (inputs[0].strided()?, inputs[1].strided()?, inputs[2].strided()?);
        let mask = mask.map(read).transpose()?;
        Ok(Self { mask, ..Self::of(q, k, v, attention) })
    }

    /// Queries, keys and values without a mask.
    pub(super) fn of(
        q: Strided<'a, T>,
        k: Strided<'a, T>,
        v: Strided<'a, T>,
        attention: Attention,
    ) -> Self {
        let [batch, heads, queries, dim] = [0, 1, 2, 3].map(|axis| q.shape()[axis] as usize);
        let [groups, keys] = [1, 2].map(|axis| k.shape()[axis] as usize);
        let value_dim = v.shape()[3] as usize;
        Self {
            q,
            k,
            v,
            mask: None,
            attention,
            batch,
            groups,
            repeats: heads / groups,
            queries,
            keys,
            dim,
            value_dim,
        }
    }

    /// The number of queries of a block of a stretch, which has [`ROWS`] to `most` rows.
    pub(super) fn block_length(&self, stretch: &Stretch, most: usize) -> usize {
        let seen = |query: usize| self.seen(stretch.batch, query).len();
        let keys = match self.mask {
            Some(MaskRows::From(_)) => stretch.queries.clone().map(seen).max().unwrap_or(1),
            _ => self.keys,
        };
        let rows = (SCORES / keys).clamp(ROWS, most);
        // Enough blocks for all threads, unless they would be small.
        let all = self.batch * self.groups * self.repeats * self.queries;
        let share = all.div_ceil(4 * tasks::threads()).max(ROWS);
        rows.min(share).div_ceil(self.repeats).min(self.queries)
    }

    /// The multiplications of all scores: a measure of the work.
    pub(super) fn work(&self) -> usize {
        self.batch * self.groups * self.repeats * self.queries * self.keys * self.dim
    }

    /// The factor of the scores.
    pub(super) fn scale(&self) -> f32 {
        self.attention.scale
    }

    /// Some keys of a group.
    pub(super) fn keys_of(&self, batch: usize, group: usize, keys: Range<usize>) -> Matrix<'a, T> {
        Matrix::of(&self.k, &[batch, group]).rows(keys.start, keys.len())
    }

    /// The values of some keys of a group.
    pub(super) fn values_of(
        &self,
        batch: usize,
        group: usize,
        keys: Range<usize>,
    ) -> Matrix<'a, T> {
        Matrix::of(&self.v, &[batch, group]).rows(keys.start, keys.len())
    }

    /// The rows of a block.
    pub(super) fn rows(&self, block: Block) -> usize {
        self.repeats * block.count
    }

    /// The keys that a query may see.
    pub(super) fn seen(&self, batch: usize, query: usize) -> Range<usize> {
        if !self.attention.causal {
            return 0..self.keys;
        }
        let own = self.keys - self.queries + query;
        let first = match &self.mask {
            Some(MaskRows::From(first)) => first.get(batch, query),
            _ => 0,
        };
        usize::try_from(first).unwrap_or(0).min(own)..own + 1
    }

    /// The keys from the first to the last that a query of a block of a stretch may see; they begin
    /// where a part of a factor of the keys of the stretch may.
    pub(super) fn keys_seen(&self, stretch: &Stretch, block: Block) -> Range<usize> {
        let seen = |i: usize| self.seen(block.batch, block.first + i);
        let end = seen(block.count - 1).end;
        match self.mask {
            Some(MaskRows::From(_)) => {
                let origin = stretch.keys.start;
                let first = (0..block.count).map(|i| seen(i).start).min().unwrap_or(origin);
                first - (first - origin) % Factor::COLUMNS..end
            }
            _ => 0..end,
        }
    }

    /// The keys that row `row` of a block may see, counted from the first that any row may.
    pub(super) fn visible(&self, block: Block, row: usize, keys: &Range<usize>) -> Range<usize> {
        let seen = self.seen(block.batch, block.first + row % block.count);
        seen.start - keys.start..seen.end - keys.start
    }

    /// All queries and keys, cut where no later query sees an earlier key.
    pub(super) fn stretches(&self) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        for batch in 0..self.batch {
            let mut rest = Stretch { batch, queries: 0..self.queries, keys: 0..self.keys };
            if let Some(MaskRows::From(_)) = self.mask {
                let mut earliest = self.keys;
                for query in (1..self.queries).rev() {
                    let seen = self.seen(batch, query);
                    earliest = earliest.min(seen.start);
                    if earliest + 1 == seen.end {
                        let queries = query..rest.queries.end;
                        stretches.push(Stretch { batch, queries, keys: earliest..rest.keys.end });
                        (rest.queries.end, rest.keys.end) = (query, earliest);
                    }
                }
            }
            stretches.push(rest);
        }
        stretches
    }

    /// Puts the queries of a block times the scale into `rows`, row by row.
    pub(super) fn scaled_queries(&self, block: Block, rows: &mut Vec<f32>) {
        rows.resize(self.rows(block) * self.dim, 0.0);
        isa::arch().dispatch(ScaledQueries { heads: self, block, rows });
    }

    /// Asks for the rows of a block, which are read soon: each lies far from the one before, where
    /// the processor does not look ahead.
    pub(super) fn prefetch<'m, E: Element>(
        &self,
        block: Block,
        positions_of: impl Fn(usize) -> Matrix<'m, E>,
    ) {
        for repeat in 0..self.repeats {
            let head = positions_of(self.head(block, repeat)).rows(block.first, block.count);
            if head.has_dense_rows() {
                (0..head.rows).for_each(|i| prefetch_far_row(head.dense_row(i)));
            }
        }
    }

    /// The queries of a head.
    pub(super) fn queries_of(&self, batch: usize, head: usize) -> Matrix<'a, T> {
        Matrix::of(&self.q, &[batch, head])
    }

    /// Masks the scores of a block, of rows of `width` keys.
    pub(super) fn mask(&self, block: Block, width: usize, scores: &mut [f32]) {
        match &self.mask {
            // As MLX: the mean of all values if a query sees none.
            Some(MaskRows::Seen(seen)) => {
                self.combine(block, width, scores, bytes(seen), |x, seen| {
                    if seen == 0 {
                        *x = f32::MIN;
                    }
                });
            }
            Some(MaskRows::Added(added)) => {
                let added = |index: [usize; 2]| Matrix::of(added, &index);
                self.combine(block, width, scores, added, |x, added| *x += added);
            }
            Some(MaskRows::From(_)) | None => {}
        }
    }

    /// Sets the derivatives with respect to the scores that a mask has replaced to zero.
    pub(super) fn mask_slopes(&self, block: Block, width: usize, slopes: &mut [f32]) {
        if let Some(MaskRows::Seen(seen)) = &self.mask {
            self.combine(block, width, slopes, bytes(seen), |x, seen| {
                if seen == 0 {
                    *x = 0.0;
                }
            });
        }
    }

    /// Combines the numbers of a block, of rows of `width` keys, with those of a mask.
    fn combine<'m, M: Element>(
        &self,
        block: Block,
        width: usize,
        numbers: &mut [f32],
        mask: impl Fn([usize; 2]) -> Matrix<'m, M>,
        combine: impl Fn(&mut f32, M),
    ) {
        for (row, numbers) in numbers.chunks_mut(width).enumerate() {
            let head = self.head(block, row / block.count);
            let mask = mask([block.batch, head]);
            let query = block.first + row % block.count;
            if mask.has_dense_rows() {
                numbers.iter_mut().zip(mask.dense_row(query)).for_each(|(x, &y)| combine(x, y));
            } else {
                numbers.iter_mut().zip(mask.row_to_vec(query)).for_each(|(x, y)| combine(x, y));
            }
        }
    }

    /// The number of head `repeat` of the group of a block.
    pub(super) fn head(&self, block: Block, repeat: usize) -> usize {
        block.group * self.repeats + repeat
    }
}

/// The queries of a block times the scale.
struct ScaledQueries<'a, 'b, T> {
    heads: &'a Heads<'b, T>,
    block: Block,
    rows: &'a mut [f32],
}

impl<T: Float> NullaryFnOnce for ScaledQueries<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { heads, block, rows } = self;
        for (repeat, rows) in rows.chunks_mut(block.count * heads.dim).enumerate() {
            let queries = heads.queries_of(block.batch, heads.head(block, repeat));
            for (i, row) in rows.chunks_exact_mut(heads.dim).enumerate() {
                queries.widen_row(block.first + i, row);
                for x in row {
                    *x *= heads.attention.scale;
                }
            }
        }
    }
}

/// The bytes of a mask at each index.
fn bytes<'a>(seen: &Strided<'a, bool>) -> impl Fn([usize; 2]) -> Matrix<'a, u8> {
    move |index| Matrix::of(seen, &index).bytes()
}
