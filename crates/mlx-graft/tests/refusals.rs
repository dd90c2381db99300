//! What MLX does not check: safe operations neither end the process nor reach into foreign memory.

#[path = "common/numbers.rs"]
mod numbers;

use mlx_graft::{Array, Device, Dtype, Error, ErrorKind, Result, fast, linalg, ops, random};
use numbers::numbers;

fn zeros(shape: &[i32]) -> Array {
    ops::zeros(shape, Dtype::Float32).unwrap()
}

fn packed(shape: &[i32]) -> Array {
    ops::zeros(shape, Dtype::Uint32).unwrap()
}

/// The call fails before anything is computed, with words that name the function and the mistake.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, op: &str, words: &str) {
    let error = result.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("[{op}]")) && text.contains(words), "{text}");
}

/// The call succeeds and gives as many elements as the shape says, which can be read.
#[track_caller]
fn assert_shape(result: Result<Array>, shape: &[i32]) {
    let array = result.unwrap();
    assert_eq!(array.shape(), shape);
    let array = ops::astype(&array, Dtype::Float32).unwrap();
    assert!(array.to_vec::<f32>().unwrap().iter().all(|&x| x == 0.0));
}

#[test]
fn lengths_below_zero() {
    let six = numbers(&[6]);
    for shape in [&[-2, -3][..], &[-6], &[-2, -3, 1]] {
        assert_refused(ops::reshape(&six, shape), "reshape", "-1 to be deduced");
        assert_refused(ops::unflatten(&six, 0, shape), "unflatten", "-1 to be deduced");
    }
    for array in [&six, &zeros(&[0])] {
        assert_refused(ops::reshape(array, &[-1, 0]), "reshape", "beside 0");
        assert_refused(ops::unflatten(array, 0, &[-1, 0]), "unflatten", "beside 0");
        assert_refused(ops::unflatten(array, 0, &[0, -1]), "unflatten", "beside 0");
    }
    assert_eq!(ops::reshape(&six, &[-1, 2]).unwrap().shape(), [3, 2]);
    assert_eq!(ops::unflatten(&six, 0, &[2, -1]).unwrap().shape(), [2, 3]);
    assert_eq!(ops::reshape(&zeros(&[0, 3]), &[3, 0]).unwrap().shape(), [3, 0]);

    let one = Array::scalar(1.0_f32).unwrap();
    let low = Array::scalar(0).unwrap();
    let high = Array::scalar(5).unwrap();
    let half = Array::scalar(0.5_f32).unwrap();
    let normal = random::LocScaleOptions::default();
    let (mean, covariance) = (zeros(&[2]), ops::identity(2, Dtype::Float32).unwrap());
    for shape in [&[-1][..], &[-2, -3], &[0, -1], &[-2, 3]] {
        let results = [
            ops::zeros(shape, Dtype::Float32),
            ops::ones(shape, Dtype::Int32),
            ops::full(shape, &one, Dtype::Float32),
            ops::broadcast_to(&one, shape),
            random::bits(shape, 4, None),
            random::uniform(shape, &random::UniformOptions::default()),
            random::normal(shape, &normal),
            random::laplace(shape, &normal),
            random::gumbel(shape, Dtype::Float32, None),
            random::randint(&low, &high, shape, Dtype::Int32, None),
            random::bernoulli(&half, shape, None),
            random::truncated_normal(&low, &one, shape, Dtype::Float32, None),
            random::multivariate_normal(&mean, &covariance, shape, Dtype::Float32, None),
            random::categorical_shape(&zeros(&[3, 4]), -1, shape, None),
            ops::tile(&numbers(&[2, 3]), shape),
            ops::strided_view(&six, shape, &vec![1; shape.len()], 0),
        ];
        for (number, result) in results.into_iter().enumerate() {
            assert!(result.is_err(), "{number} with {shape:?}: {result:?}");
        }
    }
    let counts = [
        ops::eye(-1, 2, 0, Dtype::Float32),
        ops::eye(2, -2, 0, Dtype::Float32),
        ops::identity(-2, Dtype::Float32),
        ops::linspace(0.0, 1.0, -1, Dtype::Float32),
        random::split_num(&random::key(0).unwrap(), -3),
        random::permutation_arange(-3, None),
        random::categorical_num_samples(&zeros(&[3, 4]), -1, -3, None),
        ops::repeat(&six, -2),
    ];
    for (number, result) in counts.into_iter().enumerate() {
        assert!(result.is_err(), "{number}: {result:?}");
    }
    for result in [ops::tri(-1, -2, 0, Dtype::Float32), ops::tri(3, -2, 0, Dtype::Float32)] {
        assert!(result.is_err() || result.unwrap().to_vec::<f32>().unwrap().is_empty());
    }
}

