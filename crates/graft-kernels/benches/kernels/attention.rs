//! Attention over lengths, forward, with its gradients, and for one token, against MLX's own.
//!
//! Products of many queries are measured in operations per second, without those that the causal
//! mask hides; a single query in bytes of keys and values per second.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use graft_kernels::{Mask, scaled_dot_product_attention};
use mlx_graft::fast::{self, ScaledDotProductAttentionOptions};
use mlx_graft::transforms::{self, value_and_grad};
use mlx_graft::{Array, Dtype, Result, ops};

use crate::numbers::numbers;

const HEADS: i32 = 12;
const DIM: i32 = 64;
const SCALE: f32 = 0.125;

type Attention = fn(&Array, &Array, &Array) -> Result<Array>;

fn graft(q: &Array, k: &Array, v: &Array) -> Result<Array> {
    scaled_dot_product_attention(q, k, v, SCALE, Mask::Causal)
}

fn mlx(q: &Array, k: &Array, v: &Array) -> Result<Array> {
    let options = ScaledDotProductAttentionOptions::default().mask_mode("causal");
    fast::scaled_dot_product_attention(q, k, v, SCALE, &options)
}

/// Arrays `(B, H, T, D)`.
fn operands(rows: i32, queries: i32, keys: i32, dtype: Dtype) -> Result<[Array; 3]> {
    let make = |seed, length| ops::astype(&numbers(seed, &[rows, HEADS, length, DIM])?, dtype);
    let operands = [make(1, queries)?, make(2, keys)?, make(3, keys)?];
    transforms::eval(&operands)?;
    Ok(operands)
}

fn gradients(attention: Attention, inputs: &[Array]) -> Result<Vec<Array>> {
    let loss = move |x: &[Array]| Ok(vec![ops::sum(&attention(&x[0], &x[1], &x[2])?, false)?]);
    Ok(value_and_grad(loss, &[0, 1, 2], inputs)?.1)
}

pub(crate) fn attention(c: &mut Criterion) -> Result<()> {
    let ways: [(&str, Attention); 2] = [("graft", graft), ("mlx", mlx)];
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        for (rows, length) in [(4, 256), (1, 1024), (1, 2048)] {
            let inputs = operands(rows, length, length, dtype)?;
            // Half of the products of queries and keys, and as many of weights and values.
            let products = 2 * (rows * HEADS * DIM) as u64 * (length as u64).pow(2);
            for (name, factor) in [("forward", 1.0), ("gradients", 3.5)] {
                let name = format!("attention {dtype} {rows}x{length} {name}");
                let mut group = c.benchmark_group(name);
                group.sample_size(10);
                group.throughput(Throughput::Elements((products as f64 * factor) as u64));
                for (who, attention) in ways {
                    group.bench_function(who, |bencher| {
                        bencher.iter(|| {
                            let [q, k, v] = &inputs;
                            let outputs = if factor > 1.0 {
                                gradients(attention, &inputs)
                            } else {
                                attention(q, k, v).map(|x| vec![x])
                            };
                            transforms::eval(&outputs.expect("shapes that fit")).expect("numbers");
                        });
                    });
                }
            }
        }
        let [q, k, v] = operands(1, 1, 2048, dtype)?;
        let mut group = c.benchmark_group(format!("attention {dtype} one token of 2048"));
        group.sample_size(10);
        group.throughput(Throughput::Bytes((k.nbytes() + v.nbytes()) as u64));
        for (who, attention) in ways {
            group.bench_function(who, |bencher| {
                bencher.iter(|| {
                    let out = attention(black_box(&q), &k, &v).expect("shapes that fit");
                    out.eval().expect("numbers");
                });
            });
        }
    }
    Ok(())
}
