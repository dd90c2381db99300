//! What all cores together reach at most. The other benchmarks are shares of these.

use criterion::{Criterion, Throughput};
use graft_kernels::limits;

const MULTIPLY_ADDS: usize = 1_000_000_000;
/// Bytes, far more than the caches hold.
const MEMORY: usize = 1 << 30;

pub(crate) fn limits(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit");
    group.sample_size(10);
    // Two operations each, so that criterion's elements per second are FLOP/s.
    let operations = 2 * MULTIPLY_ADDS * limits::threads();
    group.throughput(Throughput::Elements(operations as u64));
    group.bench_function("f32", |bencher| bencher.iter(|| limits::multiply_add(MULTIPLY_ADDS)));
    let numbers = vec![1.0_f32; MEMORY / 4];
    group.throughput(Throughput::Bytes(MEMORY as u64));
    group.bench_function("read", |bencher| bencher.iter(|| limits::read(&numbers)));
    group.finish();
}
