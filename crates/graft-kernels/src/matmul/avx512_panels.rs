//! Operands packed into panels, step after step along the sum the numbers of all lines of a panel, and
//! the product of two panels in `float32`.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::ptr;

use super::avx512_lanes::Lanes;
use super::blocked::{FEW_STEPS, padded};
use super::matrix::Matrix;
use crate::avx512::{LANES, mask};

/// Lines of a panel of `a`: so many sums of 32 columns, and two loads, fill the registers.
pub(super) const A_LINES: usize = 14;

/// Lines of a panel of `b`.
pub(super) const B_LINES: usize = 32;

/// Bytes by which reading runs ahead of packing.
const AHEAD: usize = 256;

/// Steps by which it runs ahead of a product.
const STEPS_AHEAD: usize = 12;

/// Registers that hold a step of a panel of `b`.
pub(super) const B_ROWS: usize = B_LINES / LANES;

/// A step of sixteen lines, which fills a line of the cache: numbers, or pairs of `bfloat16`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row(pub(super) [f32; LANES]);

impl Row {
    /// Numbers of a panel that are not there.
    pub(super) const ZEROS: Self = Self([0.0; LANES]);
}

/// A step of fourteen lines.
pub(super) type A = [Row; 1];

/// A step of 32 lines.
pub(super) type B = [Row; B_ROWS];

/// What the lanes of panels hold of numbers of type `T`, and how they are multiplied.
pub(super) trait Form<T: Lanes> {
    /// Numbers of a line in a lane.
    const NUMBERS: usize;
    /// Numbers of a line that [`transpose`](Self::transpose) reads.
    const TOGETHER: usize;

    /// Gives `put` the first lanes of sixteen lines, then the second ones, and so on: those of
    /// [`TOGETHER`](Self::TOGETHER) numbers, zeros where the `count` that the lines have are fewer.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL, and each line has so many numbers, at least one.
    unsafe fn transpose(lines: [*const T; LANES], count: usize, put: impl FnMut(usize, __m512));

    /// A step of the lines in `mask`, from line `first` on, where the numbers of all lines are
    /// neighbours; `across` has a row for each number of a line.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL, and there are these lines.
    unsafe fn load(across: Matrix<'_, T>, step: usize, first: usize, mask: u16) -> __m512;

    /// A step of one line, wherever it lies.
    fn get(lines: Matrix<'_, T>, line: usize, step: usize) -> f32;

    /// The sums of the products of the first `ROWS` lines of a panel and all of another.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn product<const ROWS: usize>(
        a: &[[A; FEW_STEPS]],
        b: &[[B; FEW_STEPS]],
        every_few: impl FnMut(),
    ) -> [[__m512; B_ROWS]; ROWS];
}

/// Numbers as `float32`.
pub(super) struct Float32;

impl<T: Lanes> Form<T> for Float32 {
    const NUMBERS: usize = 1;
    const TOGETHER: usize = T::TOGETHER;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn transpose(lines: [*const T; LANES], count: usize, put: impl FnMut(usize, __m512)) {
        // SAFETY: the caller says so.
        unsafe { T::transpose(lines, count, put) };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(across: Matrix<'_, T>, step: usize, first: usize, mask: u16) -> __m512 {
        // SAFETY: the caller says so.
        unsafe { T::load(across.dense_row(step).as_ptr().wrapping_add(first), mask) }
    }

    fn get(lines: Matrix<'_, T>, line: usize, step: usize) -> f32 {
        let mut number = 0.0;
        T::widen(&[lines.get(line, step)], std::slice::from_mut(&mut number));
        number
    }

    /// Inlined, it would hold the sums in memory, as what follows goes through them in a loop.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn product<const ROWS: usize>(
        a: &[[A; FEW_STEPS]],
        b: &[[B; FEW_STEPS]],
        every_few: impl FnMut(),
    ) -> [[__m512; B_ROWS]; ROWS] {
        // SAFETY: this function is compiled for the instructions.
        unsafe { sums(a, b, every_few, |a, b, sum| _mm512_fmadd_ps(a, b, sum)) }
    }
}

/// The sums of [`Form::product`], to which `multiply_add` adds what a lane of `a` and one of `b` come to.
///
/// # Safety
/// The caller is compiled for AVX-512 F, BW and VL.
#[allow(clippy::inline_always)] // What is not inlined is not compiled for the instructions.
#[inline(always)]
pub(super) unsafe fn sums<const ROWS: usize>(
    a: &[[A; FEW_STEPS]],
    b: &[[B; FEW_STEPS]],
    mut every_few: impl FnMut(),
    multiply_add: impl Fn(__m512, __m512, __m512) -> __m512,
) -> [[__m512; B_ROWS]; ROWS] {
    // SAFETY: the caller says so; a row has 64 bytes.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); B_ROWS]; ROWS];
        for (a, b) in a.iter().zip(b) {
            every_few();
            for ([a], b) in a.iter().zip(b) {
                _mm_prefetch::<_MM_HINT_T0>(ptr::from_ref(a).wrapping_add(STEPS_AHEAD).cast());
                for row in b {
                    let row = ptr::from_ref(row).wrapping_add(B_ROWS * STEPS_AHEAD);
                    _mm_prefetch::<_MM_HINT_T0>(row.cast());
                }
                let b = b.map(|row| _mm512_loadu_ps(row.0.as_ptr()));
                for (sums, &a) in sums.iter_mut().zip(&a.0) {
                    let a = _mm512_set1_ps(a);
                    for (sum, &b) in sums.iter_mut().zip(&b) {
                        *sum = multiply_add(a, b, *sum);
                    }
                }
            }
        }
        sums
    }
}

