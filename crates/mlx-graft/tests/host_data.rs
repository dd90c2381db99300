//! Host data in and out: what is read is right whatever the strides, or an error.

use mlx_graft::{Array, Dtype, ErrorKind, Tree, bf16, f16, io, ops};

#[test]
fn every_dtype_comes_back() {
    macro_rules! round_trip {
        ($($ty:ty: $values:expr),* $(,)?) => {$(
            let values: [$ty; 3] = $values;
            let array = Array::from_slice(&values, &[3]).unwrap();
            assert_eq!(array.to_vec::<$ty>().unwrap(), values);
            assert_eq!(array.nbytes(), size_of_val(&values));
        )*};
    }
    round_trip! {
        bool: [true, false, true],
        u8: [0, 1, u8::MAX],
        u16: [0, 1, u16::MAX],
        u32: [0, 1, u32::MAX],
        u64: [0, 1, u64::MAX],
        i8: [i8::MIN, 0, i8::MAX],
        i16: [i16::MIN, 0, i16::MAX],
        i32: [i32::MIN, 0, i32::MAX],
        i64: [i64::MIN, 0, i64::MAX],
        f32: [f32::MIN, 0.5, f32::INFINITY],
        f64: [f64::MIN, 0.5, f64::INFINITY],
        f16: [f16::MIN, f16::from_f32(0.5), f16::INFINITY],
        bf16: [bf16::MIN, bf16::from_f32(0.5), bf16::INFINITY],
    }
}

#[test]
fn strided_and_broadcast_arrays_are_read_in_order() {
    let x = ops::arange(0.0, 24.0, 1.0, Dtype::Int32).unwrap();
    let x = ops::reshape(&x, &[2, 3, 4]).unwrap();
    let turned = ops::transpose_axes(&x, &[2, 0, 1]).unwrap();
    let wanted: Vec<i32> = (0..4)
        .flat_map(|k| (0..2).flat_map(move |i| (0..3).map(move |j| i * 12 + j * 4 + k)))
        .collect();
    assert_eq!(turned.to_vec::<i32>().unwrap(), wanted);
    let part = ops::slice(&x, &[0, 0, 3], &[2, 3, 4], &[1, 2, 1]).unwrap();
    assert_eq!(part.to_vec::<i32>().unwrap(), [3, 11, 15, 23]);
    let wide = ops::broadcast_to(&Array::scalar(5_i32).unwrap(), &[2, 2]).unwrap();
    assert_eq!(wide.to_vec::<i32>().unwrap(), [5, 5, 5, 5]);
    let none = Array::from_slice::<f32>(&[], &[0, 3]).unwrap();
    assert_eq!(none.to_vec::<f32>().unwrap(), []);
}

#[test]
fn wrong_lengths_and_axes_are_errors() {
    let error = Array::from_slice(&[1, 2, 3], &[2, 2]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(Array::from_slice::<i32>(&[], &[-1, 0]).is_err());
    let x = Array::from_slice(&[1, 2], &[2]).unwrap();
    assert_eq!(x.dim(1).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(x.dim(-1).unwrap(), 2);
    assert!(x.item::<i32>().is_err());
}

#[test]
fn a_missing_file_is_an_error() {
    let error = io::load_safetensors("/nonexistent/x.safetensors").unwrap_err();
    assert!(error.to_string().contains("nonexistent"), "{error}");
}

#[test]
fn trees_keep_the_order_of_numbers() {
    let leaf = |i: i32| Array::scalar(i).unwrap();
    let names = (0..12).map(|i| (format!("layers.{i}.weight"), leaf(i)));
    let tree = Tree::unflatten(names).unwrap();
    let values: Vec<i32> =
        tree.flatten().iter().map(|(_, array)| array.item::<i32>().unwrap()).collect();
    assert_eq!(values, (0..12).collect::<Vec<_>>());
    let clash = [("a".to_string(), leaf(0)), ("a.b".to_string(), leaf(1))];
    assert!(Tree::unflatten(clash).is_err());
}
