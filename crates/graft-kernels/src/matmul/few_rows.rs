//! How products of few rows are cut into tasks. The memory sets their pace, and each column is read
//! once.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use super::matrix::Matrix;
use super::problem::{Each, Output};
use crate::floats::Float;
use crate::tasks;

/// Columns of a task: a multiple of this, if there are so many.
const UNIT: usize = 16;

/// Columns of a task at most.
const MOST: usize = 128;

/// Some columns of a product.
pub(super) struct Part<'a, T> {
    /// The columns, as rows.
    pub(super) columns: Matrix<'a, T>,
    out: Output<T>,
    stride: usize,
}

impl<T: Float> Part<'_, T> {
    /// Writes the product of row `i` and column `j`, rounded.
    ///
    /// # Safety
    /// There are such a row and such a column, and nobody else uses the place.
    pub(super) unsafe fn write(&self, i: usize, j: usize, product: f32) {
        let place = self.out.at(i * self.stride + j);
        // SAFETY: the caller says so.
        unsafe { place.write(MaybeUninit::new(T::round(product))) };
    }
}

/// The tasks of products of `rows` rows and matrices with dense columns. The fewer columns are left,
/// the fewer a task has, so that all threads end together. Source: guided self-scheduling,
/// Polychronopoulos and Kuck, 1987.
///
/// # Panics
/// If an output has another size.
pub(super) fn parts<'a, T: Float>(
    rows: usize,
    products: &mut [Each<'a, '_, T>],
) -> Vec<Part<'a, T>> {
    let mut left: usize = products.iter().map(|(b, _)| b.columns).sum();
    let mut parts = Vec::new();
    for (b, out) in products {
        let (n, mut first) = (b.columns, 0);
        assert_eq!(out.len(), rows * n);
        let out = Output(out.as_mut_ptr());
        while first < n {
            let count = left.div_ceil(2 * tasks::threads()).next_multiple_of(UNIT);
            let count = count.min(MOST).min(n - first);
            let columns = b.transposed().rows(first, count);
            parts.push(Part { columns, out: Output(out.at(first)), stride: n });
            first += count;
            left -= count;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_in_one_task_and_the_last_are_short() {
        let numbers = vec![0.0_f32; 3 * 1000];
        for sizes in [&[1000][..], &[1, 17, 300], &[128, 128], &[0, 5]] {
            let mut outs: Vec<_> =
                sizes.iter().map(|&n| vec![MaybeUninit::new(0.0); 2 * n]).collect();
            let mut products: Vec<_> = sizes
                .iter()
                .zip(&mut outs)
                .map(|(&n, out)| (Matrix::from_rows(&numbers, n, 3).transposed(), &mut out[..]))
                .collect();
            let parts = parts(2, &mut products);
            let columns: usize = parts.iter().map(|part| part.columns.rows).sum();
            assert_eq!(columns, sizes.iter().sum::<usize>());
            for part in &parts {
                for j in 0..part.columns.rows {
                    // SAFETY: these places are those of the two rows.
                    unsafe { (0..2).for_each(|i| part.write(i, j, 1.0)) };
                }
            }
            let last = parts.last().expect("there are columns").columns.rows;
            assert!(
                parts.iter().all(|part| (1..=MOST).contains(&part.columns.rows)) && last <= UNIT
            );
            // SAFETY: all elements were initialised when the vectors were made.
            let read = |x: &MaybeUninit<f32>| unsafe { x.assume_init() }.to_bits();
            assert!(outs.iter().flatten().all(|x| read(x) == 1.0_f32.to_bits()));
        }
    }
}