#[test]
fn more_than_memory_can_hold() {
    let one = Array::scalar(1.0_f32).unwrap();
    let long = |shape: &[i32]| ops::broadcast_to(&one, shape).unwrap();
    let results = [
        // Of these the size in bytes is a multiple of 2^64.
        ops::zeros(&[1 << 30, 1 << 30, 16], Dtype::Float32),
        ops::full(&[1 << 30, 1 << 30, 16], &one, Dtype::Float32),
        ops::add(&long(&[1 << 30, 1, 1]), &long(&[1, 1 << 30, 16])),
        ops::broadcast_to(&one, &[1 << 30, 1 << 30, 16]),
        random::uniform(&[1 << 30, 1 << 30, 16], &random::UniformOptions::default()),
        ops::identity(i32::MAX, Dtype::Float32),
        ops::diag(&numbers(&[2]), 1 << 30),
    ];
    for (number, result) in results.into_iter().enumerate() {
        let error = result.expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{number}: {error}");
    }
    assert_eq!(ops::zeros(&[i32::MAX, 0, i32::MAX], Dtype::Float32).unwrap().size(), 0);
}

#[test]
fn scales_of_other_rows() -> Result<()> {
    let x = zeros(&[2, 64]);
    let options = |biases| ops::QuantizedMatmulOptions::default().biases(biases);
    let (w, one) = (packed(&[100_000, 8]), zeros(&[1, 1]));
    for transpose in [true, false] {
        let result = ops::quantized_matmul(&x, &w, &one, &options(&one).transpose(transpose));
        assert_refused(result, "quantized_matmul", "each row needs its own");
    }
    let bytes = ops::zeros(&[1, 2], Dtype::Uint8)?;
    let fp = ops::QuantizedMatmulOptions::default().mode("mxfp4");
    assert_refused(ops::quantized_matmul(&x, &w, &bytes, &fp), "quantized_matmul", "(100000, ");
    // Scales, or a quantized matrix, of too few dimensions: MLX reads beyond their shapes.
    let (w, flat) = (packed(&[8, 8]), zeros(&[1]));
    let result = ops::quantized_matmul(&x, &w, &flat, &options(&flat));
    assert_refused(result, "quantized_matmul", "each row needs its own");
    for shape in [&[8][..], &[]] {
        let result = ops::quantized_matmul(&x, &packed(shape), &flat, &options(&flat));
        assert_refused(result, "quantized_matmul", "at least two dimensions");
    }
    // MLX compares the biases.
    let (scales, biases) = (zeros(&[8, 1]), zeros(&[1, 1]));
    assert!(ops::quantized_matmul(&x, &w, &scales, &options(&biases)).is_err());
    assert_shape(ops::quantized_matmul(&x, &w, &scales, &options(&scales)), &[2, 8]);

    let x = zeros(&[3, 2, 64]);
    let gather = |biases| ops::GatherQmmOptions::default().biases(biases);
    let (w, one) = (packed(&[3, 100_000, 8]), zeros(&[3, 1, 1]));
    let result = ops::gather_qmm(&x, &w, &one, &gather(&one));
    assert_refused(result, "gather_qmm", "each row needs its own");
    let bytes = ops::zeros(&[3, 1, 2], Dtype::Uint8)?;
    let fp = ops::GatherQmmOptions::default().mode("mxfp4");
    assert_refused(ops::gather_qmm(&x, &w, &bytes, &fp), "gather_qmm", "(3, 100000, ");

    let unpacked = ops::DequantizeOptions::default().biases(&one);
    let result = ops::dequantize(&packed(&[100_000, 8]), &zeros(&[1, 1]), &unpacked);
    assert_refused(result, "dequantize", "each row needs its own");
    let w = packed(&[100_000, 16]);
    let bytes = ops::zeros(&[1, 2], Dtype::Uint8)?;
    let qq = ops::QqmmOptions::default().scales(&bytes).mode("mxfp8");
    assert_refused(ops::qqmm(&zeros(&[2, 64]), &w, &qq), "qqmm", "each row needs its own");
    let qq = ops::GatherQqmmOptions::default().scales(&bytes).mode("mxfp8");
    assert_refused(ops::gather_qqmm(&x, &w, &qq), "gather_qqmm", "each row needs its own");
    Ok(())
}

