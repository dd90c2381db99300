//! Products of a mixture of experts, of which each token meets eight, against MLX's own operation,
//! which multiplies one row after the other.
//!
//! Products with many tokens are measured in operations per second, those of one token, which are
//! bound by the memory, in bytes of weights per second.

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use mlx_graft::ops::{GatherQmmOptions, QuantizeOptions};
use mlx_graft::{Array, Dtype, Result, ops};

use crate::numbers::numbers;

const EXPERTS: i32 = 32;
const PER_TOKEN: i32 = 8;
/// Rows and columns of an expert.
const SIZE: [i32; 2] = [1024, 768];

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, who: &str, f: impl Fn() -> Result<Array>) {
    group.sample_size(10);
    group.bench_function(who, |bencher| {
        bencher.iter(|| black_box(f().expect("shapes that fit")).eval().expect("a product"));
    });
}

/// The tokens, and the experts of each, all of which are different.
fn tokens(count: i32, dtype: Dtype) -> Result<[Array; 2]> {
    let x = ops::astype(&numbers(1, &[count, 1, 1, SIZE[1]])?, dtype)?;
    let number = |i: i32| (i / PER_TOKEN * 7 + i % PER_TOKEN * 3) % EXPERTS;
    let experts: Vec<i32> = (0..count * PER_TOKEN).map(number).collect();
    Ok([x, Array::from_slice(&experts, &[count, PER_TOKEN])?])
}

/// What a product of so many tokens does, with experts of so many bytes together.
fn throughput(count: i32, bytes: usize) -> Throughput {
    if count > 1 {
        let sizes = [count, PER_TOKEN, SIZE[0], SIZE[1]].map(|size| size as u64);
        Throughput::Elements(2 * sizes.iter().product::<u64>())
    } else {
        Throughput::Bytes((bytes / EXPERTS as usize * PER_TOKEN as usize) as u64)
    }
}

fn dense(c: &mut Criterion, count: i32, dtype: Dtype) -> Result<()> {
    let [x, experts] = tokens(count, dtype)?;
    let w = ops::astype(&numbers(2, &[EXPERTS, SIZE[0], SIZE[1]])?, dtype)?;
    w.eval()?;
    let turned = ops::swapaxes(&w, -1, -2)?;
    let mut group = c.benchmark_group(format!("experts {dtype} {count} tokens"));
    group.throughput(throughput(count, w.nbytes()));
    measure(&mut group, "graft", || {
        graft_kernels::gather_mm(&x, &turned, None, Some(&experts), false)
    });
    // MLX knows no other dtype.
    if dtype == Dtype::Float32 {
        measure(&mut group, "mlx", || ops::gather_mm(&x, &turned, None, Some(&experts), false));
    }
    Ok(())
}

fn packed(c: &mut Criterion, count: i32, dtype: Dtype, bits: i32) -> Result<()> {
    let [x, experts] = tokens(count, dtype)?;
    let w = ops::astype(&numbers(2, &[EXPERTS, SIZE[0], SIZE[1]])?, dtype)?;
    let packed = ops::quantize(&w, &QuantizeOptions::default().bits(bits))?;
    for x in &packed {
        x.eval()?;
    }
    let mut group = c.benchmark_group(format!("experts {bits} bits {dtype} {count} tokens"));
    group.throughput(throughput(count, packed.iter().map(Array::nbytes).sum()));
    let options = GatherQmmOptions::default().biases(&packed[2]).rhs_indices(&experts).bits(bits);
    measure(&mut group, "graft", || {
        graft_kernels::gather_qmm(&x, &packed[0], &packed[1], &options)
    });
    if count == 1 {
        measure(&mut group, "mlx", || ops::gather_qmm(&x, &packed[0], &packed[1], &options));
    }
    Ok(())
}

pub(crate) fn gather(c: &mut Criterion) -> Result<()> {
    for count in [1, 512] {
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            dense(c, count, dtype)?;
            packed(c, count, dtype, 4)?;
            packed(c, count, dtype, 8)?;
        }
    }
    Ok(())
}
