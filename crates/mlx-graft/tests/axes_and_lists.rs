//! Axes, lists and names that MLX does not compare with what they are of.

#[path = "common/numbers.rs"]
mod numbers;

use std::fmt::Debug;

use mlx_graft::{Array, Device, Dtype, ErrorKind, Result, linalg, ops, transforms, with_device};
use numbers::numbers;

/// The call fails before anything is computed, with words that name the function and the mistake.
#[track_caller]
fn assert_refused<T: Debug>(result: Result<T>, op: &str, words: &str) {
    let error = result.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("[{op}]")) && text.contains(words), "{text}");
}

const MODES: [&str; 4] = ["constant", "edge", "reflect", "symmetric"];
const VALUE: f32 = -7.0;

/// The place of an element from which one in or beside an axis comes, as `NumPy` has it.
fn source(mode: &str, at: i32, length: i32) -> Option<i32> {
    let period = match mode {
        "edge" => return Some(at.clamp(0, length - 1)),
        "reflect" => (2 * (length - 1)).max(1),
        "symmetric" => 2 * length,
        _ => return Some(at).filter(|at| (0..length).contains(at)),
    };
    let place = at.rem_euclid(period);
    let last = if mode == "reflect" { period } else { period - 1 };
    Some(if place < length { place } else { last - place })
}

/// A matrix with borders, element by element.
fn bordered(a: &Array, rows: (i32, i32), columns: (i32, i32), mode: &str) -> Vec<f32> {
    let (&[height, width], values) = (a.shape(), a.to_vec::<f32>().unwrap()) else {
        panic!("a matrix")
    };
    let mut found = Vec::new();
    for row in -rows.0..height + rows.1 {
        for column in -columns.0..width + columns.1 {
            let from = source(mode, row, height).zip(source(mode, column, width));
            found.push(from.map_or(VALUE, |(row, column)| values[(row * width + column) as usize]));
        }
    }
    found
}

#[test]
fn borders_along_whatever_axes() -> Result<()> {
    let value = Array::scalar(VALUE)?;
    for shape in [[2, 3], [4, 1], [3, 5]] {
        let a = ops::transpose(&numbers(&[shape[1], shape[0]]))?;
        for mode in MODES {
            for (rows, columns) in [((1, 2), (0, 3)), ((0, 0), (7, 0)), ((5, 9), (1, 1))] {
                let pad = |axes: &[i32], low: &[i32], high: &[i32]| {
                    ops::pad(&a, axes, low, high, &value, mode)?.to_vec::<f32>()
                };
                let wanted = bordered(&a, rows, columns, mode);
                let at = format!("{mode} {rows:?} {columns:?} of {shape:?}");
                for axes in [[0, 1], [-2, 1], [0, -1], [-2, -1]] {
                    let found = pad(&axes, &[rows.0, columns.0], &[rows.1, columns.1])?;
                    assert_eq!(found, wanted, "{at}");
                    let turned = [axes[1], axes[0]];
                    let found = pad(&turned, &[columns.0, rows.0], &[columns.1, rows.1])?;
                    assert_eq!(found, wanted, "{at}, turned");
                }
                for axis in [1, -1] {
                    let found = pad(&[axis], &[columns.0], &[columns.1])?;
                    assert_eq!(found, bordered(&a, (0, 0), columns, mode), "{at}, one axis");
                }
                assert_eq!(pad(&[], &[], &[])?, a.to_vec::<f32>()?, "{at}, none");
            }
        }
    }
    Ok(())
}

#[test]
fn borders_along_axes_that_are_not_there() {
    let (a, value) = (numbers(&[2, 3]), Array::scalar(VALUE).unwrap());
    let none = ops::zeros(&[0], Dtype::Float32).unwrap();
    for mode in MODES {
        let pad = |axes: &[i32]| {
            let sizes = vec![1; axes.len()];
            ops::pad(&a, axes, &sizes, &sizes, &value, mode)
        };
        for axes in [&[1_000_000][..], &[2], &[-3], &[0, 2], &[i32::MIN], &[i32::MAX]] {
            assert_refused(pad(axes), "pad", "give one from -2 to 1");
        }
        for axes in [&[0, 0][..], &[1, -1], &[0, 1, 0]] {
            assert_refused(pad(axes), "pad", "given twice");
        }
        assert!(ops::pad(&a, &[0, 1], &[1], &[1], &value, mode).is_err());
        assert!(ops::pad(&a, &[0], &[-1], &[0], &value, mode).is_err());
        assert!(ops::pad(&a, &[0], &[i32::MAX], &[i32::MAX], &value, mode).is_err());
        assert_refused(ops::pad(&a, &[0], &[1], &[1], &none, mode), "pad", "one element");
        assert_refused(ops::pad_symmetric(&a, 1, &none, mode), "pad_symmetric", "one element");
        let scalar = ops::pad(&value, &[0], &[1], &[1], &value, mode);
        assert_refused(scalar, "pad", "there is none");
    }
    assert!(ops::pad(&a, &[0], &[1], &[1], &value, "none").is_err());
}

