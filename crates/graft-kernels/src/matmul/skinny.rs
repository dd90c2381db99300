//! Products with a tall and skinny matrix, as those with adapters of low rank: the other operand is
//! read once, where it lies, as memory sets the pace.
// What is not inlined into what is dispatched is not compiled for the wide registers.
#![allow(clippy::inline_always)]

use std::array::from_fn;
use std::mem::MaybeUninit;

use pulp::{Simd, WithSimd};

use super::avx2::{self, Avx2};
use super::avx512::Avx512;
use super::blocked::Kernel;
use super::matrix::Matrix;
use super::panels::{Panels, RowKernel};
use crate::floats::Float;
use crate::isa::{self, Isa};
use crate::prefetch::prefetch_far_row;
use crate::tasks;

/// Columns of a skinny matrix at most.
const MOST: usize = 32;

/// Its rows at least, and the rows of the other operand if they are read along.
const LEAST: usize = 64;

/// Columns of the other operand at least if its rows are added.
const LEAST_COLUMNS: usize = 256;

/// Rows of the output up to which other kernels are as fast.
const FEW_ROWS: usize = 4;

/// Columns of a skinny matrix whose numbers lie together.
const TOGETHER: usize = 8;

/// Rows that are added at a time, while the sums stay in registers.
const TERMS: usize = 8;

/// Registers of a row that are added at once.
const REGISTERS: usize = 3;

/// Columns of a task are a multiple of this: whole registers, and lines of the cache. Shorter pieces of
/// rows would be read slowly.
const UNIT: usize = 128;

/// Writes `a × b` to `out`, all of it, and returns true, if `b` is tall and skinny, the rows of `a` are
/// dense, and there is a kernel that reads them where they lie: several of them along at a time.
pub(super) fn multiply_along<T: Float + Send + Sync>(
    a: Matrix<'_, T>,
    b: Matrix<'_, f32>,
    out: &mut [MaybeUninit<f32>],
    parallel: bool,
) -> bool {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(k == b.rows && out.len() == m * n);
    if n < 2 || m.min(k) < LEAST || !a.has_dense_rows() {
        return false;
    }
    if n <= MOST && Isa::Avx512.is_usable() {
        along::<Avx512, T>(a, b, out, parallel);
    } else if n <= TOGETHER && avx2::is_usable() {
        along::<Avx2, T>(a, b, out, parallel);
    } else {
        return false;
    }
    true
}

fn along<K: RowKernel, T: Float + Send + Sync>(
    a: Matrix<'_, T>,
    b: Matrix<'_, f32>,
    out: &mut [MaybeUninit<f32>],
    parallel: bool,
) {
    let (m, n) = (a.rows, b.columns);
    let mut memory = Vec::new();
    let panels = Panels::<K>::new(b, &mut memory);
    let [lines, _] = <K as Kernel<f32>>::LINES;
    let rows = m.div_ceil(tasks::PER_THREAD * tasks::threads()).next_multiple_of(lines);
    tasks::for_each_item(out.chunks_mut(rows * n), parallel, |task, out, wide: &mut Vec<f32>| {
        // A few at a time, so that the next columns find them in the cache.
        for (i, out) in out.chunks_mut(lines * n).enumerate() {
            let a = a.rows(task * rows + i * lines, out.len() / n);
            panels.write_product(out, T::wide(a, wide));
        }
    });
}

