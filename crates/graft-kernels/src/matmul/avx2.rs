//! Products in blocks by AVX2's multiply-adds: see `blocked`. A panel of `a` has 6 rows, one of `b` 16
//! columns, so that the sums of a tile and what is multiplied fill the registers.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps, _mm256_load_ps,
    _mm256_set1_ps, _mm256_setzero_ps,
};
use std::cell::RefCell;

use super::avx2_lanes::{Lanes, load, store};
use super::blocked::{Block, FEW_STEPS, Kernel, Limits, Panels, padded};
use super::matrix::Matrix;
use super::panels::RowKernel;
use super::soon::Soon;
use crate::avx2::{LANES, transposed};
use crate::isa::Isa;

/// Lines of a panel of `a`.
pub(super) const A_LINES: usize = 6;

/// Rows of the tile that takes what is left of a matrix: as few as hide the latency of a
/// multiplication.
pub(super) const FEWER: usize = 4;

/// Lines of a panel of `b`, and the registers that hold a step of them.
pub(super) const B_LINES: usize = 2 * LANES;

/// Bytes by which reading runs ahead of packing.
const AHEAD: usize = 256;

/// Rows or columns for which packing does not pay.
const FEW: usize = 4;

/// A step of a panel of `a`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct A([f32; A_LINES]);

/// A step of a panel of `b`, which fills a line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct B([f32; B_LINES]);

impl B {
    /// The address of the first number, which is that of a register.
    #[inline]
    pub(super) fn as_ptr(&self) -> *const f32 {
        self.0.as_ptr()
    }
}

thread_local! {
    static A_MEMORY: RefCell<Vec<A>> = const { RefCell::new(Vec::new()) };
    static B_MEMORY: RefCell<Vec<B>> = const { RefCell::new(Vec::new()) };
}

/// Whether the kernel may run; so may that of AVX-512 only where this one may.
pub(super) fn is_usable() -> bool {
    Isa::Avx2.is_usable() && <Avx2 as Kernel<f32>>::is_supported()
}

/// Whether packing pays: with a few rows or columns, the operand that has more is read once only.
pub(super) fn suits<T: Lanes>(a: &Matrix<'_, T>, b: &Matrix<'_, T>) -> bool {
    is_usable() && a.rows > FEW && b.columns > FEW
}

/// The kernel.
pub(super) struct Avx2;

impl<T: Lanes> Kernel<T> for Avx2 {
    const LINES: [usize; 2] = [A_LINES, B_LINES];
    /// With the longest block of the sum, they fill 192 KiB.
    const PANELS: usize = 4;
    const LIMITS: Limits = Limits { steps: 768, packed: 1 << 21, waiting: 1 << 22 };
    /// The processor sees by itself what is read next; asked for, it took up to a sixth of the time.
    const ASKS_AHEAD: bool = false;
    const NUMBERS: usize = 1;
    type A = A;
    type B = B;
    const ZEROS: (A, B) = (A([0.0; A_LINES]), B([0.0; B_LINES]));

    fn memory() -> (&'static Panels<A>, &'static Panels<B>) {
        (&A_MEMORY, &B_MEMORY)
    }

    fn is_supported() -> bool {
        Isa::Avx2.is_supported() && is_x86_feature_detected!("f16c")
    }

    fn pack_a(lines: Matrix<'_, T>, panel: &mut [A]) {
        // SAFETY: a step is six numbers.
        let numbers = unsafe {
            std::slice::from_raw_parts_mut(panel.as_mut_ptr().cast(), panel.len() * A_LINES)
        };
        pack::<T, A_LINES>(lines, numbers);
    }

    fn pack_b(lines: Matrix<'_, T>, panel: &mut [B]) {
        // SAFETY: a step is sixteen numbers.
        let numbers = unsafe {
            std::slice::from_raw_parts_mut(panel.as_mut_ptr().cast(), panel.len() * B_LINES)
        };
        pack::<T, B_LINES>(lines, numbers);
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile(block: &Block<'_, T>, a: &[A], b: &[B], (i, j): (usize, usize), _: &mut Soon) {
        let rows = A_LINES.min(block.a.rows - i);
        // SAFETY: the caller says so.
        unsafe {
            match Self::rows_read(rows) {
                FEWER => tile_of_rows::<T, FEWER>(block, a, b, (i, j), rows),
                _ => tile_of_rows::<T, A_LINES>(block, a, b, (i, j), rows),
            }
        }
    }
}

/// [`Kernel::tile`] of `rows` rows, at most `ROWS`: where the rows of a matrix end, the sums of a whole
/// tile would take longer.
///
/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_of_rows<T: Lanes, const ROWS: usize>(
    block: &Block<'_, T>,
    a: &[A],
    b: &[B],
    (i, j): (usize, usize),
    rows: usize,
) {
    let columns = B_LINES.min(block.b.rows - j);
    let steps = block.steps().div_ceil(FEW_STEPS);
    let (a, b) = (&a.as_chunks().0[..steps], &b.as_chunks().0[..steps]);
    if block.first && block.last {
        prefetch_rows::<_, ROWS>(block.out.at(i, j), block.out.stride);
    } else {
        prefetch_rows::<_, ROWS>(block.sums.at(i, j), block.sums.stride);
    }
    let sums = product::<ROWS>(a, b);
    let write = |r: usize, part: usize, mut sum: __m256| {
        let column = j + part * LANES;
        let count = columns.saturating_sub(part * LANES);
        let waiting = block.sums.at(i + r, column);
        // SAFETY: the matrices have so many columns, and nothing is read before the first block has
        // written it.
        unsafe {
            if !block.first {
                sum = _mm256_add_ps(sum, load(waiting, count));
            }
            if block.last {
                store::<T>(block.out.at(i + r, column).cast(), count, sum);
            } else {
                store(waiting, count, sum);
            }
        }
    };
    if rows == ROWS {
        // A loop of known length, so that the sums stay in registers.
        for (r, sums) in sums.iter().enumerate() {
            write(r, 0, sums[0]);
            write(r, 1, sums[1]);
        }
    } else {
        for (r, sums) in sums.iter().enumerate().take(rows) {
            write(r, 0, sums[0]);
            write(r, 1, sums[1]);
        }
    }
}

/// Asks for the places of the sums of a tile, which need not exist.
#[inline]
#[target_feature(enable = "avx2")]
fn prefetch_rows<N, const ROWS: usize>(first: *const N, stride: usize) {
    for r in 0..ROWS {
        let row = first.wrapping_add(r * stride);
        // A row need not begin where a line of the cache does.
        _mm_prefetch::<_MM_HINT_T0>(row.cast());
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(B_LINES - 1).cast());
    }
}

