//! The operations on rows, in bytes read and written per second, against MLX's own.

use criterion::{Criterion, Throughput};
use graft_kernels::Rope;
use mlx_graft::fast::{self, RopeOptions};
use mlx_graft::{Array, Dtype, Result, ops};

use crate::numbers::numbers;

type Operation<'a> = Box<dyn Fn() -> Result<Array> + 'a>;

const ROPE: Rope =
    Rope { dims: 64, traditional: false, base: Some(10_000.0), scale: 1.0, offset: 0 };

/// Measures an operation on `inputs`, here and in MLX: the time to build and to evaluate it, for the
/// bytes of these and of its output.
fn compare(c: &mut Criterion, name: &str, inputs: &[&Array], ways: [Operation<'_>; 2]) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    let output = ways[0]().expect("shapes that fit");
    let bytes = inputs.iter().copied().chain([&output]).map(|x| x.nbytes() as u64).sum();
    group.throughput(Throughput::Bytes(bytes));
    for (who, operation) in ["graft", "mlx"].into_iter().zip(ways) {
        group.bench_function(who, |bencher| {
            bencher.iter(|| operation().expect("shapes that fit").eval().expect("numbers"));
        });
    }
}

/// Numbers that are computed already.
fn ready(seed: u32, shape: &[i32], dtype: Dtype) -> Result<Array> {
    let x = ops::astype(&numbers(seed, shape)?, dtype)?;
    x.eval()?;
    Ok(x)
}

pub(crate) fn rows(c: &mut Criterion) -> Result<()> {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        for (rows, width) in [(1024, 768), (1024, 2048), (64, 32_000)] {
            let named = |name: &str| format!("{name} {dtype} {rows}x{width}");
            let (x, y) = (ready(1, &[rows, width], dtype)?, ready(2, &[rows, width], dtype)?);
            let weight = ready(3, &[width], dtype)?;
            let targets: Vec<i32> = (0..rows).map(|row| row % width).collect();
            let targets = Array::from_slice(&targets, &[rows])?;
            compare(
                c,
                &named("softmax"),
                &[&x],
                [
                    Box::new(|| graft_kernels::softmax(&x)),
                    Box::new(|| ops::softmax_axis(&x, -1, true)),
                ],
            );
            compare(
                c,
                &named("logsumexp"),
                &[&x],
                [
                    Box::new(|| graft_kernels::logsumexp(&x, false)),
                    Box::new(|| ops::logsumexp_axis(&x, -1, false)),
                ],
            );
            compare(
                c,
                &named("rms_norm"),
                &[&x],
                [
                    Box::new(|| graft_kernels::rms_norm(&x, Some(&weight), 1e-5)),
                    Box::new(|| fast::rms_norm(&x, Some(&weight), 1e-5)),
                ],
            );
            compare(
                c,
                &named("swiglu"),
                &[&x, &y],
                [
                    Box::new(|| graft_kernels::swiglu(&x, &y)),
                    Box::new(|| ops::multiply(&ops::multiply(&x, &ops::sigmoid(&x)?)?, &y)),
                ],
            );
            compare(
                c,
                &named("cross_entropy"),
                &[&x],
                [
                    Box::new(|| graft_kernels::cross_entropy(&x, &targets)),
                    Box::new(|| {
                        let at = ops::expand_dims(&targets, -1)?;
                        let score = ops::squeeze_axis(&ops::take_along_axis(&x, &at, -1)?, -1)?;
                        ops::subtract(&ops::logsumexp_axis(&x, -1, false)?, &score)
                    }),
                ],
            );
        }
        let x = ready(1, &[4, 12, 256, 64], dtype)?;
        let Rope { dims, traditional, base, scale, offset } = ROPE;
        let options = RopeOptions::default().traditional(traditional).base(base).scale(scale);
        compare(
            c,
            &format!("rope {dtype} 4x12x256x64"),
            &[&x],
            [
                Box::new(|| graft_kernels::rope(&x, ROPE, None)),
                Box::new(|| fast::rope(&x, dims, offset, &options)),
            ],
        );
    }
    Ok(())
}
