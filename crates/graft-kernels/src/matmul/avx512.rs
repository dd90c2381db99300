//! Products in blocks by AVX-512's multiply-adds: see `blocked`. A panel of `a` has 14 rows, one of
//! `b` 32 columns, so that the sums of a tile fill the registers.
#![allow(unsafe_code)]

use std::arch::x86_64::{_mm512_add_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps};
use std::array;
use std::cell::RefCell;

use super::avx512_lanes::Lanes;
use super::avx512_panels::{A, A_LINES, B, B_LINES, B_ROWS, Float32, Form, Row, pack};
use super::avx512_tile::{FEWER, FEWEST};
use super::blocked::{Block, FEW_STEPS, Kernel, Limits, Panels};
use super::matrix::Matrix;
use super::panels::RowKernel;
use super::soon::{Places, Soon, prefetch_two_lines};
use crate::avx512::{LANES, mask};
use crate::isa::Isa;

/// So many times [`FEW_STEPS`] before the end of a tile, the places of its sums are asked for.
const LAST: usize = 20;

/// Bytes of a row of sums of `float32` in a tile.
const ROW_BYTES: usize = 4 * B_LINES;

/// Rows or columns for which packing does not pay.
const FEW: usize = 4;

thread_local! {
    static A_PANELS: RefCell<Vec<A>> = const { RefCell::new(Vec::new()) };
    static B_PANELS: RefCell<Vec<B>> = const { RefCell::new(Vec::new()) };
}

/// Whether packing pays: with a few rows or columns, the operand that has more is read once only.
pub(super) fn suits<T: Lanes>(a: &Matrix<'_, T>, b: &Matrix<'_, T>) -> bool {
    Isa::Avx512.is_usable() && a.rows > FEW && b.columns > FEW
}

/// The kernel.
pub(super) struct Avx512;

impl<T: Lanes> Kernel<T> for Avx512 {
    const LINES: [usize; 2] = [A_LINES, B_LINES];
    /// With the longest block of the sum, they fill 768 KiB.
    const PANELS: usize = 6;
    const LIMITS: Limits = Limits { steps: 1024, packed: 1 << 21, waiting: 1 << 22 };
    /// Waiting for it takes a tenth of the time.
    const ASKS_AHEAD: bool = true;
    const NUMBERS: usize = <Float32 as Form<T>>::NUMBERS;
    type A = A;
    type B = B;
    const ZEROS: (A, B) = ZEROS;

    fn memory() -> (&'static Panels<A>, &'static Panels<B>) {
        memory()
    }

    fn is_supported() -> bool {
        Isa::Avx512.is_supported()
    }

    fn pack_a(lines: Matrix<'_, T>, panel: &mut [A]) {
        pack::<T, Float32, _>(lines, panel);
    }

    fn pack_b(lines: Matrix<'_, T>, panel: &mut [B]) {
        pack::<T, Float32, _>(lines, panel);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn tile(block: &Block<'_, T>, a: &[A], b: &[B], at: (usize, usize), soon: &mut Soon) {
        // SAFETY: the caller says so.
        unsafe { tile::<T, Float32>(block, a, b, at, soon) };
    }
}

/// Steps of zeros.
pub(super) const ZEROS: (A, B) = ([Row::ZEROS; 1], [Row::ZEROS; B_ROWS]);

/// Where panels are packed.
pub(super) fn memory() -> (&'static Panels<A>, &'static Panels<B>) {
    (&A_PANELS, &B_PANELS)
}

/// [`Kernel::tile`] of panels of a form.
///
/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn tile<T: Lanes, F: Form<T>>(
    block: &Block<'_, T>,
    a: &[A],
    b: &[B],
    (i, j): (usize, usize),
    soon: &mut Soon,
) {
    let rows = A_LINES.min(block.a.rows - i);
    // SAFETY: the caller says so.
    unsafe {
        match Avx512::rows_read(rows) {
            FEWEST => tile_of_rows::<T, F, FEWEST>(block, a, b, (i, j), rows, soon),
            FEWER => tile_of_rows::<T, F, FEWER>(block, a, b, (i, j), rows, soon),
            _ => tile_of_rows::<T, F, A_LINES>(block, a, b, (i, j), rows, soon),
        }
    }
}

/// [`tile`] of `rows` rows, at most `ROWS`: where the rows of a matrix end, the sums of a whole tile
/// would take longer.
///
/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn tile_of_rows<T: Lanes, F: Form<T>, const ROWS: usize>(
    block: &Block<'_, T>,
    a: &[A],
    b: &[B],
    (i, j): (usize, usize),
    rows: usize,
    soon: &mut Soon,
) {
    let columns = B_LINES.min(block.b.rows - j);
    let masks: [u16; B_ROWS] = array::from_fn(|r| mask(columns.saturating_sub(r * LANES)));
    let steps = block.steps().div_ceil(FEW_STEPS * F::NUMBERS);
    let (a, b) = (&a.as_chunks().0[..steps], &b.as_chunks().0[..steps]);
    let mut sums: [[_; B_ROWS]; ROWS] = if block.is_short() {
        // SAFETY: the caller says so.
        unsafe { F::product(a, b, || ()) }
    } else {
        let wait = steps.saturating_sub(LAST);
        let mut places = if block.first && block.last {
            Places::new(block.out.at(i, j), block.out.stride, rows, wait)
        } else {
            Places::new(block.sums.at(i, j), block.sums.stride, rows, wait)
        };
        let every_few = || {
            places.prefetch_row::<ROW_BYTES>();
            prefetch_two_lines(soon);
        };
        // SAFETY: the caller says so.
        unsafe { F::product(a, b, every_few) }
    };
    for (r, sums) in sums.iter_mut().enumerate().take(rows) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let (column, mask) = (j + part * LANES, masks[part]);
            let waiting = block.sums.at(i + r, column);
            // SAFETY: the mask covers columns that the matrices have, and nothing is read before
            // the first block has written it.
            unsafe {
                if !block.first {
                    *sum = _mm512_add_ps(*sum, _mm512_maskz_loadu_ps(mask, waiting));
                }
                if block.last {
                    T::store(block.out.at(i + r, column).cast(), mask, *sum);
                } else {
                    _mm512_mask_storeu_ps(waiting, mask, *sum);
                }
            }
        }
    }
}
