//! Operations with each instruction set that this processor has, in processes of their own, as the
//! choice is made once.

use std::process::Command;

use mlx_graft::{Array, Dtype, Result, fast, ops, random};

/// What a child process multiplies; on its own it takes what is fastest.
#[test]
fn products() -> Result<()> {
    let options = random::LocScaleOptions::default();
    let normal = |seed: u64, shape: &[i32]| -> Result<Array> {
        let key = random::key(seed)?;
        random::normal(shape, &options.key(&key))
    };
    let close = |found: &Array, wanted: &Array, bound: f32| -> Result<()> {
        let difference = ops::abs(&ops::subtract(&ops::astype(found, Dtype::Float32)?, wanted)?)?;
        let most: f32 = ops::max(&difference, false)?.item()?;
        let scale: f32 = ops::max(&ops::abs(wanted)?, false)?.item()?;
        assert!(most <= bound * scale, "{most} of {scale}");
        Ok(())
    };
    for rows in [1, 3, 7, 40, 150] {
        let (x, weight) = (normal(1, &[rows, 320])?, normal(2, &[96, 320])?);
        for (dtype, bound) in
            [(Dtype::Float32, 1e-5), (Dtype::Bfloat16, 1e-2), (Dtype::Float16, 2e-3)]
        {
            // The numbers that the kernels read, so that only sums differ.
            let (x, weight) = (ops::astype(&x, dtype)?, ops::astype(&weight, dtype)?);
            let wide = |a: &Array| ops::astype(a, Dtype::Float32);
            let wanted = ops::matmul(&wide(&x)?, &ops::swapaxes(&wide(&weight)?, 0, 1)?)?;
            let found = graft_kernels::matmul(&x, &ops::swapaxes(&weight, 0, 1)?)?;
            assert_eq!(found.dtype(), dtype);
            close(&found, &wanted, bound)?;
            for found in graft_kernels::linear_each(&x, &[&weight, &weight])? {
                assert_eq!(found.dtype(), dtype);
                close(&found, &wanted, bound)?;
            }

            for bits in [2, 3, 4, 8] {
                let options = ops::QuantizeOptions::default().group_size(32).bits(bits);
                let parts = ops::quantize(&weight, &options)?;
                let form = ops::DequantizeOptions::default().group_size(32).bits(bits);
                let plain = ops::dequantize(&parts[0], &parts[1], &form.biases(&parts[2]))?;
                let wanted = ops::matmul(&wide(&x)?, &ops::swapaxes(&wide(&plain)?, 0, 1)?)?;
                let options = ops::QuantizedMatmulOptions::default()
                    .biases(&parts[2])
                    .group_size(32)
                    .bits(bits);
                let found = graft_kernels::quantized_matmul(&x, &parts[0], &parts[1], &options)?;
                close(&found, &wanted, bound)?;
            }
        }
    }
    Ok(())
}

/// What a child process computes row by row, and attention.
#[test]
fn rows() -> Result<()> {
    let close = |found: &Array, wanted: &Array| -> Result<()> {
        assert!(ops::allclose(found, wanted, 1e-4, 1e-5, false)?.item::<bool>()?);
        Ok(())
    };
    let options = random::LocScaleOptions::default();
    for length in [1, 19, 64] {
        let shape = [2, 4, length, 40];
        let x = random::normal(&shape, &options.key(&random::key(1)?))?;
        let weight = random::normal(&[40], &options.key(&random::key(2)?))?;
        close(&graft_kernels::softmax(&x)?, &ops::softmax_axis(&x, -1, true)?)?;
        let norm = graft_kernels::rms_norm(&x, Some(&weight), 1e-5)?;
        close(&norm, &fast::rms_norm(&x, Some(&weight), 1e-5)?)?;
        let rope = graft_kernels::Rope {
            dims: 40,
            traditional: false,
            base: Some(1e4),
            scale: 1.0,
            offset: 3,
        };
        let options = fast::RopeOptions::default().base(1e4);
        close(&graft_kernels::rope(&x, rope, None)?, &fast::rope(&x, 40, 3, &options)?)?;
        let keys = random::normal(&[2, 2, 64, 40], &random::LocScaleOptions::default())?;
        let mask = graft_kernels::Mask::Causal;
        let found = graft_kernels::scaled_dot_product_attention(&x, &keys, &keys, 0.2, mask)?;
        let options = fast::ScaledDotProductAttentionOptions::default().mask_mode("causal");
        let wanted = fast::scaled_dot_product_attention(&x, &keys, &keys, 0.2, &options)?;
        close(&found, &wanted)?;
    }
    Ok(())
}

/// Runs a test in a process with `GRAFT_MAX_ISA`, and returns what it printed.
fn with_isa(isa: &str, test: &str) -> (bool, String) {
    let program = std::env::current_exe().expect("the test has a path");
    let out = Command::new(program)
        .args([test, "--exact", "--nocapture"])
        .env("GRAFT_MAX_ISA", isa)
        .output()
        .expect("the test runs once more");
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    (out.status.success(), text.into_owned())
}

#[test]
fn each_instruction_set() {
    let sets = ["portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"];
    for (isa, test) in sets.into_iter().flat_map(|isa| [(isa, "products"), (isa, "rows")]) {
        let (succeeded, text) = with_isa(isa, test);
        if text.contains("this processor lacks it") {
            assert!(!succeeded && isa.starts_with("avx"));
            eprintln!("skipped: this processor lacks {isa}");
        } else {
            assert!(succeeded, "{isa}: {text}");
            assert!(text.contains("1 passed"), "{isa}: {text}");
        }
    }
}

/// What a child process without kernels computes; on its own it starts that.
#[test]
fn without_kernels_all_is_left_to_mlx() -> Result<()> {
    if graft_kernels::is_active()? {
        let (succeeded, text) = with_isa("none", "without_kernels_all_is_left_to_mlx");
        assert!(succeeded && text.contains("1 passed"), "{text}");
        return Ok(());
    }
    let key = random::key(1)?;
    let options = random::LocScaleOptions::default();
    let x = random::normal(&[40, 320], &options.dtype(Dtype::Bfloat16).key(&key))?;
    let turned = ops::swapaxes(&x, 0, 1)?;
    for (found, wanted) in [
        (graft_kernels::matmul(&x, &turned)?, ops::matmul(&x, &turned)?),
        (graft_kernels::softmax(&x)?, ops::softmax_axis(&x, -1, true)?),
        (graft_kernels::logsumexp(&x, true)?, ops::logsumexp_axis(&x, -1, true)?),
    ] {
        assert!(ops::array_equal(&found, &wanted, false)?.item::<bool>()?);
    }
    Ok(())
}

#[test]
fn an_unknown_set_is_an_error_that_names_those_known() {
    let (succeeded, text) = with_isa("avx1024", "products");
    assert!(!succeeded);
    for part in ["GRAFT_MAX_ISA", "avx1024", "portable"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
