//! The options of functions with many optional arguments: their defaults, and how they are set.
//! That each option reaches the C function is tested from Python, against `mlx.core`.

use mlx_graft::fast::{RopeOptions, ScaledDotProductAttentionOptions};
use mlx_graft::ops::{
    Conv2dOptions, ConvGeneralOptions, CumulativeOptions, QuantizeOptions, QuantizedMatmulOptions,
    TraceOptions,
};
use mlx_graft::random::{LocScaleOptions, NormalBroadcastOptions, UniformOptions};
use mlx_graft::{Array, Dtype, ErrorKind, Result, fast, ops, random};

fn numbers(shape: &[i32]) -> Result<Array> {
    random::normal(shape, &LocScaleOptions::default().key(&random::key(7)?))
}

fn assert_equal(a: &Array, b: &Array) -> Result<()> {
    assert_eq!(a.shape(), b.shape());
    assert_eq!(a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    Ok(())
}

#[test]
fn defaults_are_what_the_function_does_without_the_argument() -> Result<()> {
    let (x, w) = (numbers(&[1, 6, 7, 2])?, numbers(&[3, 2, 3, 2])?);
    let plain = ops::conv2d(&x, &w, &Conv2dOptions::default())?;
    let all = Conv2dOptions::default().stride([1, 1]).padding([0, 0]).dilation([1, 1]).groups(1);
    assert_equal(&plain, &ops::conv2d(&x, &w, &all)?)?;
    assert_equal(&plain, &ops::conv_general(&x, &w, &ConvGeneralOptions::default())?)?;

    let matrix = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])?;
    assert_equal(&ops::trace_axes(&matrix, &TraceOptions::default())?, &ops::trace(&matrix)?)?;
    let half = ops::astype(&matrix, Dtype::Float16)?;
    assert_eq!(ops::trace_axes(&half, &TraceOptions::default())?.dtype(), Dtype::Float16);
    let wide = TraceOptions::default().dtype(Dtype::Float32);
    assert_eq!(ops::trace_axes(&half, &wide)?.dtype(), Dtype::Float32);

    let sums = ops::cumsum(&matrix, &CumulativeOptions::default())?;
    assert_eq!(sums.to_vec::<f32>()?, [1.0, 3.0, 6.0, 10.0]);
    let before = CumulativeOptions::default().reverse(true).inclusive(false);
    assert_eq!(ops::cumsum(&matrix, &before)?.to_vec::<f32>()?, [9.0, 7.0, 4.0, 0.0]);
    Ok(())
}

#[test]
fn random_bounds_are_zero_and_one_unless_they_are_set() -> Result<()> {
    let key = random::key(3)?;
    let (zero, one) = (Array::scalar(0.0_f32)?, Array::scalar(1.0_f32)?);
    let options = UniformOptions::default().key(&key);
    let drawn = random::uniform(&[50], &options)?;
    assert_equal(&drawn, &random::uniform(&[50], &options.low(&zero).high(&one))?)?;
    assert!(drawn.to_vec::<f32>()?.iter().all(|x| (0.0..1.0).contains(x)));
    let high = random::uniform(&[50], &options.low(&one).high(&Array::scalar(2.0_f32)?))?;
    assert!(high.to_vec::<f32>()?.iter().all(|x| (1.0..2.0).contains(x)));

    let normal = random::normal(&[9], &LocScaleOptions::default().key(&key))?;
    let broadcast = random::normal_broadcast(&[9], &NormalBroadcastOptions::default().key(&key))?;
    assert_equal(&normal, &broadcast)?;
    let halves = LocScaleOptions::default().dtype(Dtype::Float16).key(&key);
    assert_eq!(random::normal(&[2], &halves)?.dtype(), Dtype::Float16);
    Ok(())
}

#[test]
fn the_base_of_the_angles_gives_way_to_a_table() -> Result<()> {
    let x = numbers(&[1, 2, 3, 4])?;
    let freqs = Array::from_slice(&[1.0_f32, 100.0], &[2])?; // 10_000 ** (2i / 4)
    let of_base = fast::rope(&x, 4, 5, &RopeOptions::default())?.to_vec::<f32>()?;
    let table = RopeOptions::default().base(None).freqs(&freqs);
    let of_table = fast::rope(&x, 4, 5, &table)?.to_vec::<f32>()?;
    for (a, b) in of_base.iter().zip(&of_table) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    let offset = Array::scalar(5)?;
    let dynamic = fast::rope_dynamic(&x, 4, &offset, &table)?.to_vec::<f32>()?;
    assert_eq!(dynamic, of_table);
    let error = fast::rope(&x, 4, 5, &RopeOptions::default().freqs(&freqs));
    assert_eq!(error.expect_err("base and freqs").kind(), ErrorKind::InvalidArgument);
    Ok(())
}

#[test]
fn a_setter_takes_the_value_or_an_option_and_the_last_one_counts() -> Result<()> {
    let w = numbers(&[8, 64])?;
    let packed = ops::quantize(&w, &QuantizeOptions::default())?;
    let x = numbers(&[2, 64])?;
    let product = |options: &QuantizedMatmulOptions<'_>| {
        ops::quantized_matmul(&x, &packed[0], &packed[1], options)
    };
    let options = QuantizedMatmulOptions::default().biases(&packed[2]);
    let expected = product(&options)?;
    assert_equal(&expected, &product(&options.group_size(64).bits(Some(4)).mode("affine"))?)?;
    assert_equal(&expected, &product(&options.bits(8).bits(None))?)?;
    assert_equal(&expected, &product(&options.biases(None).biases(packed.get(2)))?)?;

    let error = product(&options.bits(7)).expect_err("no such packing");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("quantized_matmul"), "{error}");
    Ok(())
}

#[test]
fn a_mask_is_a_mode_or_an_array() -> Result<()> {
    let q = numbers(&[1, 2, 3, 8])?;
    let attend = |options: &ScaledDotProductAttentionOptions<'_>| {
        fast::scaled_dot_product_attention(&q, &q, &q, 0.3, options)
    };
    let options = ScaledDotProductAttentionOptions::default();
    let causal = ops::tri(3, 3, 0, Dtype::Bool)?;
    let (by_mode, by_array) =
        (attend(&options.mask_mode("causal"))?, attend(&options.mask(&causal))?);
    for (a, b) in by_mode.to_vec::<f32>()?.iter().zip(by_array.to_vec::<f32>()?) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    assert_ne!(by_mode.to_vec::<f32>()?, attend(&options)?.to_vec::<f32>()?);
    let both = attend(&options.mask_mode("causal").mask(&causal));
    assert_eq!(both.expect_err("a mode and an array").kind(), ErrorKind::InvalidArgument);
    Ok(())
}
