//! Operands packed into panels for the products in `float32`, step after step along the sum the
//! numbers of all lines of a panel, and the product of two panels.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::ptr;

use super::avx512_lanes::Lanes;
use super::blocked::{FEW_STEPS, padded};
use super::matrix::Matrix;
use super::pack::B_LINES;
use crate::avx512::{LANES, mask};

/// Bytes by which reading runs ahead of packing.
const AHEAD: usize = 256;

/// Steps by which it runs ahead of a product.
const STEPS_AHEAD: usize = 12;

/// Registers that hold a step of a panel of `b`.
pub(super) const B_ROWS: usize = B_LINES / LANES;

/// A step of sixteen lines, which fills a line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row(pub(super) [f32; LANES]);

impl Row {
    /// Numbers of a panel that are not there.
    pub(super) const ZEROS: Self = Self([0.0; LANES]);
}

/// Packs the rows of `lines`. What a panel has for more lines is not looked at.
///
/// The processor must have AVX-512 F, BW and VL.
///
/// # Panics
/// If the panel has another number of steps, or not enough lines.
pub(super) fn pack<T: Lanes, const REGISTERS: usize>(
    lines: Matrix<'_, T>,
    panel: &mut [[Row; REGISTERS]],
) {
    assert!(panel.len() == padded(lines.columns) && lines.rows <= REGISTERS * LANES);
    if lines.has_dense_rows() {
        for register in 0..lines.rows.div_ceil(LANES) {
            let start = register * LANES;
            let part = lines.rows(start, LANES.min(lines.rows - start));
            // SAFETY: the caller has found the instructions.
            unsafe { pack_along(part, panel, register) };
        }
        return;
    }
    let across = lines.transposed();
    let (steps, rest) = panel.split_at_mut(lines.columns);
    if across.has_dense_rows() {
        // SAFETY: the caller has found the instructions.
        unsafe { pack_across(across, steps) };
    } else {
        for (i, step) in steps.iter_mut().enumerate() {
            let places = step.iter_mut().flat_map(|row| &mut row.0);
            for (line, place) in places.enumerate().take(lines.rows) {
                T::widen(&[lines.get(line, i)], std::slice::from_mut(place));
            }
        }
    }
    rest.fill([Row::ZEROS; REGISTERS]);
}

/// Packs at most 16 dense lines to one register of each step.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_along<T: Lanes, const REGISTERS: usize>(
    lines: Matrix<'_, T>,
    panel: &mut [[Row; REGISTERS]],
    register: usize,
) {
    assert!(register < REGISTERS);
    // Lines that are not there are the last one once more.
    let mut lines_left: [*const T; LANES] =
        std::array::from_fn(|i| lines.dense_row(i.min(lines.rows - 1)).as_ptr());
    for (block, steps) in panel.chunks_mut(T::TOGETHER).enumerate() {
        for line in lines_left {
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_byte_add(AHEAD).cast());
        }
        let put = |i: usize, x| {
            if let Some(step) = steps.get_mut(i) {
                // SAFETY: a row has 64 bytes.
                unsafe { _mm512_storeu_ps(step[register].0.as_mut_ptr(), x) };
            }
        };
        // SAFETY: so many numbers are left of the lines, and at least one for each block.
        unsafe { T::transpose(lines_left, lines.columns - block * T::TOGETHER, put) };
        for line in &mut lines_left {
            *line = line.wrapping_add(T::TOGETHER);
        }
    }
}

/// Packs steps whose lines are neighbours.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_across<T: Lanes, const REGISTERS: usize>(
    steps: Matrix<'_, T>,
    panel: &mut [[Row; REGISTERS]],
) {
    let masks: [u16; REGISTERS] =
        std::array::from_fn(|i| mask(steps.columns.saturating_sub(i * LANES)));
    for (i, step) in panel.iter_mut().enumerate() {
        let from = steps.dense_row(i).as_ptr();
        for (register, (row, mask)) in step.iter_mut().zip(masks).enumerate() {
            // SAFETY: the mask covers elements of the step; a row has 64 bytes.
            unsafe {
                let x = T::load(from.wrapping_add(register * LANES), mask);
                _mm512_storeu_ps(row.0.as_mut_ptr(), x);
            }
        }
    }
}

/// The sums of the products of the first `ROWS` lines of a panel and all of another. Inlined, it would
/// hold them in memory, as what follows goes through them in a loop.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline(never)]
pub(super) fn product<const ROWS: usize>(
    a: &[[[Row; 1]; FEW_STEPS]],
    b: &[[[Row; B_ROWS]; FEW_STEPS]],
    mut every_few: impl FnMut(),
) -> [[__m512; B_ROWS]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); B_ROWS]; ROWS];
    for (a, b) in a.iter().zip(b) {
        every_few();
        for ([a], b) in a.iter().zip(b) {
            _mm_prefetch::<_MM_HINT_T0>(ptr::from_ref(a).wrapping_add(STEPS_AHEAD).cast());
            for row in b {
                let row = ptr::from_ref(row).wrapping_add(B_ROWS * STEPS_AHEAD);
                _mm_prefetch::<_MM_HINT_T0>(row.cast());
            }
            // SAFETY: a row has 64 bytes.
            let b = b.map(|row| unsafe { _mm512_loadu_ps(row.0.as_ptr()) });
            for (sums, &a) in sums.iter_mut().zip(&a.0) {
                let a = _mm512_set1_ps(a);
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = _mm512_fmadd_ps(a, b, *sum);
                }
            }
        }
    }
    sums
}