/// Packs the rows of `lines` into steps of `WIDTH` numbers.
///
/// The processor must have the instructions.
///
/// # Panics
/// If the panel has another number of steps, or not enough lines.
fn pack<T: Lanes, const WIDTH: usize>(lines: Matrix<'_, T>, panel: &mut [f32]) {
    assert!(panel.len() == padded(lines.columns) * WIDTH && lines.rows <= WIDTH);
    if lines.has_dense_rows() {
        for start in (0..lines.rows).step_by(LANES) {
            let part = lines.rows(start, LANES.min(lines.rows - start));
            // SAFETY: the caller has found the instructions.
            unsafe { pack_along::<T, WIDTH>(part, panel, start) };
        }
        return;
    }
    let across = lines.transposed();
    let (steps, rest) = panel.split_at_mut(lines.columns * WIDTH);
    if across.has_dense_rows() {
        // SAFETY: the caller has found the instructions.
        unsafe { pack_across::<T, WIDTH>(across, steps) };
    } else {
        for (i, step) in steps.chunks_exact_mut(WIDTH).enumerate() {
            for (line, place) in step.iter_mut().enumerate().take(lines.rows) {
                T::widen(&[lines.get(line, i)], std::slice::from_mut(place));
            }
        }
    }
    rest.fill(0.0);
}

/// Packs at most eight dense lines to the numbers from `first` on of each step.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_along<T: Lanes, const WIDTH: usize>(
    lines: Matrix<'_, T>,
    panel: &mut [f32],
    first: usize,
) {
    // Lines that are not there are the last one once more.
    let starts: [*const T; LANES] =
        std::array::from_fn(|i| lines.dense_row(i.min(lines.rows - 1)).as_ptr());
    for start in (0..panel.len() / WIDTH).step_by(LANES) {
        let count = lines.columns.saturating_sub(start);
        let mut r = [_mm256_setzero_ps(); LANES];
        for (r, line) in r.iter_mut().zip(starts) {
            let line = line.wrapping_add(start);
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_byte_add(AHEAD).cast());
            // SAFETY: the line has so many elements from there on.
            *r = unsafe { load(line, count) };
        }
        for (i, r) in transposed(r).into_iter().enumerate() {
            // SAFETY: the caller has found the instructions.
            unsafe { put(panel, (start + i) * WIDTH + first, r) };
        }
    }
}

/// Packs steps whose lines are neighbours.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_across<T: Lanes, const WIDTH: usize>(steps: Matrix<'_, T>, panel: &mut [f32]) {
    for i in 0..steps.rows {
        let from = steps.dense_row(i);
        for first in (0..WIDTH).step_by(LANES) {
            let mut few = [T::round(0.0); LANES];
            let numbers = if first + LANES <= from.len() {
                &from[first..]
            } else if let Some(from) = from.get(first..WIDTH) {
                // As many as the compiler knows.
                few[..WIDTH - first].copy_from_slice(from);
                &few
            } else {
                let count = from.len().saturating_sub(first);
                few[..count].copy_from_slice(&from[from.len() - count..]);
                &few
            };
            // SAFETY: the caller has found the instructions, and eight numbers may be read.
            unsafe { put(panel, i * WIDTH + first, T::load(numbers.as_ptr())) };
        }
    }
}

/// Writes a register to the numbers from `at` on, as far as there are any. What belongs to the next
/// step is written after it.
///
/// # Safety
/// The processor has the instructions.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn put(panel: &mut [f32], at: usize, x: __m256) {
    let to = &mut panel[at..];
    // SAFETY: the slice has so many numbers.
    unsafe { store(to.as_mut_ptr(), to.len(), x) };
}

/// The sums of the products of the first `ROWS` lines of a panel and all of another.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn product<const ROWS: usize>(a: &[[A; FEW_STEPS]], b: &[[B; FEW_STEPS]]) -> [[__m256; 2]; ROWS] {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for (a, b) in a.iter().zip(b) {
        // Few steps at a time, so that they are written out one behind the other.
        for (a, b) in a.iter().zip(b) {
            let from = b.as_ptr();
            // SAFETY: a step is two registers, and aligned as they are.
            let b = unsafe { [_mm256_load_ps(from), _mm256_load_ps(from.add(LANES))] };
            for (sums, &a) in sums.iter_mut().zip(&a.0) {
                let a = _mm256_set1_ps(a);
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = _mm256_fmadd_ps(a, b, *sum);
                }
            }
        }
    }
    sums
}
