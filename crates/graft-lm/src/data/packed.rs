//! The rows of a batch one behind the other, so that none is padded to the length of another.

use super::batches::Batch;

/// The rows of a batch in one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// The ids, row after row, each with the one that follows its end, and zeros behind the last.
    pub tokens: Vec<i32>,
    /// Of each row: where it begins, and of its targets, counted from one, the first and the last
    /// that count.
    pub spans: Vec<[i32; 3]>,
}

impl Batch {
    /// The rows one behind the other, if that leaves fewer positions.
    pub fn packed(&self) -> Option<PackedBatch> {
        let (mut tokens, mut spans) = (Vec::new(), Vec::new());
        for (row, &(from, length)) in self.tokens.chunks_exact(self.width).zip(&self.lengths) {
            let length = usize::try_from(length).unwrap_or(0);
            // As mlx-lm, a row that is padded learns the first zero behind its end.
            let last = length.min(self.width - 1);
            spans.push([tokens.len() as i32, from, last as i32]);
            tokens.extend_from_slice(&row[..=last]);
        }
        let width = packed_width(tokens.len());
        // The last token of a row is a target only.
        let positions = self.rows() * (self.width - 1);
        tokens.resize(width, 0);
        (width <= positions).then_some(PackedBatch { tokens, spans })
    }
}

/// The width of a packed batch of `count` tokens: one more than a multiple of 32, of which there are
/// 16 an octave beyond 512, so that a compiled step is traced for few.
fn packed_width(count: usize) -> usize {
    let step = match count.saturating_sub(1).checked_ilog2() {
        Some(octave) if octave > 9 => 1 << (octave - 4),
        _ => 32,
    };
    1 + count.saturating_sub(1).next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(width: usize, rows: &[(&[i32], i32)]) -> Batch {
        let mut tokens = Vec::new();
        let mut lengths = Vec::new();
        for (row, from) in rows {
            tokens.extend_from_slice(row);
            tokens.resize(tokens.len().next_multiple_of(width), 0);
            lengths.push((*from, row.len() as i32));
        }
        Batch { tokens, width, lengths, warning: None }
    }

    #[test]
    fn rows_lie_one_behind_the_other() {
        let full: Vec<i32> = (1..=33).collect();
        let found = batch(33, &[(&[5, 6, 7], 2), (&full, 0), (&[8], 0)]).packed();
        let mut tokens = vec![5, 6, 7, 0];
        tokens.extend(&full);
        tokens.extend([8, 0]);
        tokens.resize(65, 0);
        // The full row has no token behind its last one, which is a target only.
        let spans = vec![[0, 2, 3], [4, 0, 32], [37, 0, 1]];
        assert_eq!(found, Some(PackedBatch { tokens, spans }));
    }

    #[test]
    fn full_rows_stay_side_by_side() {
        let full: Vec<i32> = (1..=33).collect();
        assert_eq!(batch(33, &[(&full, 0), (&full, 0)]).packed(), None);
        assert_eq!(batch(33, &[(&full, 0)]).packed(), None);
    }

    #[test]
    fn widths_are_few_and_hold_all() {
        let mut widths: Vec<usize> = (1..=8192).map(packed_width).collect();
        for (count, &width) in (1..).zip(&widths) {
            assert!(width >= count && width < count + 32 + count / 16, "{width} for {count}");
        }
        widths.dedup();
        assert!(widths.len() <= 17 + 4 * 16, "{}", widths.len());
    }
}