#[test]
fn packing_of_no_bits() {
    let (x, w, scales) = (zeros(&[8, 64]), packed(&[8, 8]), zeros(&[8, 1]));
    for none in [0, -1] {
        for options in [
            ops::QuantizeOptions::default().group_size(none),
            ops::QuantizeOptions::default().bits(none),
            ops::QuantizeOptions::default().mode("mxfp4").group_size(none),
        ] {
            assert_refused(ops::quantize(&x, &options), "quantize", "must be positive");
        }
        let options = ops::DequantizeOptions::default().biases(&scales).bits(none);
        assert_refused(ops::dequantize(&w, &scales, &options), "dequantize", "must be positive");
        let options = ops::QuantizedMatmulOptions::default().biases(&scales);
        for options in [options.bits(none), options.group_size(none)] {
            let result = ops::quantized_matmul(&x, &w, &scales, &options);
            assert_refused(result, "quantized_matmul", "must be positive");
        }
        let options = ops::GatherQmmOptions::default().biases(&scales).bits(none);
        assert_refused(ops::gather_qmm(&x, &w, &scales, &options), "gather_qmm", "number of bits");
        let options = ops::QqmmOptions::default().scales(&scales).bits(none);
        assert_refused(ops::qqmm(&x, &w, &options), "qqmm", "number of bits");
        let options = ops::GatherQqmmOptions::default().scales(&scales).bits(none);
        assert_refused(ops::gather_qqmm(&x, &w, &options), "gather_qqmm", "number of bits");
    }
}

#[test]
fn products_without_elements() -> Result<()> {
    let product = |x: &[i32], w: &[i32], scales: &[i32], transpose| {
        let scales = zeros(scales);
        let options = ops::QuantizedMatmulOptions::default().biases(&scales).transpose(transpose);
        ops::quantized_matmul(&zeros(x), &packed(w), &scales, &options)
    };
    assert_shape(product(&[0, 64], &[8, 8], &[8, 1], true), &[0, 8]);
    assert_shape(product(&[2, 64], &[0, 8], &[0, 1], true), &[2, 0]);
    assert_shape(product(&[2, 0], &[8, 0], &[8, 0], true), &[2, 8]);
    assert_shape(product(&[2, 0], &[0, 8], &[0, 1], false), &[2, 64]);
    assert_shape(product(&[2, 64], &[64, 0], &[64, 0], false), &[2, 0]);
    let gathered = |x: &[i32], w: &[i32], scales: &[i32], picked: Option<&Array>| {
        let scales = zeros(scales);
        let options = ops::GatherQmmOptions::default().biases(&scales).rhs_indices(picked);
        ops::gather_qmm(&zeros(x), &packed(w), &scales, &options)
    };
    assert_shape(gathered(&[3, 0, 64], &[3, 8, 8], &[3, 8, 1], None), &[3, 0, 8]);
    assert_shape(gathered(&[3, 2, 64], &[3, 0, 8], &[3, 0, 1], None), &[3, 2, 0]);
    assert_shape(gathered(&[3, 2, 0], &[3, 8, 0], &[3, 8, 0], None), &[3, 2, 8]);
    assert_shape(gathered(&[0, 2, 64], &[0, 8, 8], &[0, 8, 1], None), &[0, 2, 8]);

    // Indices that are not computed yet, of matrices of which there is none.
    let first = ops::zeros(&[1], Dtype::Uint32)?;
    let result = gathered(&[1, 2, 64], &[0, 8, 8], &[0, 8, 1], Some(&first));
    assert_refused(result, "gather_qmm", "which has none");
    let (a, b) = (zeros(&[0, 2, 3]), zeros(&[1, 3, 4]));
    let result = ops::gather_mm(&a, &b, Some(&first), Some(&first), false);
    assert_refused(result, "gather_mm", "which has none");
    let result = ops::gather_mm(&zeros(&[1, 2, 3]), &zeros(&[0, 3, 4]), None, Some(&first), false);
    assert_refused(result, "gather_mm", "which has none");
    assert_shape(ops::gather_mm(&a, &zeros(&[0, 3, 4]), None, None, false), &[0, 2, 4]);

    let segments = Array::from_slice(&[0_u32, 8], &[1, 2])?;
    let segmented = |a: &[i32], b: &[i32]| ops::segmented_mm(&zeros(a), &zeros(b), &segments);
    assert_shape(segmented(&[0, 8], &[8, 2]), &[1, 0, 2]);
    assert_shape(segmented(&[3, 8], &[8, 0]), &[1, 3, 0]);
    Ok(())
}

