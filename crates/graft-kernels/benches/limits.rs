//! What all cores together reach at most: fused multiplications and additions in registers, and
//! reads of memory. The other benchmarks are shares of these.
// What is not inlined is compiled without the vector instructions chosen at run time.
#![allow(clippy::inline_always)]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use pulp::{Arch, Simd, WithSimd};

/// Independent sums: enough to hide the latency, few enough to stay in registers.
const SUMS: usize = 12;
const MULTIPLY_ADDS: usize = 1_000_000_000;
/// Bytes, far more than the caches hold.
const MEMORY: usize = 1 << 30;

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

fn multiply_add() {
    let arch = Arch::new();
    rayon::broadcast(|_| black_box(arch.dispatch(MultiplyAdd(MULTIPLY_ADDS))));
}

fn read(numbers: &[f32]) {
    let arch = Arch::new();
    rayon::broadcast(|context| {
        let part = numbers.len() / context.num_threads();
        let from = context.index() * part;
        black_box(arch.dispatch(Read(&numbers[from..from + part])))
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("limit");
    group.sample_size(10);
    // Two operations each, so that criterion's elements per second are FLOP/s.
    let operations = 2 * MULTIPLY_ADDS * rayon::current_num_threads();
    group.throughput(Throughput::Elements(operations as u64));
    group.bench_function("f32", |bencher| bencher.iter(multiply_add));
    let numbers = vec![1.0_f32; MEMORY / 4];
    group.throughput(Throughput::Bytes(MEMORY as u64));
    group.bench_function("read", |bencher| bencher.iter(|| read(black_box(&numbers))));
    group.finish();
    criterion.final_summary();
}
