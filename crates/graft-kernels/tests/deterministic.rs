//! For one number of threads results repeat bit for bit, whichever thread takes which task.

#[allow(dead_code)] // of what the tests share, a part
mod common;

use common::numbers;
use graft_kernels::Mask;
use mlx_graft::ops::{QuantizeOptions, QuantizedMatmulOptions};
use mlx_graft::{Array, Dtype, Result, ops, transforms};

const TURNS: usize = 12;

/// Computes arrays anew a few times, and compares all bits.
#[track_caller]
fn check(name: &str, dtype: Dtype, compute: impl Fn() -> Result<Vec<Array>>) -> Result<()> {
    let bits = || -> Result<Vec<u32>> {
        let mut bits = Vec::new();
        for array in compute()? {
            // Every number of 16 bits is one of 32.
            let wide = ops::contiguous(&ops::astype(&array, Dtype::Float32)?, false)?;
            bits.extend(wide.to_vec::<f32>()?.iter().map(|x| x.to_bits()));
        }
        Ok(bits)
    };
    let first = bits()?;
    assert!(!first.is_empty());
    for turn in 1..TURNS {
        assert!(bits()? == first, "{name} of {dtype}, turn {turn}");
    }
    Ok(())
}

fn ready(seed: u32, shape: &[i32], dtype: Dtype) -> Result<Array> {
    let x = ops::astype(&numbers(seed, shape)?, dtype)?;
    x.eval()?;
    Ok(x)
}

const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16];

#[test]
fn products_repeat() -> Result<()> {
    for dtype in DTYPES {
        for rows in [1, 5, 300, 1100] {
            let (x, w) = (ready(1, &[rows, 700], dtype)?, ready(2, &[900, 700], dtype)?);
            let turned = ops::swapaxes(&w, 0, 1)?;
            check("x @ w.T", dtype, || Ok(vec![graft_kernels::matmul(&x, &turned)?]))?;
            let few = ready(4, &[100, 700], dtype)?;
            check("each", dtype, || graft_kernels::linear_each(&x, &[&w, &few]))?;
            let g = ready(3, &[rows, 900], dtype)?;
            check("g @ w", dtype, || Ok(vec![graft_kernels::matmul(&g, &w)?]))?;
            let across = ops::swapaxes(&g, 0, 1)?;
            check("g.T @ x", dtype, || Ok(vec![graft_kernels::matmul(&across, &x)?]))?;
        }
    }
    Ok(())
}

#[test]
fn packed_products_repeat() -> Result<()> {
    for dtype in DTYPES {
        for bits in [3, 4, 8] {
            let w = ready(1, &[1500, 768], dtype)?;
            let parts = ops::quantize(&w, &QuantizeOptions::default().bits(bits))?;
            transforms::eval(&parts)?;
            let options = QuantizedMatmulOptions::default().bits(bits).biases(&parts[2]);
            for rows in [1, 6, 150] {
                let (x, g) = (ready(2, &[rows, 768], dtype)?, ready(3, &[rows, 1500], dtype)?);
                let multiply = |x: &Array, options: &QuantizedMatmulOptions<'_>| {
                    Ok(vec![graft_kernels::quantized_matmul(x, &parts[0], &parts[1], options)?])
                };
                check("x @ w.T", dtype, || multiply(&x, &options))?;
                check("g @ w", dtype, || multiply(&g, &options.transpose(false)))?;
            }
        }
    }
    Ok(())
}

#[test]
fn attention_repeats() -> Result<()> {
    for dtype in DTYPES {
        // As many tasks of the derivative as threads, or fewer.
        for ([batch, heads, groups], queries) in
            [([2, 6, 3], 1), ([2, 6, 3], 200), ([1, 2, 1], 200)]
        {
            let q = ready(1, &[batch, heads, queries, 32], dtype)?;
            let shared = |seed| ready(seed, &[batch, groups, 200, 32], dtype);
            let (k, v) = (shared(2)?, shared(3)?);
            let attend = |x: &[Array]| {
                graft_kernels::scaled_dot_product_attention(&x[0], &x[1], &x[2], 0.2, Mask::Causal)
            };
            check("attention and its gradients", dtype, || {
                let inputs = [q.clone(), k.clone(), v.clone()];
                let sum = move |x: &[Array]| {
                    Ok(vec![ops::sum(&ops::astype(&attend(x)?, Dtype::Float32)?, false)?])
                };
                let (mut found, gradients) = transforms::value_and_grad(sum, &[0, 1, 2], &inputs)?;
                found.extend(gradients);
                found.push(attend(&inputs)?);
                Ok(found)
            })?;
        }
    }
    Ok(())
}

#[test]
fn rows_repeat() -> Result<()> {
    let targets = ops::arange(0.0, 300.0, 1.0, Dtype::Int32)?;
    for dtype in DTYPES {
        let (x, y) = (ready(1, &[300, 2000], dtype)?, ready(2, &[300, 2000], dtype)?);
        let weight = ready(3, &[2000], dtype)?;
        check("rows", dtype, || {
            Ok(vec![
                graft_kernels::softmax(&x)?,
                graft_kernels::logsumexp(&x, false)?,
                graft_kernels::rms_norm(&x, Some(&weight), 1e-5)?,
                graft_kernels::layer_norm(&x, Some(&weight), None, 1e-5)?,
                graft_kernels::swiglu(&x, &y)?,
                graft_kernels::cross_entropy(&x, &targets)?,
            ])
        })?;
    }
    Ok(())
}