#[test]
fn axes_without_elements() {
    for shape in [&[0][..], &[3, 0], &[0, 3], &[2, 0, 3]] {
        let (a, plain) = (zeros(shape), ops::CumulativeOptions::default());
        for axis in -(shape.len() as i32)..shape.len() as i32 {
            for result in [
                ops::sort_axis(&a, axis),
                ops::argsort_axis(&a, axis),
                ops::cumsum_axis(&a, axis, &plain),
                ops::cumprod_axis(&a, axis, &plain),
                ops::cummax_axis(&a, axis, false, true),
                ops::cummin_axis(&a, axis, true, false),
                ops::logcumsumexp_axis(&a, axis, false, true),
                random::permutation(&a, axis, None),
            ] {
                assert_shape(result, shape);
            }
        }
        for result in [
            ops::argsort(&a),
            ops::cumsum(&a, &plain),
            ops::cumprod(&a, &plain),
            ops::cummax(&a, false, true),
            ops::cummin(&a, true, false),
            ops::logcumsumexp(&a, false, true),
        ] {
            assert_shape(result, &[0]);
        }
        assert_shape(ops::sort(&ops::flatten(&a, 0, -1).unwrap()), &[0]);
        // The arguments are still checked, and the dtype is that of any other array.
        assert!(ops::sort_axis(&a, 7).is_err());
        assert!(ops::cummax_axis(&a, -9, false, true).is_err());
        assert_eq!(ops::argsort(&a).unwrap().dtype(), Dtype::Uint32);
        let none = ops::zeros(shape, Dtype::Bool).unwrap();
        assert_eq!(ops::cumsum(&none, &plain).unwrap().dtype(), Dtype::Int32);
    }
    assert_shape(random::permutation_arange(0, None), &[0]);
}

#[test]
fn matrices_without_elements() -> Result<()> {
    mlx_graft::with_device(Device::cpu(), || {
        for shape in [&[0, 0][..], &[2, 0, 0], &[0, 2, 2]] {
            let a = zeros(shape);
            for result in [
                linalg::inv(&a),
                linalg::tri_inv(&a, false),
                linalg::cholesky(&a, false),
                linalg::cholesky_inv(&a, true),
            ] {
                assert_shape(result, shape);
            }
        }
        for (a, b) in [
            (&[0, 0][..], &[0][..]),
            (&[0, 0], &[0, 0]),
            (&[0, 0], &[0, 3]),
            (&[2, 0, 0], &[2, 0, 3]),
        ] {
            assert_shape(linalg::solve(&zeros(a), &zeros(b)), b);
            assert_shape(linalg::solve_triangular(&zeros(a), &zeros(b), false), b);
        }
        for (shape, pivots, lower, upper) in [
            (&[0, 0][..], &[0][..], &[0, 0][..], &[0, 0][..]),
            (&[0, 3], &[0], &[0, 0], &[0, 3]),
            (&[3, 0], &[3], &[3, 0], &[0, 0]),
            (&[2, 3, 0], &[2, 3], &[2, 3, 0], &[2, 0, 0]),
        ] {
            let found = linalg::lu(&zeros(shape))?;
            let shapes: Vec<&[i32]> = found.iter().map(Array::shape).collect();
            assert_eq!(shapes, [pivots, lower, upper], "of {shape:?}");
            for part in &found {
                part.eval()?;
            }
            let (both, pivots) = linalg::lu_factor(&zeros(shape))?;
            assert_shape(Ok(both), shape);
            assert_eq!(pivots.size(), 0);
            pivots.eval()?;
        }
        let rows = linalg::lu(&zeros(&[3, 0]))?;
        assert_eq!(rows[0].to_vec::<u32>()?, [0, 1, 2]);
        Ok(())
    })?
}

