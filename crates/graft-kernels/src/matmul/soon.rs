//! Memory that is needed after what is computed now: asked for line by line meanwhile.

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::ptr::without_provenance;

use super::matrix::Matrix;
use crate::floats::Float;

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// What is asked for in turn.
pub(super) type Soon = [Source; 3];

/// Memory in pieces of as many lines of the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Source {
    /// The address of the next line.
    line: usize,
    /// Lines that are left of this piece: none if nothing is left at all.
    lines: usize,
    /// Lines of every piece.
    whole: usize,
    /// Bytes from the end of a piece to the next one.
    gap: isize,
    /// Pieces that are left after this one.
    pieces: usize,
}

impl Source {
    /// The elements of a matrix, if those of its rows or of its columns are neighbours.
    pub(super) fn of<T: Float>(matrix: Matrix<'_, T>) -> Self {
        let matrix = if matrix.has_dense_rows() { matrix } else { matrix.transposed() };
        if matrix.rows == 0 || !matrix.has_dense_rows() {
            return Self::default();
        }
        let (data, row, _) = matrix.as_parts();
        let stride = row * size_of::<T>() as isize;
        let offset = data.addr() % LINE;
        // Unless all rows begin at the same place of a line, they may touch one more.
        let most = if stride % LINE as isize == 0 { offset } else { LINE - 1 };
        let lines = (most + matrix.columns * size_of::<T>()).div_ceil(LINE);
        Self {
            line: data.addr() - offset,
            lines,
            whole: lines,
            gap: stride - (lines * LINE) as isize,
            pieces: matrix.rows - 1,
        }
    }

    /// Bytes that follow each other, from the beginning of a line on.
    pub(super) fn bytes(first: usize, bytes: usize) -> Self {
        Self { line: first, lines: bytes.div_ceil(LINE), ..Self::default() }
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// The address of the next two lines, after which two others follow.
    fn next_two(&mut self) -> usize {
        let line = self.line;
        let lines = self.lines.min(2);
        self.line += lines * LINE;
        self.lines -= lines;
        if self.lines == 0 && self.pieces > 0 {
            self.pieces -= 1;
            self.lines = self.whole;
            self.line = self.line.wrapping_add_signed(self.gap);
        }
        line
    }
}

/// Brings two lines into the second-level cache.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn prefetch_two_lines(soon: &mut Soon) {
    if let Some(source) = soon.iter_mut().find(|source| !source.is_empty()) {
        let line = without_provenance::<i8>(source.next_two());
        _mm_prefetch::<_MM_HINT_T1>(line);
        _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(LINE));
    }
}

/// The places of the sums of a tile.
pub(super) struct Places {
    row: *const i8,
    /// Bytes from one row to the next.
    stride: usize,
    rows: usize,
    wait: usize,
}

impl Places {
    /// `rows` rows, `stride` elements apart, that are asked for after `wait` calls.
    pub(super) fn new<T>(first: *const T, stride: usize, rows: usize, wait: usize) -> Self {
        Self { row: first.cast(), stride: stride * size_of::<T>(), rows, wait }
    }

    /// Brings a row of `SIZE` bytes at most into the first-level cache.
    #[inline]
    #[target_feature(enable = "sse")]
    pub(super) fn prefetch_row<const SIZE: usize>(&mut self) {
        if self.wait > 0 {
            self.wait -= 1;
        } else if self.rows > 0 {
            for byte in (0..SIZE).step_by(LINE).chain([SIZE - 1]) {
                _mm_prefetch::<_MM_HINT_T0>(self.row.wrapping_add(byte));
            }
            self.row = self.row.wrapping_add(self.stride);
            self.rows -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a source, each once.
    fn lines(mut source: Source) -> Vec<usize> {
        let mut lines = Vec::new();
        while source.lines > 0 {
            let count = source.lines.min(2);
            let line = source.next_two();
            lines.extend((0..count).map(|i| (line / LINE + i) * LINE));
        }
        lines
    }

    #[test]
    fn every_element_of_a_matrix_is_in_a_line() {
        let numbers: Vec<f32> = vec![0.0; 5000];
        for (rows, columns, offset) in
            [(1, 1, 0), (3, 16, 0), (5, 40, 3), (7, 33, 13), (16, 300, 1)]
        {
            let matrix = Matrix::from_rows(&numbers[offset..], rows, columns);
            let parts = [
                matrix,
                matrix.rows(rows / 2, rows - rows / 2),
                matrix.columns(0, columns / 2 + 1),
            ];
            for part in parts {
                for source in [Source::of(part), Source::of(part.transposed())] {
                    let lines = lines(source);
                    let (start, row, column) = part.as_parts();
                    for i in 0..part.rows {
                        for j in 0..part.columns {
                            let at = i as isize * row + j as isize * column;
                            let address = start.wrapping_offset(at).addr();
                            assert!(lines.contains(&(address - address % LINE)), "{i} {j}");
                        }
                    }
                    assert!(lines.len() <= part.rows * (part.columns.div_ceil(16) + 1));
                }
            }
        }
    }
}
