//! How the panels of a product in blocks are cut into tasks: see `blocked`.

use std::ops::Range;

/// Cuts `all` panels into pieces for `threads`, of `most` or, so that all threads end together, the
/// fewer the fewer are left. Source: guided self-scheduling, Polychronopoulos and Kuck, 1987.
pub(super) fn cuts(all: usize, most: usize, threads: usize) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut first = 0;
    while first < all {
        let count = (all - first).div_ceil(threads).min(most);
        pieces.push(first..first + count);
        first += count;
    }
    pieces
}

/// The panels of rows and of columns of each task: all of `count` rows for each piece of the columns,
/// or fewer if there are fewer pieces than threads. The last single panels are cut once more, so that
/// threads end together.
pub(super) fn parts(
    count: usize,
    pieces: &[Range<usize>],
    threads: usize,
) -> Vec<(Range<usize>, Range<usize>)> {
    /// Panels of rows in a part at least, and parts of a panel of columns at most: each packs that
    /// panel again.
    const LEAST: usize = 8;
    const MOST: usize = 4;
    let single = pieces.iter().rev().take(threads).take_while(|piece| piece.len() == 1).count();
    let down = (count / LEAST).clamp(1, MOST);
    if threads == 1 || pieces.len() < threads || down == 1 {
        return grid(threads.div_ceil(pieces.len()).min(count), count, pieces);
    }
    let (whole, last) = pieces.split_at(pieces.len() - single);
    let mut parts = grid(1, count, whole);
    parts.extend(last.iter().flat_map(|piece| grid(down, count, std::slice::from_ref(piece))));
    parts
}

/// `down` parts of `count` rows, each with all `pieces` of the columns.
pub(super) fn grid(
    down: usize,
    count: usize,
    pieces: &[Range<usize>],
) -> Vec<(Range<usize>, Range<usize>)> {
    let rows = (0..down).map(|i| share(i, down, count));
    rows.flat_map(|rows| pieces.iter().map(move |piece| (rows.clone(), piece.clone()))).collect()
}

/// Part `i` of `of` parts of `all`.
pub(super) fn share(i: usize, of: usize, all: usize) -> Range<usize> {
    i * all / of..(i + 1) * all / of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pieces_are_the_smallest() {
        let sizes = |all, most, threads| {
            let pieces = cuts(all, most, threads);
            assert!(pieces.iter().cloned().flatten().eq(0..all));
            pieces.into_iter().map(|piece| piece.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(16, 4, 2), [4, 4, 4, 2, 1, 1]);
        assert_eq!(sizes(9, 4, 1), [4, 4, 1]);
        assert_eq!(sizes(3, 4, 8), [1, 1, 1]);
    }

    #[test]
    fn every_tile_is_in_one_part() {
        for (count, panels, threads) in
            [(74, 24, 2), (74, 3, 2), (5, 9, 2), (74, 64, 1), (9, 2, 16)]
        {
            let parts = parts(count, &cuts(panels, 6, threads), threads);
            let mut seen = vec![0; count * panels];
            for (rows, columns) in &parts {
                for i in rows.clone() {
                    columns.clone().for_each(|j| seen[i * panels + j] += 1);
                }
            }
            assert!(seen.iter().all(|&seen| seen == 1), "{count} {panels} {threads}: {parts:?}");
        }
        let sizes: Vec<_> = parts(74, &cuts(24, 6, 2), 2).iter().map(|part| part.0.len()).collect();
        assert_eq!(sizes, [74, 74, 74, 74, 74, 18, 19, 18, 19]);
    }
}
