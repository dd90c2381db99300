//! Work that is cut into tasks and shared among threads.

mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

pub(crate) use pool::{filled, threads};

/// Numbers of a matrix below which a second thread costs more than it saves, for one row.
const PARALLEL_FROM: usize = 1 << 17;

/// Tasks for each thread, so that one that is held up does not hold up the others.
pub(crate) const PER_THREAD: usize = 4;

/// The work of multiplying rows and a matrix of so many numbers: up to eight rows take the time of
/// reading it.
pub(crate) fn work_of_rows(rows: usize, numbers: usize) -> usize {
    numbers * rows.max(8) / 8
}

/// How products with matrices are cut into tasks.
pub(crate) struct Cut {
    work: usize,
    tasks: usize,
}

impl Cut {
    /// Tasks for so much work together.
    pub(crate) fn new(work: usize) -> Self {
        let parallel = work >= PARALLEL_FROM;
        let tasks = if parallel { PER_THREAD * threads() } else { 1 };
        Self { work: work.max(1), tasks }
    }

    /// Whether they are for several threads.
    pub(crate) fn is_parallel(&self) -> bool {
        self.tasks > 1
    }

    /// The columns of a task, a multiple of `unit`, of a product of this work.
    pub(crate) fn width(&self, work: usize, columns: usize, unit: usize) -> usize {
        let pieces = (self.tasks * work).div_ceil(self.work).max(1);
        columns.div_ceil(pieces).next_multiple_of(unit)
    }
}

/// Runs tasks `0..count`, on several threads if `parallel`. Each thread has a state of its own.
pub(crate) fn for_each<S: Default>(
    count: usize,
    parallel: bool,
    task: impl Fn(usize, &mut S) + Sync,
) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut state = S::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            task(index, &mut state);
        }
    };
    pool::share(if parallel { count.saturating_sub(1) } else { 0 }, &work);
}

/// Runs a task for each item, as [`for_each`] does.
pub(crate) fn for_each_item<T: Send, S: Default>(
    items: impl ExactSizeIterator<Item = T> + Send,
    parallel: bool,
    task: impl Fn(usize, T, &mut S) + Sync,
) {
    let count = items.len();
    let items = Mutex::new(items.enumerate());
    for_each(count, parallel, |_, state: &mut S| {
        let next = items.lock().unwrap_or_else(PoisonError::into_inner).next();
        if let Some((i, item)) = next {
            task(i, item, state);
        }
    });
}

/// Runs a task for each chunk of `data`, as [`for_each`] does.
pub(crate) fn for_each_chunk<T: Send>(
    data: &mut [T],
    size: usize,
    parallel: bool,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    for_each_item(data.chunks_mut(size), parallel, |i, chunk, (): &mut ()| task(i, chunk));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn products_are_cut_by_their_work() {
        let cut = Cut::new(100);
        assert!(!cut.is_parallel());
        assert_eq!(cut.width(100, 70, 32), 96);
        let cut = Cut { work: 1 << 20, tasks: 8 };
        assert!(cut.is_parallel());
        assert_eq!(cut.width(1 << 20, 1024, 32), 128);
        assert_eq!(cut.width(1 << 19, 1024, 32), 256);
        assert_eq!(cut.width(1, 1024, 32), 1024);
    }

    #[test]
    fn every_task_runs_once() {
        for count in [0, 1, 2, 3, 1000] {
            for parallel in [false, true] {
                let runs: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                for_each(count, parallel, |i, seen: &mut usize| {
                    *seen += 1;
                    assert!(*seen <= count);
                    runs[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn every_chunk_is_filled_once() {
        for parallel in [false, true] {
            for size in [0, 1, 10, 1003] {
                let data = filled(size, 10, 7, parallel, |i, chunk| {
                    assert!(chunk.iter().all(|&x| x == 7));
                    chunk.fill(i);
                });
                assert_eq!(data, (0..size).map(|i| i / 10).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn every_chunk_is_written_once() {
        for parallel in [false, true] {
            let mut data = vec![0; 1003];
            for_each_chunk(&mut data, 10, parallel, |i, chunk| {
                assert_eq!(chunk.len(), if i == 100 { 3 } else { 10 });
                for x in chunk {
                    *x += i + 1;
                }
            });
            assert!(data.iter().enumerate().all(|(i, &x)| x == i / 10 + 1));
        }
    }
}
