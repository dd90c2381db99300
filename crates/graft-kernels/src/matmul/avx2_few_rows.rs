//! Products of few rows and dense columns by AVX2's multiply-adds in `float32`. Numbers of 16 bits are
//! converted in registers, and each column is read once.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // tiles of registers, by their row and column

use std::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_add_ps, _mm256_and_si256, _mm256_castsi256_ps, _mm256_cvtph_ps,
    _mm256_fmadd_ps, _mm256_load_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32,
    _mm256_setzero_ps, _mm256_slli_epi32,
};
use std::array::from_fn;
use std::mem::MaybeUninit;

use half::{bf16, f16};

use super::avx2;
use super::converted::wide_rows;
use super::few_rows::{Part, parts};
use super::matrix::Matrix;
use super::problem::Each;
use crate::avx2::{LANES, sum};
use crate::floats::Float;
use crate::prefetch::{prefetch, reads_in_order};
use crate::tasks;

/// Numbers that are read at once, into two registers.
const STEP: usize = 16;

/// Rows, and columns, whose sums fit into the registers.
const ROWS: usize = 4;

/// A floating-point type that is read a step at a time.
pub(super) trait Steps: Float + Send + Sync {
    /// The register, and the lane in it, that number `i` of a step goes to.
    fn place(i: usize) -> (usize, usize);

    /// The numbers of a step.
    ///
    /// # Safety
    /// They may be read, and the processor has AVX2 and F16C.
    unsafe fn load(from: *const Self) -> [__m256; 2];
}

impl Steps for bf16 {
    fn place(i: usize) -> (usize, usize) {
        (i % 2, i / 2)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const Self) -> [__m256; 2] {
        // SAFETY: the caller says so.
        let pairs = unsafe { _mm256_loadu_si256(from.cast()) };
        let upper = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(upper)]
    }
}

impl Steps for f32 {
    fn place(i: usize) -> (usize, usize) {
        (i / LANES, i % LANES)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const Self) -> [__m256; 2] {
        // SAFETY: the caller says so.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES))] }
    }
}

impl Steps for f16 {
    fn place(i: usize) -> (usize, usize) {
        (i / LANES, i % LANES)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const Self) -> [__m256; 2] {
        // SAFETY: the caller says so.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(LANES).cast())),
            ]
        }
    }
}

/// The numbers of a step of a row.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Lanes([f32; STEP]);

/// Whether [`multiply`] multiplies these matrices: few rows and dense columns, or one column.
pub(super) fn suits<T: Steps>(a: &Matrix<'_, T>, b: &Matrix<'_, T>) -> bool {
    avx2::is_usable()
        && (a.rows <= ROWS && b.transposed().has_dense_rows()
            || b.columns == 1 && a.has_dense_rows())
}

/// Writes `a × b` to `out`, all of it.
///
/// # Panics
/// If it does not suit the matrices, or the sizes do not fit.
pub(super) fn multiply<T: Steps>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    if a.rows > ROWS || !b.transposed().has_dense_rows() {
        // A product with a column is that of the transposed matrices, and so is its output.
        return multiply(b.transposed(), a.transposed(), out, parallel);
    }
    assert!(multiply_each(a, &mut [(b, out)], parallel), "it suits the matrices");
}

/// Writes the product of `a` and each of several matrices, all of it, if there are few rows and the
/// columns are dense: threads share the work of all. Returns whether it has.
///
/// # Panics
/// If the sizes do not fit.
pub(super) fn multiply_each<T: Steps>(
    a: Matrix<'_, T>,
    products: &mut [Each<'_, '_, T>],
    parallel: bool,
) -> bool {
    let suits = |b| suits(&a, b) && b.transposed().has_dense_rows();
    if a.rows > ROWS || !products.iter().all(|(b, _)| suits(b)) {
        return false;
    }
    assert!(products.iter().all(|(b, _)| b.rows == a.columns));
    let k = a.columns;
    let steps = k.div_ceil(STEP);
    let x = in_order_of_steps::<T>(&wide_rows(a, false), k);
    let in_order = reads_in_order();
    let parts = parts(a.rows, products);
    tasks::for_each(parts.len(), parallel, |task, (): &mut ()| {
        let part = &parts[task];
        // SAFETY: the instructions were found, and this task alone writes what it does.
        unsafe {
            match (a.rows, in_order) {
                (1, true) => block::<T, 1, 1>(&x, steps, part),
                (1, false) => block::<T, 1, 2>(&x, steps, part),
                (2, true) => block::<T, 2, 1>(&x, steps, part),
                (2, false) => block::<T, 2, 2>(&x, steps, part),
                (3, true) => block::<T, 3, 1>(&x, steps, part),
                (3, false) => block::<T, 3, 2>(&x, steps, part),
                (_, true) => block::<T, ROWS, 1>(&x, steps, part),
                (_, false) => block::<T, ROWS, 2>(&x, steps, part),
            }
        }
    });
    true
}

