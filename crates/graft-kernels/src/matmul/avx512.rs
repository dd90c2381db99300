//! Products in `float32` by AVX-512's multiply-adds, of numbers of any floating-point dtype: those
//! of 16 bits are converted while the operands are packed, and sums are rounded once.
//!
//! Both operands are packed into panels that hold, step after step along the sum, the numbers of
//! 14 rows of `a`, and of 32 columns of `b`. The 14 × 32 sums of a tile stay in registers for a block
//! of the sum. A task packs its own panels of `b`, which stay in the second-level cache while those
//! of `a`, which all tasks share, pass by. What is packed or multiplied next is asked for while
//! tiles are computed: waiting for it would take a tenth of the time. Source of the order of loops:
//! Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
#![allow(unsafe_code)]

use std::arch::x86_64::{_mm512_add_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps};
use std::array;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::avx512_lanes::{LANES, Lanes, mask};
use super::avx512_panels::{B_ROWS, FEW_STEPS, Row, Shared, fitted, pack, padded, product};
use super::avx512_prefetch::{Places, Soon, Source, prefetch_two_lines};
use super::matrix::Matrix;
use super::pack::{A_LINES, B_LINES};
use crate::isa::Isa;
use crate::tasks;

/// Panels of `b` in a task at most: with the longest block of the sum, they fill 768 KiB of the
/// second-level cache.
const PANELS: usize = 6;

/// Panels of `a` that are multiplied with a panel of `b` before the next one is packed, so that it
/// has come near by then.
const FIRST: usize = 6;

/// So many times [`FEW_STEPS`] before the end of a tile, the places of its sums are asked for.
const LAST: usize = 20;

/// Steps up to which writing the sums is most of the work: nothing is asked for ahead, and tasks have
/// whole rows.
const SHORT: usize = 128;

/// Rows or columns for which packing does not pay.
const FEW: usize = 4;

thread_local! {
    /// Packed panels of `b`, and of `a`: kept, as fresh memory costs more than it holds.
    static B: RefCell<Vec<[Row; B_ROWS]>> = const { RefCell::new(Vec::new()) };
    static A: RefCell<Vec<[Row; 1]>> = const { RefCell::new(Vec::new()) };
}

/// The sizes of blocks of a product.
struct Limits {
    /// Steps along the sum.
    steps: usize,
    /// Numbers of `a` that are packed at a time.
    packed: usize,
    /// Sums that wait at a time.
    waiting: usize,
}

const LIMITS: Limits = Limits { steps: 1024, packed: 1 << 21, waiting: 1 << 22 };

/// Whether packing pays: with a few rows or columns, the operand that has more is read once only.
pub(super) fn suits<T: Lanes>(a: &Matrix<'_, T>, b: &Matrix<'_, T>) -> bool {
    Isa::Avx512.is_usable() && a.rows > FEW && b.columns > FEW
}

/// Writes `a × b` to `out`, all of it.
///
/// # Panics
/// If the processor lacks the instructions, or the sizes do not fit.
pub(super) fn multiply<T: Lanes>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    multiply_in(&LIMITS, a, b, out, parallel);
}

/// The largest of evenly sized parts of `whole`, none above `limit`, as a multiple of `unit`.
fn part(whole: usize, limit: usize, unit: usize) -> usize {
    whole.div_ceil(whole.div_ceil(limit.max(unit))).next_multiple_of(unit)
}

/// Writes `a × b` to `out` in blocks.
fn multiply_in<T: Lanes>(
    limits: &Limits,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    let (m, k, n) = (a.rows, b.rows, b.columns);
    assert!(Isa::Avx512.is_supported() && a.columns == k && out.len() == m * n);
    let steps = part(k, limits.steps, 1);
    let rows = part(m, limits.packed / steps, A_LINES);
    // Sums of 16-bit numbers over several blocks wait in `float32`.
    let waits = k > steps && !T::IS_FLOAT32;
    let columns = if waits { part(n, limits.waiting / rows, B_LINES) } else { n };
    let mut waiting = vec![0.0_f32; if waits { rows * columns } else { 0 }];
    let corners = (0..m).step_by(rows).flat_map(|i| (0..n).step_by(columns).map(move |j| (i, j)));
    for (i, j) in corners {
        let (rows, columns) = (rows.min(m - i), columns.min(n - j));
        let out = Sums { data: out[i * n + j..].as_mut_ptr(), stride: n };
        let sums = if waits {
            Sums { data: waiting.as_mut_ptr(), stride: columns }
        } else {
            Sums { data: out.data.cast(), stride: n }
        };
        for step in (0..k).step_by(steps) {
            let steps = steps.min(k - step);
            let block = Block {
                a: a.rows(i, rows).columns(step, steps),
                b: b.rows(step, steps).columns(j, columns).transposed(),
                out,
                sums,
                first: step == 0,
                last: step + steps == k,
            };
            block.multiply(parallel);
        }
    }
}

