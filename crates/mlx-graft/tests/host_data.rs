//! Host data in and out: what is read is right whatever the strides, or an error.

use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_graft::{
    Array, Complex32, Dtype, Element, Error, ErrorKind, MemoryLayout, Result, Tree, bf16, f16, io,
    ops, transforms,
};

fn round_trip<T: Element + std::fmt::Debug>(values: [T; 3]) -> Result<()> {
    let array = Array::from_slice(&values, &[3])?;
    assert_eq!(array.dtype(), T::DTYPE);
    assert_eq!((array.itemsize(), array.nbytes()), (size_of::<T>(), size_of_val(&values)));
    let mut assigned = Array::scalar(0_u8)?;
    assigned.assign(&values, &[3])?;
    let views = [
        array.clone(),
        assigned,
        Array::from_vec(values.to_vec(), &[3])?,
        Array::from_owner::<T, _>(values, &[3])?,
        Array::from_bytes(&array.to_bytes()?, &[3], T::DTYPE)?,
    ];
    for view in &views {
        assert_eq!(view.to_vec::<T>()?, values);
        assert_eq!(*view.as_slice::<T>()?, values);
    }
    for (i, value) in values.into_iter().enumerate() {
        let at = i as i32;
        let one = ops::slice(&array, &[at], &[at + 1], &[1])?;
        assert_eq!(one.item::<T>()?, value);
        assert_eq!(one.to_vec::<T>()?, [value]);
        let scalar = Array::scalar(value)?;
        assert_eq!((scalar.shape(), scalar.item::<T>()?), (&[][..], value));
        let mut scalar = array.clone();
        scalar.assign_scalar(value)?;
        assert_eq!((scalar.shape(), scalar.item::<T>()?), (&[][..], value));
    }
    assert_eq!(array.to_vec::<T>()?, values);
    let turned = ops::slice(&array, &[2], &[-4], &[-1])?;
    assert_eq!(*turned.as_slice::<T>()?, [values[2], values[1], values[0]]);
    Ok(())
}

#[test]
fn every_dtype_comes_back() -> Result<()> {
    macro_rules! round_trip {
        ($($ty:ty: $values:expr),* $(,)?) => {$(round_trip::<$ty>($values)?;)*};
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
        Complex32: [
            Complex32::new(0.5, -1.5),
            Complex32::new(f32::INFINITY, 0.0),
            Complex32::new(-0.0, f32::MIN),
        ],
    }
    Ok(())
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
    assert!(none.to_vec::<f32>().unwrap().is_empty());
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

/// Counts how often it is dropped.
struct Owner(Vec<f32>, &'static AtomicUsize);

impl AsMut<[f32]> for Owner {
    fn as_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
        assert!(self.0.first() != Some(&-1.0), "a destructor that panics is contained");
    }
}

#[test]
fn an_owner_is_released_once() -> Result<()> {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    for round in 1..=100 {
        let x = Array::from_owner(Owner(vec![1.0, 2.0, 3.0], &DROPS), &[3])?;
        let y = ops::add(&x, &x)?;
        drop(x);
        assert_eq!(y.to_vec::<f32>()?, [2.0, 4.0, 6.0]);
        drop(y);
        assert_eq!(DROPS.load(Ordering::Relaxed), round);
    }
    let other = std::thread::spawn(|| {
        let x = Array::from_owner(Owner(vec![5.0], &DROPS), &[1]).unwrap();
        x.to_vec::<f32>().unwrap()
    });
    assert_eq!(other.join().unwrap(), [5.0]);
    assert_eq!(DROPS.load(Ordering::Relaxed), 101);
    assert!(Array::from_owner(Owner(vec![1.0], &DROPS), &[2]).is_err());
    assert_eq!(DROPS.load(Ordering::Relaxed), 102);
    Array::from_owner(Owner(vec![], &DROPS), &[0, 2])?.eval()?;
    assert_eq!(DROPS.load(Ordering::Relaxed), 103);
    // C++ calls the destructor, into which a panic must not unwind.
    Array::from_owner(Owner(vec![-1.0], &DROPS), &[1])?.eval()?;
    assert_eq!(DROPS.load(Ordering::Relaxed), 104);
    Ok(())
}

#[test]
fn a_borrowed_slice_keeps_its_memory() -> Result<()> {
    let x = ops::add(&Array::from_slice(&[1.0_f32; 1000], &[1000])?, &Array::scalar(1.0_f32)?)?;
    let elements = x.as_slice::<f32>()?;
    // The array is gone, and what follows could take its memory over.
    let y = ops::multiply(elements.array(), &Array::scalar(3.0_f32)?)?;
    drop(x);
    y.eval()?;
    assert_eq!(*elements, [2.0; 1000]);
    assert_eq!(*y.as_slice::<f32>()?, [6.0; 1000]);
    Ok(())
}

#[test]
fn layouts_are_told_and_waited_for() -> Result<()> {
    let x = ops::reshape(&ops::arange(0.0, 6.0, 1.0, Dtype::Float32)?, &[2, 3])?;
    let layout = |contiguous, row_contiguous, col_contiguous| MemoryLayout {
        contiguous,
        row_contiguous,
        col_contiguous,
    };
    assert_eq!((x.strides()?, x.layout()?), (vec![3, 1], layout(true, true, false)));
    let turned = ops::transpose(&x)?;
    assert_eq!((turned.strides()?, turned.layout()?), (vec![1, 3], layout(true, false, true)));
    let wide = ops::broadcast_to(&Array::scalar(1_i8)?, &[2, 2])?;
    assert_eq!(wide.strides()?, [0, 0]);
    assert!(!wide.layout()?.row_contiguous);
    assert!(Array::scalar(1_i8)?.strides()?.is_empty());

    let y = ops::exp(&x)?;
    assert!(!y.is_available() && !y.is_scheduled());
    transforms::async_eval(&[&y])?;
    y.wait()?;
    assert!(y.is_available() && y.is_scheduled());
    let z = ops::exp(&x)?;
    z.wait()?;
    assert_eq!(z.to_vec::<f32>()?, y.to_vec::<f32>()?);
    Ok(())
}

#[test]
fn a_boolean_is_zero_or_one_wherever_it_comes_from() -> Result<()> {
    let bytes = Array::from_slice(&[0_u8, 1, 2, 255], &[4])?;
    let view = ops::view(&bytes, Dtype::Bool)?;
    assert_eq!(view.to_vec::<bool>()?, [false, true, true, true]);
    let last = ops::slice(&view, &[3], &[4], &[1])?;
    assert!(last.item::<bool>()?);
    assert!(Array::from_bytes(&[0, 2], &[2], Dtype::Bool).is_err());
    Ok(())
}

#[test]
fn a_tracer_has_no_elements() {
    let read = |inputs: &[Array]| -> Result<Vec<Array>> {
        inputs[0].as_slice::<f32>()?;
        Ok(inputs.to_vec())
    };
    let x = Array::scalar(1.0_f32).unwrap();
    let compiled = transforms::compile(read, false).unwrap();
    let error = compiled.call(&[&x]).unwrap_err();
    assert!(matches!(error, Error::Mlx { .. }), "{error:?}");
}
