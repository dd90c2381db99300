//! Matrix products of a transformer layer and of its gradients, against MLX's own operation.
//!
//! The environment variable `OPENBLAS_CORETYPE` makes MLX slower where it names an older core.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use mlx_graft::{Array, Result, ops};

type Matmul = fn(&Array, &Array) -> Result<Array>;

/// Evenly spread numbers in [-1, 1).
fn numbers(shape: &[i32]) -> Array {
    crate::numbers::numbers(1, shape).expect("an array of as many values as the shape says")
}

/// An array whose last two dimensions are swapped in memory.
fn transposed(shape: &[i32]) -> Array {
    let x = numbers(shape);
    ops::swapaxes(&x, -1, -2).expect("an array of two dimensions or more")
}

pub(crate) fn matmul(c: &mut Criterion) {
    let cases = [
        ("forward 512x768 @ (2048x768)T", numbers(&[512, 768]), transposed(&[2048, 768])),
        ("input gradient 512x2048 @ 2048x768", numbers(&[512, 2048]), numbers(&[2048, 768])),
        ("weight gradient (512x2048)T @ 512x768", transposed(&[512, 2048]), numbers(&[512, 768])),
        ("lora down 512x768 @ 768x8", numbers(&[512, 768]), numbers(&[768, 8])),
        ("lora up 512x8 @ 8x2048", numbers(&[512, 8]), numbers(&[8, 2048])),
        (
            "scores 4x12x128x64 @ (4x12x128x64)T",
            numbers(&[4, 12, 128, 64]),
            transposed(&[4, 12, 128, 64]),
        ),
        ("token 1x768 @ (2048x768)T", numbers(&[1, 768]), transposed(&[2048, 768])),
        ("token 1x768 @ (32000x768)T", numbers(&[1, 768]), transposed(&[32_000, 768])),
        ("token 1x2048 @ 2048x768", numbers(&[1, 2048]), numbers(&[2048, 768])),
        ("4 tokens 4x768 @ (2048x768)T", numbers(&[4, 768]), transposed(&[2048, 768])),
        ("small 16x16 @ 16x16", numbers(&[16, 16]), numbers(&[16, 16])),
    ];
    for (name, a, b) in cases {
        let product = ops::matmul(&a, &b).expect("shapes that fit");
        let mut group = c.benchmark_group(name);
        // Two operations each, so that criterion's elements per second are FLOP/s.
        let inner = a.shape()[a.ndim() - 1] as u64;
        group.throughput(Throughput::Elements(2 * product.size() as u64 * inner));
        for (who, matmul) in [("graft", graft_kernels::matmul as Matmul), ("mlx", ops::matmul)] {
            group.sample_size(10);
            group.bench_function(who, |bencher| {
                bencher.iter(|| {
                    let product = matmul(black_box(&a), black_box(&b)).expect("shapes that fit");
                    product.eval().expect("a product");
                });
            });
        }
    }
}