/// The reference LAPACK ends the process for these.
#[test]
fn matrices_with_nan_and_infinity() -> Result<()> {
    mlx_graft::with_device(Device::cpu(), || {
        let good = [2.0_f32, 0.0, 0.0, 3.0];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mixed = [&good[..], &[bad; 4], &[1.0, bad, 0.0, 1.0]].concat();
            let a = Array::from_slice(&mixed, &[3, 2, 2])?;
            let (values, vectors) = linalg::eig(&a)?;
            for result in [ops::real(&values)?, ops::real(&linalg::eigvals(&a)?)?] {
                let result = result.to_vec::<f32>()?;
                assert_eq!(result[..2], [2.0, 3.0]);
                assert!(result[2..].iter().all(|x| x.is_nan()), "{result:?}");
            }
            let vectors = ops::real(&vectors)?.to_vec::<f32>()?;
            assert!(vectors[..4].iter().all(|x| x.is_finite()));
            assert!(vectors[4..].iter().all(|x| x.is_nan()));
            let b = Array::from_slice(&[bad; 9], &[3, 3])?;
            for uv in [true, false] {
                assert!(linalg::svd(&b, uv)?[0].eval().is_err());
            }
            assert!(linalg::pinv(&b)?.eval().is_err());
            assert!(linalg::norm_matrix(&b, "nuc", None, false)?.eval().is_err());
            for ord in [2.0, -2.0] {
                assert!(linalg::norm(&b, ord, Some(&[0, 1]), false)?.eval().is_err());
            }
            let fro = linalg::norm_matrix(&b, "fro", None, false)?.item::<f32>()?;
            assert_eq!(fro.is_nan(), bad.is_nan());
        }
        assert!(linalg::eig(&zeros(&[3])).is_err());
        Ok(())
    })?
}

#[test]
fn convolutions_of_nothing() {
    macro_rules! check {
        ($conv:ident, $options:ident, $ones:expr) => {
            let (op, ones): (_, &[i32]) = (stringify!($conv), &$ones);
            let shape = |first: i32, side: i32, last: i32| {
                let sides: Vec<i32> = ones.iter().map(|_| side).collect();
                zeros(&[&[first][..], &sides, &[last]].concat())
            };
            let options = ops::$options::default();
            let image = shape(1, 8, 4);
            for groups in [0, -1] {
                let result = ops::$conv(&image, &shape(4, 3, 4), &options.groups(groups));
                assert_refused(result, op, "at least one");
            }
            for groups in [1, 2] {
                for outputs in [0, 4] {
                    let result =
                        ops::$conv(&shape(1, 8, 0), &shape(outputs, 3, 0), &options.groups(groups));
                    assert_refused(result, op, "must not be empty");
                }
            }
            assert_refused(ops::$conv(&image, &shape(4, 0, 4), &options), op, "must not be empty");
            let result = ops::$conv(&image, &shape(0, 3, 4), &options).unwrap();
            assert_eq!((result.dim(-1).unwrap(), result.size()), (0, 0));
            result.eval().unwrap();
            assert!(ops::$conv(&image, &shape(4, 3, 4), &options).unwrap().eval().is_ok());
            assert!(ops::$conv(&image, &zeros(&[4]), &options).is_err());
            assert!(ops::$conv(&Array::scalar(0.0_f32).unwrap(), &image, &options).is_err());
        };
    }
    check!(conv1d, Conv1dOptions, [1]);
    check!(conv2d, Conv2dOptions, [1, 1]);
    check!(conv3d, Conv3dOptions, [1, 1, 1]);
    check!(conv_general, ConvGeneralOptions, [1, 1]);
    check!(conv_transpose1d, ConvTranspose1dOptions, [1]);
    check!(conv_transpose2d, ConvTranspose2dOptions, [1, 1]);
    check!(conv_transpose3d, ConvTranspose3dOptions, [1, 1, 1]);
    let (image, weight) = (zeros(&[1, 8, 4]), zeros(&[4, 3, 4]));
    for none in [0, -1] {
        let options = ops::Conv1dOptions::default();
        for options in [options.stride(none), options.dilation(none)] {
            assert!(ops::conv1d(&image, &weight, &options).is_err());
        }
    }
}