/// Rows of `k` numbers in the order in which those of columns come.
fn in_order_of_steps<T: Steps>(rows: &[f32], k: usize) -> Vec<Lanes> {
    let mut ordered = Vec::with_capacity(rows.len() / k * k.div_ceil(STEP));
    for step in rows.chunks_exact(k).flat_map(|row| row.chunks(STEP)) {
        let mut lanes = Lanes([0.0; STEP]);
        for (i, &x) in step.iter().enumerate() {
            let (register, lane) = T::place(i);
            lanes.0[register * LANES + lane] = x;
        }
        ordered.push(lanes);
    }
    ordered
}

/// Writes the products of `M` rows and some columns, `N` at a time.
///
/// # Safety
/// The processor has the instructions, and nobody else uses what is written.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn block<T: Steps, const M: usize, const N: usize>(
    x: &[Lanes],
    steps: usize,
    part: &Part<'_, T>,
) {
    let mut j = 0;
    let write = |j: usize, dots: &[[f32; M]]| {
        for (n, dots) in dots.iter().enumerate() {
            for (m, &dot) in dots.iter().enumerate() {
                // SAFETY: the caller says so, and there is such a row and such a column.
                unsafe { part.write(m, j + n, dot) };
            }
        }
    };
    while j + N <= part.columns.rows {
        write(j, &dots::<T, M, N>(x, steps, from_fn(|n| part.columns.dense_row(j + n))));
        j += N;
    }
    for j in j..part.columns.rows {
        write(j, &dots::<T, M, 1>(x, steps, [part.columns.dense_row(j)]));
    }
}

/// The dot products of `M` rows, of so many steps each, and columns as long.
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<T: Steps, const M: usize, const N: usize>(
    x: &[Lanes],
    steps: usize,
    columns: [&[T]; N],
) -> [[f32; M]; N] {
    let k = columns[0].len();
    assert!(x.len() == M * steps && k.div_ceil(STEP) == steps);
    assert!(columns.iter().all(|column| column.len() == k));
    let mut sums = [[[_mm256_setzero_ps(); 2]; M]; N];
    let mut add = |step: usize, columns: [&[T; STEP]; N]| {
        let mut numbers = [[_mm256_setzero_ps(); 2]; N];
        for n in 0..N {
            prefetch(columns[n].as_ptr());
            // SAFETY: there are as many numbers as a step reads.
            numbers[n] = unsafe { T::load(columns[n].as_ptr()) };
        }
        for m in 0..M {
            for register in 0..2 {
                let lanes = &x[m * steps + step].0[register * LANES..];
                // SAFETY: half of an element of `x` fills a register and is aligned as one.
                let x = unsafe { _mm256_load_ps(lanes.as_ptr()) };
                for n in 0..N {
                    let sum = &mut sums[n][m][register];
                    *sum = _mm256_fmadd_ps(numbers[n][register], x, *sum);
                }
            }
        }
    };
    let parts = columns.map(<[T]>::as_chunks::<STEP>);
    let whole = k / STEP;
    for step in 0..whole {
        add(step, parts.map(|(steps, _)| &steps[step]));
    }
    if whole < steps {
        // What a step reads behind the end of a column is 0.
        let mut ends = [[T::round(0.0); STEP]; N];
        for (end, (_, rest)) in ends.iter_mut().zip(parts) {
            end[..rest.len()].copy_from_slice(rest);
        }
        add(whole, ends.each_ref());
    }
    let mut dots = [[0.0; M]; N];
    for n in 0..N {
        for m in 0..M {
            dots[n][m] = sum(_mm256_add_ps(sums[n][m][0], sums[n][m][1]));
        }
    }
    dots
}
