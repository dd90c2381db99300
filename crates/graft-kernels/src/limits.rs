//! What all cores together reach at most, to measure other work by: multiplications and additions
//! in registers, and reads of memory.
// What is not inlined is compiled without the vector instructions chosen at run time.
#![allow(clippy::inline_always)]

use std::hint::black_box;

use pulp::{Simd, WithSimd};

use crate::isa;
use crate::tasks;

/// Independent sums: enough to hide the latency, few enough to stay in registers.
const SUMS: usize = 12;

/// Does so many multiplications and additions, in registers.
struct MultiplyAdd(usize);

impl WithSimd for MultiplyAdd {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (a, b) = black_box((0.999, 0.001));
        let (a, b) = (simd.splat_f32s(a), simd.splat_f32s(b));
        let mut sums = [simd.splat_f32s(1.0); SUMS];
        for _ in 0..self.0 / (SUMS * S::F32_LANES) {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, a, b);
            }
        }
        let total = sums.into_iter().fold(simd.splat_f32s(0.0), |x, y| simd.add_f32s(x, y));
        simd.reduce_sum_f32s(total)
    }
}

/// Reads the numbers, and adds them up.
struct Read<'a>(&'a [f32]);

impl WithSimd for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (vectors, _) = S::as_simd_f32s(self.0);
        let mut sums = [simd.splat_f32s(0.0); SUMS];
        for chunk in vectors.chunks_exact(SUMS) {
            for (sum, vector) in sums.iter_mut().zip(chunk) {
                *sum = simd.add_f32s(*sum, *vector);
            }
        }
        let total = sums.into_iter().fold(simd.splat_f32s(0.0), |x, y| simd.add_f32s(x, y));
        simd.reduce_sum_f32s(total)
    }
}

/// The number of threads that the kernels run on: `RAYON_NUM_THREADS`, or as many as the machine's
/// cores, a container's quota and the process's affinity allow.
///
/// ```
/// assert!(graft_kernels::limits::threads() >= 1);
/// ```
pub fn threads() -> usize {
    tasks::threads()
}

/// Does `count` multiplications and additions of `float32` on every thread, in registers: two
/// operations each, the most that a processor does without instructions for matrices.
///
/// ```
/// graft_kernels::limits::multiply_add(1_000_000);
/// ```
pub fn multiply_add(count: usize) {
    let arch = isa::arch();
    tasks::for_each(tasks::threads(), true, |_, (): &mut ()| {
        black_box(arch.dispatch(MultiplyAdd(count)));
    });
}

/// Reads all numbers, each thread a part of them. Of numbers that the caches do not hold this takes
/// as long as the memory does.
///
/// ```
/// graft_kernels::limits::read(&[1.0; 1000]);
/// ```
pub fn read(numbers: &[f32]) {
    let arch = isa::arch();
    let part = numbers.len().div_ceil(4 * tasks::threads()).max(1);
    tasks::for_each_item(numbers.chunks(part), true, |_, part, (): &mut ()| {
        black_box(arch.dispatch(Read(black_box(part))));
    });
}