#[test]
fn attention_without_heads_of_keys() {
    let keys = zeros(&[1, 0, 4, 8]);
    for queries in [zeros(&[1, 2, 3, 8]), zeros(&[1, 0, 3, 8])] {
        let options = fast::ScaledDotProductAttentionOptions::default();
        let result = fast::scaled_dot_product_attention(&queries, &keys, &keys, 1.0, &options);
        assert_refused(result, "scaled_dot_product_attention", "at least one head");
    }
}

#[test]
fn nothing_depends() -> Result<()> {
    let a = numbers(&[2]);
    assert!(ops::depends(&[] as &[&Array], &[&a])?.is_empty());
    assert!(ops::depends(&[] as &[&Array], &[] as &[&Array])?.is_empty());
    assert_eq!(ops::depends(&[&a], &[] as &[&Array])?[0].to_vec::<f32>()?, [0.0, 1.0]);
    Ok(())
}

/// An error has the name of the function, and is not a broken array.
#[test]
fn errors_are_typed() {
    let error = ops::reshape(&numbers(&[6]), &[-2, -3]).unwrap_err();
    assert!(matches!(error, Error::Mlx { op: "reshape", .. }));
}

#[test]
fn more_than_memory_is_an_error_and_a_view_of_it_is_none() {
    let overcommit = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    if overcommit.trim().is_empty() || overcommit.trim() == "1" {
        eprintln!("skipped: this system gives more memory than it has");
        return;
    }
    let huge = ops::broadcast_to(&zeros(&[1]), &[1 << 22, 1 << 20]).unwrap(); // 16 TiB
    let turned = ops::transpose(&ops::expand_dims(&huge, 0).unwrap()).unwrap();
    assert_eq!(turned.shape(), [1 << 20, 1 << 22, 1]);
    let first = ops::slice(&turned, &[0, 0, 0], &[2, 2, 1], &[1, 1, 1]).unwrap();
    assert_eq!(first.to_vec::<f32>().unwrap(), [0.0; 4]);
    let (origin, one) = (Array::from_slice(&[0, 0], &[2]).unwrap(), zeros(&[1, 1]));
    let results = [
        ops::add(&huge, &zeros(&[1])),
        ops::contiguous(&huge, false),
        ops::cumsum_axis(&huge, 0, &ops::CumulativeOptions::default()),
        // These are no views, whatever their names begin with.
        ops::slice_update(&huge, &one, &[0, 0], &[1, 1], &[1, 1]),
        ops::slice_update_add(&huge, &one, &[0, 0], &[1, 1], &[1, 1]),
        ops::slice_update_dynamic(&huge, &one, &origin, &[0, 1]),
        ops::slice_dynamic(&huge, &origin, &[0, 1], &[1 << 21, 1 << 20]),
    ];
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfMemory, "{number}");
    }
    let halves = ops::split(&huge, 2, 0).unwrap();
    assert_eq!(halves[1].shape(), [1 << 21, 1 << 20]);
    assert_eq!(ops::broadcast_arrays(&[&huge, &one]).unwrap()[1].shape(), huge.shape());
    assert_eq!(huge.as_slice::<f32>().unwrap_err().kind(), ErrorKind::OutOfMemory);
}
