//! Products with quantized matrices of a transformer's layers, against the product of the same
//! shape in float32 and, for few rows, MLX's own operation.
//!
//! Products with many rows are measured in operations per second, those with few rows, which are
//! bound by the memory, in packed bytes per second.

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use mlx_graft::ops::{QuantizeOptions, QuantizedMatmulOptions};
use mlx_graft::{Array, Dtype, Result, ops};

type Multiply = fn(&Array, &Array, &Array, &QuantizedMatmulOptions<'_>) -> Result<Array>;

/// Evenly spread numbers in [-1, 1).
fn numbers(shape: &[i32], dtype: Dtype) -> Array {
    crate::numbers::numbers(1, shape)
        .and_then(|x| ops::astype(&x, dtype))
        .expect("an array of as many values as the shape says")
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, who: &str, f: impl Fn() -> Result<Array>) {
    group.sample_size(10);
    group.bench_function(who, |bencher| {
        bencher.iter(|| black_box(f().expect("shapes that fit")).eval().expect("a product"));
    });
}

pub(crate) fn quantized_matmul(c: &mut Criterion) {
    let formats = [
        ("affine", 4, 64),
        ("affine", 8, 64),
        ("affine", 3, 64),
        ("mxfp4", 4, 32),
        ("mxfp8", 8, 32),
    ];
    for (mode, bits, group_size) in formats {
        // Of float32 the one format that most models have.
        let dtypes = if (mode, bits) == ("affine", 4) { 2 } else { 1 };
        for dtype in [Dtype::Bfloat16, Dtype::Float32].into_iter().take(dtypes) {
            for (n, k) in [(2048, 768), (16_000, 768)] {
                let w = numbers(&[n, k], dtype);
                let options = QuantizeOptions::default();
                let options = options.group_size(group_size).bits(bits).mode(mode);
                let packed = ops::quantize(&w, &options).expect("whole groups");
                for (rows, transpose) in [(1, true), (4, true), (512, true), (512, false)] {
                    let x = numbers(&[rows, if transpose { k } else { n }], dtype);
                    let name = format!(
                        "{mode} {bits} bits {dtype} {rows} rows @ {n}x{k}{}",
                        if transpose { "T" } else { "" }
                    );
                    let mut group = c.benchmark_group(name);
                    group.throughput(if rows > 4 {
                        Throughput::Elements(
                            [2, rows, n, k].iter().map(|&size| size as u64).product(),
                        )
                    } else {
                        Throughput::Bytes(packed.iter().map(|x| x.nbytes() as u64).sum())
                    });
                    let options = QuantizedMatmulOptions::default().biases(packed.get(2));
                    let options = options.group_size(group_size).bits(bits).mode(mode);
                    let by = |multiply: Multiply| {
                        multiply(&x, &packed[0], &packed[1], &options.transpose(transpose))
                    };
                    measure(&mut group, "graft", || by(graft_kernels::quantized_matmul));
                    let turned = if transpose { ops::transpose(&w) } else { Ok(w.clone()) };
                    let turned = turned.expect("two dimensions");
                    measure(&mut group, "unpacked", || graft_kernels::matmul(&x, &turned));
                    if rows == 1 {
                        measure(&mut group, "mlx", || by(ops::quantized_matmul));
                    }
                }
            }
        }
    }
}