/// MLX has no derivative by the value, and reads it from beyond the list of derivatives.
#[test]
fn a_border_has_the_derivatives_of_its_value() -> Result<()> {
    let inputs = [numbers(&[2, 3]), Array::scalar(VALUE)?];
    let weights = numbers(&[3, 5]);
    let of_one_axis = {
        let weights = weights.clone();
        move |v: &[Array]| {
            let padded = ops::pad(&v[0], &[-1, 0], &[1, 0], &[1, 1], &v[1], "constant")?;
            Ok(vec![ops::sum(&ops::multiply(&padded, &weights)?, false)?])
        }
    };
    let gradients = transforms::grad(of_one_axis.clone(), &[0, 1], &inputs)?;
    let inner = [1.0, 2.0, 3.0, 6.0, 7.0, 8.0];
    assert_eq!(gradients[0].to_vec::<f32>()?, inner);
    assert_eq!(gradients[1].to_vec::<f32>()?, [105.0 - inner.iter().sum::<f32>()]);
    let gradients = transforms::grad(of_one_axis.clone(), &[1], &inputs)?;
    assert_eq!((gradients[0].ndim(), gradients[0].to_vec::<f32>()?), (0, vec![78.0]));
    let ones = [ops::ones(&[2, 3], Dtype::Float32)?, Array::scalar(1.0_f32)?];
    let (values, products) = transforms::jvp(of_one_axis.clone(), &inputs, &ones)?;
    assert_eq!(products[0].to_vec::<f32>()?, [105.0]);
    assert_eq!(values[0].to_vec::<f32>()?, of_one_axis(&inputs)?[0].to_vec::<f32>()?);

    let everywhere = |v: &[Array]| Ok(vec![ops::pad_symmetric(&v[0], 1, &v[1], "constant")?]);
    let total = move |v: &[Array]| Ok(vec![ops::sum(&everywhere(v)?[0], false)?]);
    let gradients = transforms::grad(total, &[0, 1], &inputs)?;
    assert_eq!(gradients[0].to_vec::<f32>()?, [1.0; 6]);
    assert_eq!(gradients[1].to_vec::<f32>()?, [14.0]);
    // Values of a batch, and of another dtype and shape.
    let batch = [numbers(&[2, 2]), numbers(&[2])];
    let mapped = transforms::vmap(everywhere, &batch, &[Some(0), Some(0)], &[Some(0)])?;
    let wanted = [0.0, 0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 1.0];
    assert_eq!(mapped[0].to_vec::<f32>()?, wanted);
    let compiled = transforms::compile(everywhere, false)?;
    let value = Array::from_slice(&[9_i32], &[1])?;
    let found = compiled.call(&[numbers(&[1]), value])?.remove(0);
    assert_eq!((found.dtype(), found.to_vec::<f32>()?), (Dtype::Float32, vec![9.0, 0.0, 9.0]));
    Ok(())
}

#[test]
fn numbers_for_each_dimension_of_a_convolution() -> Result<()> {
    let (image, weight) = (numbers(&[1, 6, 7, 1]), ops::ones(&[1, 2, 2, 1], Dtype::Float32)?);
    let conv = |options: &ops::ConvGeneralOptions<'_>| ops::conv_general(&image, &weight, options);
    let plain = ops::ConvGeneralOptions::default();
    for list in [&[1, 1, 1][..], &[1; 9]] {
        for options in [
            plain.stride(list),
            plain.padding([list, &[0]]),
            plain.padding([&[0], list]),
            plain.kernel_dilation(list),
            plain.input_dilation(list),
        ] {
            assert_refused(conv(&options), "conv_general", "for 2 dimensions: give one number");
        }
    }
    // MLX cuts negative borders off, and reads a number for each dimension then.
    let volume = numbers(&[1, 6, 7, 8, 1]);
    let window = ops::ones(&[1, 2, 2, 2, 1], Dtype::Float32)?;
    for padding in [[&[-1, -1][..], &[0]], [&[0], &[-1, 0]], [&[-1; 4], &[0]]] {
        let result = ops::conv_general(&volume, &window, &plain.padding(padding));
        assert_refused(result, "conv_general", "for 3 dimensions: give one number");
    }
    let cut = conv(&plain.padding([&[-1, 0], &[0, -2]]))?;
    assert_eq!(cut.shape(), [1, 4, 4, 1]);
    let same = conv(&plain.stride(&[2]).padding([&[1], &[]]).kernel_dilation(&[]))?;
    assert_eq!(same.shape(), [1, 3, 4, 1]);
    same.eval()?;
    assert!(ops::conv_general(&numbers(&[3]), &weight, &plain.stride(&[1, 1])).is_err());
    Ok(())
}