/// Where a matrix of sums is written, row by row.
#[derive(Clone, Copy)]
struct Sums<T> {
    data: *mut T,
    stride: usize,
}

impl<T> Sums<T> {
    /// The address of element (i, j), which need not exist.
    fn at(self, i: usize, j: usize) -> *mut T {
        self.data.wrapping_add(i * self.stride + j)
    }
}

/// A block of a product: some rows and columns, and some steps of the sum.
struct Block<'a, T> {
    /// `(M, K)`.
    a: Matrix<'a, T>,
    /// Transposed: `(N, K)`.
    b: Matrix<'a, T>,
    out: Sums<MaybeUninit<T>>,
    /// Where the sums are between two blocks: those of `float32` in `out` itself.
    sums: Sums<f32>,
    first: bool,
    last: bool,
}

// SAFETY: the matrices may be shared, and tasks write tiles that do not overlap.
unsafe impl<T: Lanes> Sync for Block<'_, T> {}

/// The panels of a task: rows are those of `a`, columns those of `b`.
struct Part {
    rows: Range<usize>,
    /// The row that comes first: threads begin with different ones, so that none waits for another.
    turn: usize,
    columns: Range<usize>,
    /// The first column of the task that may come after this one.
    next: Option<usize>,
}

/// Part `i` of `of` parts of `all`.
fn share(i: usize, of: usize, all: usize) -> Range<usize> {
    i * all / of..(i + 1) * all / of
}

