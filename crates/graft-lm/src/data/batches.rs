//! Batches of rows, in the order and with the padding of mlx-lm.

use serde::{Deserialize, Serialize};

use super::rng::{BatchRng, RngPosition};
use super::rows::{Dataset, Row};
use crate::{Error, Result};

/// Rows of equal width, ready to become arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The ids, row by row, zero after a row's end.
    pub tokens: Vec<i32>,
    /// The width of a row.
    pub width: usize,
    /// Of each row: the ids at its start that the loss leaves out, and all its ids.
    pub lengths: Vec<(i32, i32)>,
    /// What the user should know: that rows were cut.
    pub warning: Option<String>,
}

impl Batch {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }
}

/// Which widths batches have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Widths {
    /// One more than the next multiple of 32, as in mlx-lm.
    Upstream,
    /// The same up to 1 + 256. Beyond, there are four widths an octave, so that a compiled step is
    /// traced for few: at most 20 up to 2048. The loss doesn't change, as it leaves out what is
    /// behind a row's end, unless a model's angles depend on the width.
    Few,
}

impl Widths {
    /// The width of a batch whose longest row has `longest` ids, at most `max_seq_length`.
    pub fn width(self, longest: usize, max_seq_length: usize) -> usize {
        let upstream = longest.next_multiple_of(32);
        let step = match upstream.saturating_sub(1).checked_ilog2() {
            Some(octave) if self == Self::Few && upstream > 256 => 1 << (octave - 2),
            _ => 32,
        };
        (1 + upstream.next_multiple_of(step)).min(max_seq_length)
    }
}

/// An iteration over the batches of a dataset, which may repeat for ever.
///
/// Source: `iterate_batches` of mlx-lm's `tuner/trainer.py`. The rows are grouped once; each epoch
/// goes through the groups in a new random order, drawn when its first batch is asked for, as a
/// Python generator does.
#[derive(Debug, Clone)]
pub struct Batches {
    groups: Vec<Vec<usize>>,
    max_seq_length: usize,
    widths: Widths,
    repeat: bool,
    /// The groups in the order of this epoch; empty before the first.
    order: Vec<usize>,
    position: BatchPosition,
}

/// Where an iteration over [`Batches`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchPosition {
    /// How many batches an epoch has.
    pub per_epoch: usize,
    /// Where the generator stood when the order of this epoch was drawn; `None` before the first.
    pub epoch: Option<RngPosition>,
    /// How many batches of this epoch have been given.
    pub given: usize,
}

impl Batches {
    /// The batches of `batch_size` rows each; rows that don't fill one are left out.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are fewer rows than `batch_size`, naming their source.
    pub fn new(
        dataset: &Dataset,
        batch_size: usize,
        max_seq_length: usize,
        repeat: bool,
    ) -> Result<Self> {
        if batch_size == 0 || dataset.len() < batch_size {
            return Err(Error::Usage(format!(
                "{}: found {} rows, wanted at least batch_size = {batch_size}; add rows or make \
                 the batch smaller",
                dataset.source().display(),
                dataset.len()
            )));
        }
        let groups = groups(dataset, batch_size, |row| row.sort_key);
        let position = BatchPosition { per_epoch: groups.len(), epoch: None, given: 0 };
        let (widths, order) = (Widths::Few, Vec::new());
        Ok(Self { groups, max_seq_length, widths, repeat, order, position })
    }

    /// Has the batches other widths than [`Widths::Few`].
    #[must_use]
    pub fn with_widths(mut self, widths: Widths) -> Self {
        self.widths = widths;
        self
    }

    /// Groups rows of similar lengths instead, so that fewer positions are padding. They are other
    /// batches than mlx-lm's.
    #[must_use]
    pub fn by_length(mut self, dataset: &Dataset) -> Self {
        let batch_size = self.groups[0].len();
        self.groups = groups(dataset, batch_size, |row| row.tokens.len());
        self
    }