/// Writes `a × b` to `out`, all of it, and returns true, if `b` is tall and skinny and the columns of
/// `a` are dense, or `a` is short and wide and the rows of `b` are dense, and this is the fastest way:
/// to add rows to sums, each times some factors.
pub(super) fn multiply_across<A, B, T>(
    a: Matrix<'_, A>,
    b: Matrix<'_, B>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) -> bool
where
    A: Float + Send + Sync,
    B: Float + Send + Sync,
    T: Float + Send + Sync,
{
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(k == b.rows && out.len() == m * n);
    // Numbers of 16 bits are converted once more where others convert them as they pack.
    let most = if T::IS_FLOAT32 { MOST } else { MOST / 2 };
    let few_rows = FEW_ROWS + 1..=if T::IS_FLOAT32 || !Isa::Avx512.is_usable() { most } else { 0 };
    if k < LEAST || !avx2::is_usable() {
        return false;
    }
    // One task for each thread: rows are read in long pieces.
    let width = |columns: usize| columns.div_ceil(tasks::threads()).next_multiple_of(UNIT);
    if (2..=most).contains(&n) && m >= LEAST_COLUMNS && a.transposed().has_dense_rows() {
        let outputs = out.chunks_mut(width(m) * n);
        across(b, a.transposed(), width(m), outputs, parallel, |out, sums, columns| {
            for (j, out) in out.chunks_exact_mut(n).enumerate() {
                for (out, sums) in out.iter_mut().zip(sums.chunks_exact(columns)) {
                    out.write(T::round(sums[j]));
                }
            }
        });
    } else if few_rows.contains(&m) && n >= LEAST_COLUMNS && b.has_dense_rows() {
        let mut outputs: Vec<Vec<_>> = (0..n.div_ceil(width(n))).map(|_| Vec::new()).collect();
        for row in out.chunks_exact_mut(n) {
            for (output, piece) in outputs.iter_mut().zip(row.chunks_mut(width(n))) {
                output.push(piece);
            }
        }
        let outputs = outputs.into_iter();
        across(a.transposed(), b, width(n), outputs, parallel, |out, sums, columns| {
            for (out, sums) in out.into_iter().zip(sums.chunks_exact(columns)) {
                for (out, &sum) in out.iter_mut().zip(sums) {
                    out.write(T::round(sum));
                }
            }
        });
    } else {
        return false;
    }
    true
}

/// Computes `skinnyᵀ × b`, where the rows of `b` are dense, by tasks of `width` columns of `b`. Each
/// calls `write` with its output, its sums, row by row, and their columns.
fn across<S: Float + Send + Sync, T: Float + Send + Sync, O: Send>(
    skinny: Matrix<'_, S>,
    b: Matrix<'_, T>,
    width: usize,
    outputs: impl ExactSizeIterator<Item = O> + Send,
    parallel: bool,
    write: impl Fn(O, &[f32], usize) + Sync,
) {
    let padded = skinny.columns.next_multiple_of(TOGETHER);
    let factors = packed(skinny, padded);
    tasks::for_each_item(outputs, parallel, |task, output, (): &mut ()| {
        let b = b.columns(task * width, width.min(b.columns - task * width));
        let mut sums = vec![0.0; padded * b.columns];
        isa::arch().dispatch(Across { factors: &factors, b, sums: &mut sums });
        write(output, &sums, b.columns);
    });
}

/// The numbers of a skinny matrix, some columns after others: of each row those that lie together.
/// Columns up to `padded`, so many times [`TOGETHER`], are zeros.
fn packed<T: Float>(matrix: Matrix<'_, T>, padded: usize) -> Vec<f32> {
    let k = matrix.rows;
    let mut packed = vec![0.0; padded * k];
    if matrix.has_dense_rows() {
        let mut scratch = vec![0.0; matrix.columns];
        for t in 0..k {
            let row = matrix.wide_row(t, &mut scratch);
            for (block, part) in packed.chunks_exact_mut(TOGETHER * k).zip(row.chunks(TOGETHER)) {
                block[TOGETHER * t..][..part.len()].copy_from_slice(part);
            }
        }
    } else {
        let (columns, mut scratch) = (matrix.transposed(), vec![0.0; k]);
        for i in 0..columns.rows {
            let block = &mut packed[i / TOGETHER * TOGETHER * k..][..TOGETHER * k];
            let column = columns.wide_row(i, &mut scratch);
            for (row, &x) in block.chunks_exact_mut(TOGETHER).zip(column) {
                row[i % TOGETHER] = x;
            }
        }
    }
    packed
}

/// Adds rows times factors to sums.
struct Across<'a, T> {
    factors: &'a [f32],
    b: Matrix<'a, T>,
    sums: &'a mut [f32],
}