#[test]
fn lengths_of_a_hadamard_transform() -> Result<()> {
    for length in [780, 60, 36, 7, 6, 10, 14, 84, 100, 12 * 65, 28 * 9] {
        let result = ops::hadamard_transform(&numbers(&[2, length]), None);
        assert_refused(result, "hadamard_transform", &format!("a last dimension of {length}: "));
    }
    let long = ops::broadcast_to(&Array::scalar(1.0_f32)?, &[1 << 27])?;
    assert_refused(ops::hadamard_transform(&long, None), "hadamard_transform", "k up to 26");
    assert!(ops::hadamard_transform(&ops::zeros(&[2, 0], Dtype::Float32)?, None).is_err());
    for length in [1, 2, 64, 12, 24, 20, 160, 28, 56] {
        // The matrix is orthonormal.
        let x = numbers(&[3, length]);
        let y = ops::hadamard_transform(&x, None)?;
        let norms = |x: &Array| linalg::norm(x, 2.0, Some(&[1]), false)?.to_vec::<f32>();
        for (found, wanted) in norms(&y)?.into_iter().zip(norms(&x)?) {
            assert!((found - wanted).abs() <= 1e-4 * wanted, "{found} is not {wanted} of {length}");
        }
    }
    let one = ops::hadamard_transform(&Array::scalar(3.0_f32)?, None)?;
    assert_eq!(one.to_vec::<f32>()?, [3.0]);
    Ok(())
}

#[test]
fn axes_that_are_counted_or_joined() -> Result<()> {
    let (a, scalar) = (numbers(&[2, 3]), Array::scalar(1.0_f32)?);
    let count = |a: &Array, axes: &[i32]| ops::number_of_elements(a, axes, false, Dtype::Int32);
    for axes in [&[2][..], &[-3], &[0, 5], &[i32::MIN], &[i32::MAX]] {
        assert_refused(count(&a, axes), "number_of_elements", "give one from -2 to 1");
    }
    for axes in [&[0][..], &[-1]] {
        assert_refused(count(&scalar, axes), "number_of_elements", "there is none");
    }
    assert_eq!(count(&a, &[-1])?.item::<i32>()?, 3);
    assert_eq!(count(&a, &[0, 1])?.item::<i32>()?, 6);
    assert_eq!(count(&scalar, &[])?.item::<i32>()?, 1);

    let cube = numbers(&[2, 3, 4]);
    let joined = |start, end| ops::flatten(&cube, start, end).map(|x| x.shape().to_vec());
    assert_eq!(joined(-9, 9)?, [24]);
    assert_eq!(joined(-9, -2)?, [6, 4]);
    assert_eq!(joined(1, 9)?, [2, 12]);
    assert_eq!(joined(2, 2)?, [2, 3, 4]);
    assert_eq!(ops::flatten(&scalar, -9, 9)?.shape(), [1]);
    for (start, end) in [(3, 9), (2, 1), (0, -9), (-1, -2)] {
        assert!(joined(start, end).is_err(), "{start} to {end}");
    }
    Ok(())
}

#[test]
fn triangles_by_name() -> Result<()> {
    with_device(Device::cpu(), || {
        let a = Array::from_slice(&[2.0_f32, 100.0, 1.0, 2.0], &[2, 2])?;
        let lower = linalg::eigvalsh(&a, "L")?.to_vec::<f32>()?;
        let upper = linalg::eigvalsh(&a, "U")?.to_vec::<f32>()?;
        assert!((lower[0] - 1.0).abs() < 1e-4 && (lower[1] - 3.0).abs() < 1e-4, "{lower:?}");
        assert!((upper[0] + 98.0).abs() < 1e-2 && (upper[1] - 102.0).abs() < 1e-2, "{upper:?}");
        for name in ["", "l", "u", "lower", "Lower", "LU", "none"] {
            assert_refused(linalg::eigvalsh(&a, name), "eigvalsh", "is no triangle");
            assert_refused(linalg::eigh(&a, name), "eigh", "is no triangle");
        }
        Ok(())
    })?
}

/// The other names that operations take, which MLX compares itself.
#[test]
fn names_that_mlx_knows() {
    let a = numbers(&[3]);
    assert!(ops::searchsorted(&a, &a, "middle").is_err());
    assert!(ops::meshgrid(&[&a, &a], false, "ji").is_err());
    assert!(linalg::norm_matrix(&numbers(&[2, 2]), "none", None, false).is_err());
    let w = numbers(&[8, 64]);
    assert!(ops::quantize(&w, &ops::QuantizeOptions::default().mode("none")).is_err());
    let q = numbers(&[1, 1, 4, 8]);
    let options = mlx_graft::fast::ScaledDotProductAttentionOptions::default().mask_mode("none");
    let attended = mlx_graft::fast::scaled_dot_product_attention(&q, &q, &q, 1.0, &options);
    assert!(attended.is_err());
}