    /// Fails if a batch has no target, whose loss would be zero divided by zero: mlx-lm trains on
    /// it, and all its weights become NaN.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first row of the first such batch.
    pub fn check_targets(&self, dataset: &Dataset) -> Result<()> {
        let longest = self.max_seq_length;
        let has_target = |row: &Row, width: usize| {
            row.tokens.len().min(longest).min(width - 1) >= row.offset.max(1)
        };
        for group in &self.groups {
            let rows = || group.iter().map(|index| &dataset.rows()[*index]);
            let ids = rows().map(|row| row.tokens.len()).max().unwrap_or(0);
            let width = self.widths.width(ids, longest);
            if rows().any(|row| has_target(row, width)) {
                continue;
            }
            let (index, row) = (group[0], &dataset.rows()[group[0]]);
            let others = match group.len() {
                1 => "",
                _ => ", nor in the other rows of its batch",
            };
            return Err(Error::Invalid {
                path: dataset.source().to_path_buf(),
                line: Some(index + 1),
                message: format!(
                    "no token is left to learn{others}: the row has {} tokens, of which the first \
                     {} are prompt, and max_seq_length is {longest}. Raise --max-seq-length, \
                     shorten the prompt or leave out the row",
                    row.tokens.len(),
                    row.offset
                ),
            });
        }
        Ok(())
    }

    /// How many batches an epoch has.
    pub fn per_epoch(&self) -> usize {
        self.groups.len()
    }

    /// Where the iteration stands.
    pub fn position(&self) -> BatchPosition {
        self.position
    }

    /// Goes on at a position of an iteration over the same rows.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the data set, if its epochs have another number of batches.
    pub fn go_to(&mut self, position: BatchPosition, dataset: &Dataset) -> Result<()> {
        let drawn = if position.epoch.is_some() { self.groups.len() } else { 0 };
        if position.per_epoch != self.groups.len() || position.given > drawn {
            return Err(Error::Usage(format!(
                "{}: found {} batches in an epoch, and the training that is to go on was at batch \
                 {} of {}; give it the same data",
                dataset.source().display(),
                self.groups.len(),
                position.given,
                position.per_epoch
            )));
        }
        self.order = match position.epoch {
            Some(epoch) => BatchRng::at(epoch).permutation(self.groups.len()),
            None => Vec::new(),
        };
        self.position = position;
        Ok(())
    }

    /// The next batch; `None` at the end of an epoch, unless repeating.
    pub fn next(&mut self, dataset: &Dataset, rng: &mut BatchRng) -> Option<Batch> {
        if self.position.given == self.order.len() {
            if !self.repeat && !self.order.is_empty() {
                return None;
            }
            self.position.epoch = Some(rng.position());
            self.position.given = 0;
            self.order = rng.permutation(self.groups.len());
        }
        let group = &self.groups[self.order[self.position.given]];
        self.position.given += 1;
        Some(assemble(dataset, group, self.max_seq_length, self.widths))
    }
}

/// Rows in groups of `size`, ordered by `key`; those that don't fill one are left out.
fn groups<K: Ord>(dataset: &Dataset, size: usize, key: impl Fn(&Row) -> K) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..dataset.len()).collect();
    order.sort_by_key(|index| key(&dataset.rows()[*index]));
    order.chunks_exact(size).map(<[usize]>::to_vec).collect()
}

fn assemble(dataset: &Dataset, group: &[usize], max_seq_length: usize, widths: Widths) -> Batch {
    let rows: Vec<_> = group.iter().map(|index| &dataset.rows()[*index]).collect();
    let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let warning = (longest > max_seq_length).then(|| {
        format!(
            "Some sequences are longer than {max_seq_length} tokens. The longest sentence \
             {longest} will be truncated to {max_seq_length}. Consider pre-splitting your data \
             to save memory."
        )
    });
    let width = widths.width(longest, max_seq_length);
    let mut tokens = vec![0; width * rows.len()];
    let mut lengths = Vec::with_capacity(rows.len());
    for (row, padded) in rows.iter().zip(tokens.chunks_exact_mut(width)) {
        let length = row.tokens.len().min(max_seq_length);
        padded[..length].copy_from_slice(&row.tokens[..length]);
        lengths.push((row.offset as i32, length as i32));
    }
    Batch { tokens, width, lengths, warning }
}
