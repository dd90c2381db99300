//! The second factor of several products of `float32`, each on one thread.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::avx2::{self, Avx2};
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
#[cfg(target_arch = "x86_64")]
use super::blocked::Kernel;
use super::float32;
use super::matrix::Matrix;
#[cfg(target_arch = "x86_64")]
use super::panels::{self, Panels};
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;

/// A matrix that others are multiplied with.
pub(crate) struct Factor<'a> {
    matrix: Matrix<'a, f32>,
    #[cfg(target_arch = "x86_64")]
    packed: Packed<'a>,
}

/// Memory that a factor is packed into, to be used by one after another.
#[derive(Default)]
pub(crate) struct Memory {
    #[cfg(target_arch = "x86_64")]
    avx2: Vec<<Avx2 as Kernel<f32>>::B>,
    #[cfg(target_arch = "x86_64")]
    avx512: Vec<<Avx512 as Kernel<f32>>::B>,
}

/// The matrix as this processor's kernel reads it.
#[cfg(target_arch = "x86_64")]
enum Packed<'a> {
    No,
    Avx2(Panels<'a, Avx2>),
    Avx512(Panels<'a, Avx512>),
}

#[cfg(target_arch = "x86_64")]
impl<'a> Packed<'a> {
    fn new(matrix: Matrix<'_, f32>, memory: &'a mut Memory) -> Self {
        if !avx2::is_usable() {
            Self::No
        } else if Isa::Avx512.is_usable() {
            Self::Avx512(Panels::new(matrix, &mut memory.avx512))
        } else {
            Self::Avx2(Panels::new(matrix, &mut memory.avx2))
        }
    }
}

impl<'a> Factor<'a> {
    /// The first column of a part is a multiple of this.
    pub(crate) const COLUMNS: usize = 32;

    /// Packs the matrix, where that is worth it.
    pub(crate) fn new(matrix: Matrix<'a, f32>, memory: &'a mut Memory) -> Self {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = memory;
        Self {
            matrix,
            #[cfg(target_arch = "x86_64")]
            packed: Packed::new(matrix, memory),
        }
    }

    /// The best distance of rows of so many numbers in a product that is read by columns, too.
    pub(crate) fn stride(columns: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if avx2::is_usable() {
            return panels::stride(columns);
        }
        columns
    }

    /// Puts `a` times some rows and columns into `out`, in the place of what it held: in rows of
    /// `stride` numbers, which is that of [`Self::stride`] or the number of columns. What follows the
    /// columns in a row may be any number.
    ///
    /// # Panics
    /// If there are no such rows and columns, or `a` has not as many columns as there are rows.
    pub(crate) fn product_into(
        &self,
        out: &mut Vec<f32>,
        a: Matrix<'_, f32>,
        (rows, columns): (Range<usize>, Range<usize>),
        stride: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        match &self.packed {
            Packed::Avx2(panels) => {
                return panels.product_into(out, a, (rows, columns), stride);
            }
            Packed::Avx512(panels) => {
                return panels.product_into(out, a, (rows, columns), stride);
            }
            Packed::No => {}
        }
        assert_eq!(stride, columns.len());
        let part = self.matrix.rows(rows.start, rows.len());
        float32::product_into(out, a, part.columns(columns.start, columns.len()), false);
    }

    /// Adds `a` times the factor to `out`, row by row.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub(crate) fn add_product(&self, out: &mut [f32], a: Matrix<'_, f32>) {
        #[cfg(target_arch = "x86_64")]
        match &self.packed {
            Packed::Avx2(panels) => return panels.add_product(out, a),
            Packed::Avx512(panels) => return panels.add_product(out, a),
            Packed::No => {}
        }
        float32::add_product(out, a, self.matrix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Products of parts, of operands that lie in memory in all kinds of ways, against sums of `f64`.
    #[test]
    fn parts_are_multiplied() {
        let mut memory = Memory::default();
        let number = |i: usize| ((i * 7919) % 1009) as f32 / 504.5 - 1.0;
        let sizes = [(1, 1, 1), (6, 16, 16), (7, 33, 50), (64, 64, 256), (13, 70, 17)];
        for (m, k, n) in sizes.into_iter().chain((2..=32).map(|m| (m, 19, 40))) {
            let a: Vec<_> = (0..m * k).map(number).collect();
            let b: Vec<_> = (0..k * n).map(|i| number(i + 77)).collect();
            let lying = [Matrix::from_rows(&a, m, k), Matrix::from_rows(&a, k, m).transposed()];
            let factors = [Matrix::from_rows(&b, k, n), Matrix::from_rows(&b, n, k).transposed()];
            for (a, matrix) in lying.into_iter().flat_map(|a| factors.map(|b| (a, b))) {
                let factor = Factor::new(matrix, &mut memory);
                let first = n / 2 / Factor::COLUMNS * Factor::COLUMNS;
                for (rows, columns) in [(0..k, 0..n), (k / 3..k, first..n), (0..1, 0..n / 3 + 1)] {
                    let a = a.columns(rows.start, rows.len());
                    let part = matrix.rows(rows.start, rows.len());
                    let part = part.columns(columns.start, columns.len());
                    for stride in [part.columns, Factor::stride(part.columns)] {
                        let mut found = vec![f32::NAN; 3];
                        let part_of = (rows.clone(), columns.clone());
                        factor.product_into(&mut found, a, part_of, stride);
                        let found = Matrix::from_rows(&found, m, stride);
                        check(found.columns(0, part.columns), a, part, 0.0);
                    }
                }
                let mut found = vec![1.0; m * n];
                factor.add_product(&mut found, a);
                check(Matrix::from_rows(&found, m, n), a, matrix, 1.0);
            }
        }
    }

    /// Compares a product to which `added` was added.
    fn check(found: Matrix<'_, f32>, a: Matrix<'_, f32>, b: Matrix<'_, f32>, added: f64) {
        assert_eq!((found.rows, found.columns), (a.rows, b.columns));
        for (i, j) in (0..a.rows).flat_map(|i| (0..b.columns).map(move |j| (i, j))) {
            let terms = (0..b.rows).map(|t| f64::from(a.get(i, t)) * f64::from(b.get(t, j)));
            let (sum, size) =
                terms.fold((added, added), |(sum, size), term| (sum + term, size + term.abs()));
            let (bound, found) = ((b.rows + 1) as f64 * 6e-8 * size, found.get(i, j));
            assert!((f64::from(found) - sum).abs() <= bound, "({i}, {j}): {found} for {sum}");
        }
    }
}