impl<T: Float> WithSimd for Across<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { factors, b, sums } = self;
        let (k, n) = (b.rows, b.columns);
        let mut scratch = vec![0.0; if T::IS_FLOAT32 { 0 } else { TERMS * n }];
        for start in (0..k).step_by(TERMS) {
            let count = TERMS.min(k - start);
            // Rows that are not there are the last one once more, and are not added.
            let mut parts = scratch.chunks_mut(n);
            let rows: [&[f32]; TERMS] =
                from_fn(|i| b.wide_row(start + i.min(count - 1), parts.next().unwrap_or_default()));
            // Those that come next are asked for once.
            let following: [&[T]; TERMS] = from_fn(|i| b.dense_row((start + TERMS + i).min(k - 1)));
            let mut next = &following[..];
            let blocks =
                factors.chunks_exact(TOGETHER * k).zip(sums.chunks_exact_mut(TOGETHER * n));
            for (factors, sums) in blocks {
                let factors = &factors[TOGETHER * start..][..TOGETHER * count];
                add(simd, factors, &rows[..count], sums, next);
                next = &[];
            }
        }
    }
}

/// Adds rows, each times the factors that lie together, to as many sums.
#[inline(always)]
fn add<S: Simd, T>(simd: S, factors: &[f32], rows: &[&[f32]], sums: &mut [f32], next: &[&[T]]) {
    const HALF: usize = TOGETHER / 2;
    let n = rows[0].len();
    let mut first = 0;
    while first + S::F32_LANES <= n {
        let is_whole = first + REGISTERS * S::F32_LANES <= n;
        let width = if is_whole { REGISTERS * S::F32_LANES } else { S::F32_LANES };
        for row in next {
            prefetch_far_row(&row[first..first + width]);
        }
        if !is_whole {
            add_some::<S, TOGETHER, 1>(simd, factors, rows, first, sums);
        } else if S::REGISTER_COUNT >= 32 {
            add_some::<S, TOGETHER, REGISTERS>(simd, factors, rows, first, sums);
        } else {
            let (upper, lower) = sums.split_at_mut(HALF * n);
            add_some::<S, HALF, REGISTERS>(simd, factors, rows, first, upper);
            add_some::<S, HALF, REGISTERS>(simd, &factors[HALF..], rows, first, lower);
        }
        first += width;
    }
    for (factors, row) in factors.chunks_exact(TOGETHER).zip(rows) {
        for (sums, factor) in sums.chunks_exact_mut(n).zip(factors) {
            for (sum, x) in sums[first..].iter_mut().zip(&row[first..]) {
                *sum += factor * x;
            }
        }
    }
}

/// Adds `N` registers of each row from number `first` on, times `R` factors. In loops of known length,
/// so that the sums stay in registers: to copy them as slices would take twice as long.
#[inline(always)]
#[allow(clippy::needless_range_loop, clippy::manual_memcpy)]
fn add_some<S: Simd, const R: usize, const N: usize>(
    simd: S,
    factors: &[f32],
    rows: &[&[f32]],
    first: usize,
    sums: &mut [f32],
) {
    let n = rows[0].len();
    let columns = first..first + N * S::F32_LANES;
    let of_row = |r: usize| r * n + columns.start..r * n + columns.end;
    let mut totals = [[simd.splat_f32s(0.0); N]; R];
    for r in 0..R {
        let registers = S::as_simd_f32s(&sums[of_row(r)]).0;
        for i in 0..N {
            totals[r][i] = registers[i];
        }
    }
    for (t, row) in rows.iter().enumerate() {
        let registers = S::as_simd_f32s(&row[columns.clone()]).0;
        let mut x = [simd.splat_f32s(0.0); N];
        for i in 0..N {
            x[i] = registers[i];
        }
        let factors = &factors[TOGETHER * t..][..R];
        for r in 0..R {
            let factor = simd.splat_f32s(factors[r]);
            for i in 0..N {
                totals[r][i] = simd.mul_add_e_f32s(factor, x[i], totals[r][i]);
            }
        }
    }
    for r in 0..R {
        let registers = S::as_mut_simd_f32s(&mut sums[of_row(r)]).0;
        for i in 0..N {
            registers[i] = totals[r][i];
        }
    }
}