impl<T: Lanes> Block<'_, T> {
    fn multiply(&self, parallel: bool) {
        let steps = padded(self.a.columns);
        let (count, panels) = (self.a.rows.div_ceil(A_LINES), self.b.rows.div_ceil(B_LINES));
        let mut memory = A.take();
        let a: Vec<Shared<'_>> =
            fitted(&mut memory, count * steps).chunks_mut(steps).map(Shared::new).collect();
        let threads = if parallel { tasks::threads() } else { 1 };
        // As many columns for each thread, and if they are few, fewer rows.
        let (across, down) = if self.is_short() {
            (panels.div_ceil(PANELS * LIMITS.steps / SHORT), 2 * threads)
        } else {
            (panels.div_ceil(PANELS).next_multiple_of(threads).min(panels), threads)
        };
        let down = down.div_ceil(across).min(count);
        let columns = |task: usize| share(task % across, across, panels);
        tasks::for_each(across * down, parallel, |task, (): &mut ()| {
            let rows = share(task / across, down, count);
            let turn = task % threads * rows.len() / threads;
            let next = Some(task + threads).filter(|&next| next < across * down);
            let next = next.map(|next| columns(next).start);
            self.multiply_part(&Part { rows, turn, columns: columns(task), next }, &a);
        });
        drop(a);
        A.set(memory);
    }

    fn is_short(&self) -> bool {
        self.a.columns <= SHORT
    }

    fn lines_of_a(&self, panel: usize) -> Matrix<'_, T> {
        let start = panel * A_LINES;
        self.a.rows(start, A_LINES.min(self.a.rows - start))
    }

    fn lines_of_b(&self, panel: usize) -> Matrix<'_, T> {
        let start = panel * B_LINES;
        self.b.rows(start, B_LINES.min(self.b.rows - start))
    }

    fn multiply_part(&self, part: &Part, a: &[Shared<'_>]) {
        let Part { rows, turn, columns, next } = part;
        let row = |t: usize| rows.start + (t + turn) % rows.len();
        let steps = padded(self.b.columns);
        let mut memory = B.take();
        let b = fitted(&mut memory, columns.len() * steps);
        let (is_short, mut soon) = (self.is_short(), Soon::default());
        let mut done = 0;
        while done < rows.len() {
            let is_first = done == 0;
            let group = done..if is_first { FIRST.min(rows.len()) } else { done + 1 };
            for (j, b) in columns.clone().zip(b.chunks_mut(steps)) {
                if is_first {
                    pack(self.lines_of_b(j), b);
                    let next = if j + 1 < columns.end { Some(j + 1) } else { *next };
                    let next = next.filter(|_| !is_short);
                    let source = next.map(|j| Source::of(self.lines_of_b(j)));
                    soon[0] = source.unwrap_or_default();
                }
                for t in group.clone() {
                    let i = row(t);
                    let panel = a[i].get(|| self.lines_of_a(i));
                    if j == columns.start && t + 1 < rows.len() && !is_short {
                        let next = row(t + 1);
                        [soon[1], soon[2]] = a[next].sources(self.lines_of_a(next));
                    }
                    // SAFETY: the processor has the instructions; this task alone writes the tile,
                    // whose rows and columns are those that were packed.
                    unsafe { self.tile(panel, b, (i * A_LINES, j * B_LINES), &mut soon) };
                }
            }
            done = group.end;
        }
        B.set(memory);
    }

    /// Adds the product of two panels to the sums at (i, j), or writes it to the output.
    ///
    /// # Safety
    /// The processor has the instructions, and nobody else uses these sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn tile(
        &self,
        a: &[[Row; 1]],
        b: &[[Row; B_ROWS]],
        (i, j): (usize, usize),
        soon: &mut Soon,
    ) {
        let rows = A_LINES.min(self.a.rows - i);
        let columns = B_LINES.min(self.b.rows - j);
        let masks: [u16; B_ROWS] = array::from_fn(|r| mask(columns.saturating_sub(r * LANES)));
        let steps = self.a.columns.div_ceil(FEW_STEPS);
        let (a, b) = (&a.as_chunks().0[..steps], &b.as_chunks().0[..steps]);
        let mut sums = if self.is_short() {
            product(a, b, || ())
        } else {
            let wait = steps.saturating_sub(LAST);
            let mut places = if self.first && self.last {
                Places::new(self.out.at(i, j), self.out.stride, rows, wait)
            } else {
                Places::new(self.sums.at(i, j), self.sums.stride, rows, wait)
            };
            product(a, b, || {
                places.prefetch_row();
                prefetch_two_lines(soon);
            })
        };
        for (r, sums) in sums.iter_mut().enumerate().take(rows) {
            for (part, sum) in sums.iter_mut().enumerate() {
                let (column, mask) = (j + part * LANES, masks[part]);
                let waiting = self.sums.at(i + r, column);
                // SAFETY: the mask covers columns that the matrices have, and nothing is read
                // before the first block has written it.
                unsafe {
                    if !self.first {
                        *sum = _mm512_add_ps(*sum, _mm512_maskz_loadu_ps(mask, waiting));
                    }
                    if self.last {
                        T::store(self.out.at(i + r, column).cast(), mask, *sum);
                    } else {
                        _mm512_mask_storeu_ps(waiting, mask, *sum);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn numbers<T: Lanes>(seed: usize, count: usize) -> Vec<T> {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
        (0..count).map(|i| T::round(number(i))).collect()
    }

    /// The number in `f64`.
    fn wide<T: Lanes>(x: T) -> f64 {
        let mut wide = 0.0_f32;
        T::widen(&[x], std::slice::from_mut(&mut wide));
        f64::from(wide)
    }

    /// Compares with sums of `f64`; `unit` is the relative error of rounding to `T`.
    fn check<T: Lanes>(unit: f64) {
        if !Isa::Avx512.is_supported() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        for (m, k, n) in [(1, 1, 1), (14, 32, 32), (15, 33, 31), (130, 257, 100), (40, 2101, 70)] {
            compare::<T>(&LIMITS, unit, (m, k, n));
        }
        // Several blocks in all directions.
        let limits = Limits { steps: 40, packed: 40 * 2 * A_LINES, waiting: 2 * A_LINES * B_LINES };
        for (m, k, n) in [(70, 100, 100), (29, 81, 33), (28, 40, 32), (300, 41, 5)] {
            compare::<T>(&limits, unit, (m, k, n));
        }
    }

    /// Compares products of matrices that lie in memory in all kinds of ways.
    fn compare<T: Lanes>(limits: &Limits, unit: f64, (m, k, n): (usize, usize, usize)) {
        let (a, b) = (numbers::<T>(1, 2 * m * k), numbers::<T>(2, 3 * k * n));
        let (rows, columns) = (Matrix::from_rows(&a, m, k), Matrix::from_rows(&b, n, k));
        // SAFETY: the numbers are twice and thrice as many as the elements.
        let (second, third) = unsafe {
            (
                Matrix::new(a.as_ptr(), (m, k), (2 * k as isize, 2)),
                Matrix::new(b.as_ptr(), (k, n), (3, 3 * k as isize)),
            )
        };
        let pairs = [
            (rows, columns.transposed()),
            (rows, Matrix::from_rows(&b, k, n)),
            (Matrix::from_rows(&a, k, m).transposed(), Matrix::from_rows(&b, k, n)),
            (second, third),
        ];
        for (a, b) in pairs {
            for parallel in [false, true] {
                let mut found = vec![MaybeUninit::new(T::round(f32::NAN)); m * n];
                multiply_in(limits, a, b, &mut found, parallel);
                for (at, found) in found.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let terms = (0..k).map(|t| wide(a.get(i, t)) * wide(b.get(t, j)));
                    let (sum, size) = terms
                        .fold((0.0, 0.0), |(sum, size), term| (sum + term, size + f64::abs(term)));
                    // SAFETY: all elements were initialised when the vector was made.
                    let found = wide(unsafe { found.assume_init() });
                    let bound = unit * f64::abs(sum) + k as f64 * 6e-8 * size;
                    assert!((found - sum).abs() <= bound, "{m} {k} {n}: {found} for {sum}");
                }
            }
        }
    }

    #[test]
    fn products_are_within_the_rounding_of_float32() {
        check::<f32>(0.0);
    }

    #[test]
    fn products_of_16_bits_are_rounded_once() {
        check::<bf16>(1.0 / 256.0);
        check::<f16>(1.0 / 2048.0);
    }
}