/// Packs the rows of `lines`. What a panel has for more lines is not looked at.
///
/// The processor must have AVX-512 F, BW and VL.
///
/// # Panics
/// If the panel has another number of steps, or not enough lines.
pub(super) fn pack<T: Lanes, F: Form<T>, const REGISTERS: usize>(
    lines: Matrix<'_, T>,
    panel: &mut [[Row; REGISTERS]],
) {
    assert!(panel.len() * F::NUMBERS == padded(lines.columns));
    assert!(lines.rows <= REGISTERS * LANES);
    if lines.has_dense_rows() {
        for register in 0..lines.rows.div_ceil(LANES) {
            let start = register * LANES;
            let part = lines.rows(start, LANES.min(lines.rows - start));
            // SAFETY: the caller has found the instructions.
            unsafe { pack_along::<T, F, REGISTERS>(part, panel, register) };
        }
        return;
    }
    let across = lines.transposed();
    let (steps, rest) = panel.split_at_mut(lines.columns.div_ceil(F::NUMBERS));
    if across.has_dense_rows() {
        // SAFETY: the caller has found the instructions.
        unsafe { pack_across::<T, F, REGISTERS>(across, steps) };
    } else {
        for (i, step) in steps.iter_mut().enumerate() {
            let places = step.iter_mut().flat_map(|row| &mut row.0);
            for (line, place) in places.enumerate().take(lines.rows) {
                *place = F::get(lines, line, i);
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
unsafe fn pack_along<T: Lanes, F: Form<T>, const REGISTERS: usize>(
    lines: Matrix<'_, T>,
    panel: &mut [[Row; REGISTERS]],
    register: usize,
) {
    assert!(register < REGISTERS);
    // Lines that are not there are the last one once more.
    let mut lines_left: [*const T; LANES] =
        std::array::from_fn(|i| lines.dense_row(i.min(lines.rows - 1)).as_ptr());
    for (block, steps) in panel.chunks_mut(F::TOGETHER / F::NUMBERS).enumerate() {
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
        unsafe { F::transpose(lines_left, lines.columns - block * F::TOGETHER, put) };
        for line in &mut lines_left {
            *line = line.wrapping_add(F::TOGETHER);
        }
    }
}

/// Packs steps whose lines are neighbours.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_across<T: Lanes, F: Form<T>, const REGISTERS: usize>(
    across: Matrix<'_, T>,
    panel: &mut [[Row; REGISTERS]],
) {
    let masks: [u16; REGISTERS] =
        std::array::from_fn(|i| mask(across.columns.saturating_sub(i * LANES)));
    for (i, step) in panel.iter_mut().enumerate() {
        for (register, (row, mask)) in step.iter_mut().zip(masks).enumerate() {
            // SAFETY: the mask covers lines; a row has 64 bytes.
            unsafe {
                let x = F::load(across, i, register * LANES, mask);
                _mm512_storeu_ps(row.0.as_mut_ptr(), x);
            }
        }
    }
}
