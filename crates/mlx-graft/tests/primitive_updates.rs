//! Kernels that write over an input, and inputs that lie in any way.

#[macro_use]
#[path = "common/no_transforms.rs"]
mod no_transforms;
#[path = "common/main_thread.rs"]
mod main_thread;
#[path = "common/numbers.rs"]
mod numbers;

use main_thread::away_from_the_main_thread;
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, Strided, apply,
};
use mlx_graft::{Array, Dtype, Error, Result, memory, ops, transforms};

/// Adds a number to the first element of `x`, and gives the sum of all too.
#[derive(PartialEq, Clone)]
struct Bump {
    by: f32,
    /// The dtype and lengths that the update has, if not those of `x`.
    other: Option<ArraySpec>,
}

impl Primitive for Bump {
    const NAME: &'static str = "bump";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let sum = ArraySpec::new([], Dtype::Float32);
        Ok(vec![sum, self.other.clone().unwrap_or_else(|| inputs[0].clone())])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let empty: &[f32] = &[];
        if inputs[0].as_slice::<f32>()? != empty || inputs[0].size() != 0 {
            return Err(KernelError::new("the input is still there"));
        }
        if outputs[0].as_updated_slice::<f32>().is_ok() {
            return Err(KernelError::new("the sum is no update"));
        }
        let x = outputs[1].as_updated_slice::<f32>()?;
        x[0] += self.by;
        let sum = x.iter().sum();
        outputs[0].as_mut_slice::<f32>()?[0] = sum;
        Ok(())
    }

    fn vjp(
        &self,
        _: &[Array],
        cotangents: &[Array],
        _: &[usize],
        _: &[Array],
    ) -> Result<Vec<Array>> {
        Ok(vec![ops::add(&cotangents[1], &cotangents[0])?])
    }

    fn jvp(&self, _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Err(Error::unsupported_transform(Self::NAME, "jvp"))
    }

    fn vmap(&self, _: &[Array], _: &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Err(Error::unsupported_transform(Self::NAME, "vmap"))
    }

    fn updates(&self, output: usize) -> Option<usize> {
        (output == 1).then_some(0)
    }
}

/// Numbers between -1 and 1.
fn numbers(seed: i32, shape: &[i32]) -> Result<Array> {
    ops::sin(&ops::add(&numbers::numbers(shape), &Array::scalar(seed)?)?)
}

/// The sum, and the update.
fn bump(x: &Array, by: f32) -> Result<[Array; 2]> {
    let outputs = apply(Bump { by, other: None }, &[x])?;
    Ok(outputs.try_into().expect("two outputs"))
}

fn wanted(x: &Array, by: f32) -> Result<(f32, Vec<f32>)> {
    let mut x = x.to_vec::<f32>()?;
    x[0] += by;
    Ok((x.iter().sum(), x))
}

#[test]
fn an_input_that_is_needed_stays_as_it_is() -> Result<()> {
    away_from_the_main_thread();
    let x = numbers(1, &[3, 4, 5])?;
    let before = x.to_vec::<f32>()?;
    let [sum, y] = bump(&x, 2.0)?;
    let (wanted_sum, wanted_y) = wanted(&x, 2.0)?;
    assert_eq!((sum.item::<f32>()?, y.to_vec::<f32>()?), (wanted_sum, wanted_y));
    assert_eq!(x.to_vec::<f32>()?, before);
    // Twice of one input, and once of what is computed for both.
    let z = ops::exp(&x)?;
    let ([_, a], [_, b]) = (bump(&z, 1.0)?, bump(&z, 5.0)?);
    transforms::eval(&[&a, &b])?;
    let z = ops::exp(&x)?;
    assert_eq!(a.to_vec::<f32>()?, wanted(&z, 1.0)?.1);
    assert_eq!(b.to_vec::<f32>()?, wanted(&z, 5.0)?.1);
    Ok(())
}

#[test]
fn inputs_that_lie_in_any_way_are_copied() -> Result<()> {
    away_from_the_main_thread();
    let x = numbers(2, &[4, 6])?;
    let strided = [
        ops::transpose(&x)?,
        ops::slice(&x, &[3, 5], &[-5, -7], &[-1, -2])?,
        ops::slice(&x, &[1, 0], &[4, 6], &[2, 1])?,
        ops::broadcast_to(&ops::slice(&x, &[0, 0], &[1, 6], &[1, 1])?, &[3, 6])?,
        ops::broadcast_to(&Array::scalar(3.0_f32)?, &[2, 2])?,
        Array::scalar(3.0_f32)?,
    ];
    for x in &strided {
        let [sum, y] = bump(x, 1.0)?;
        let found = (sum.item::<f32>()?, y.to_vec::<f32>()?);
        let (wanted_sum, wanted) = wanted(x, 1.0)?;
        assert_eq!(found.1, wanted, "{:?}", x.shape());
        assert!((found.0 - wanted_sum).abs() < 1e-5, "{:?}", x.shape());
    }
    // From a byte on which no number starts.
    let bytes = ops::slice(&Array::from_slice(&[0_u8; 25], &[25])?, &[1], &[25], &[1])?;
    let [sum, y] = bump(&ops::view(&bytes, Dtype::Float32)?, 1.0)?;
    assert_eq!((sum.item::<f32>()?, y.to_vec::<f32>()?), (1.0, vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    Ok(())
}

/// The number of elements of its input, which it takes as a slice.
#[derive(PartialEq)]
struct Count;

impl Primitive for Count {
    const NAME: &'static str = "count";

    fn output_specs(&self, _: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![ArraySpec::new([], Dtype::Float32)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        outputs[0].as_mut_slice::<f32>()?[0] = inputs[0].as_slice::<f32>()?.len() as f32;
        Ok(())
    }

    no_transforms!();
}

#[test]
fn inputs_without_elements_are_contiguous() -> Result<()> {
    away_from_the_main_thread();
    let x = numbers(5, &[4, 6])?;
    let empty = [
        ops::transpose(&ops::slice(&x, &[2, 0], &[2, 6], &[1, 1])?)?,
        ops::slice(&ops::transpose(&x)?, &[1, 4], &[5, 4], &[2, 1])?,
        ops::broadcast_to(&ops::zeros(&[1, 0, 3], Dtype::Float32)?, &[2, 0, 3])?,
        ops::zeros(&[0], Dtype::Float32)?,
    ];
    for x in &empty {
        assert_eq!(apply(Count, &[x])?[0].to_vec::<f32>()?, [0.0], "{:?}", x.shape());
    }
    assert_eq!(apply(Count, &[&ops::transpose(&x)?])?[0].to_vec::<f32>()?, [24.0]);
    Ok(())
}

#[test]
fn a_copy_without_memory_is_an_error() -> Result<()> {
    away_from_the_main_thread();
    let x = ops::broadcast_to(&Array::scalar(1.0_f32)?, &[1 << 22, 1 << 23])?;
    let error = apply(Count, &[&x])?[0].eval().unwrap_err().to_string();
    assert_eq!(error, "[count] there is no memory to copy 35184372088832 elements");
    Ok(())
}

#[test]
fn an_input_that_nobody_needs_is_written_over() -> Result<()> {
    away_from_the_main_thread();
    let size = 4 << 20;
    let bytes = 4 * size as usize;
    let mut x = ops::multiply(&ops::ones(&[size], Dtype::Float32)?, &Array::scalar(2.0_f32)?)?;
    transforms::eval(&[&x])?;
    memory::clear_cache()?;
    memory::reset_peak()?;
    let before = memory::active()?;
    for _ in 0..20 {
        let [_, y] = bump(&x, 1.0)?;
        x = y;
        transforms::eval(&[&x])?;
    }
    assert_eq!(x.to_vec::<f32>()?[..2], [22.0, 2.0]);
    let peak = memory::peak()? - before;
    assert!(peak < bytes / 2, "{peak} bytes for 20 updates of {bytes}");
    assert!(memory::active()? < before + bytes / 2, "{} {before}", memory::active()?);
    Ok(())
}

#[test]
fn traced_and_compiled() -> Result<()> {
    away_from_the_main_thread();
    let f = |x: &[Array]| {
        let [sum, y] = bump(&ops::square(&x[0])?, 1.0)?;
        Ok(vec![ops::add(&ops::sum(&ops::square(&y)?, false)?, &sum)?])
    };
    let x = numbers(3, &[7])?;
    let (value, gradient) = transforms::value_and_grad(f, &[0], &[&x])?;
    let y = wanted(&ops::square(&x)?, 1.0)?;
    let value_wanted: f32 = y.1.iter().map(|y| y * y).sum::<f32>() + y.0;
    assert!((value[0].item::<f32>()? - value_wanted).abs() < 1e-4 * value_wanted.abs());
    let numbers = x.to_vec::<f32>()?;
    for ((x, y), gradient) in numbers.iter().zip(&y.1).zip(gradient[0].to_vec::<f32>()?) {
        let wanted = (2.0 * y + 1.0) * 2.0 * x;
        assert!((gradient - wanted).abs() < 1e-4, "{gradient} {wanted}");
    }
    let compiled = transforms::compile(f, false)?;
    for _ in 0..3 {
        let found = compiled.call(std::slice::from_ref(&x))?[0].item::<f32>()?;
        assert!((found - value_wanted).abs() < 1e-4 * value_wanted.abs());
    }
    assert_eq!(x.to_vec::<f32>()?, numbers);
    Ok(())
}

#[test]
fn an_output_that_is_no_update_is_refused() -> Result<()> {
    away_from_the_main_thread();
    let x = numbers(4, &[3])?;
    for other in [ArraySpec::new([4], Dtype::Float32), ArraySpec::new([3], Dtype::Int32)] {
        let error = apply(Bump { by: 1.0, other: Some(other) }, &[&x]).unwrap_err().to_string();
        assert!(error.contains("no update of"), "{error}");
    }
    Ok(())
}

#[test]
fn elements_of_a_slice_by_their_strides() {
    let data = [0, 1, 2, 3, 4, 5_i32];
    let x = Strided::new(&data, &[2, 2], &[3, 1]);
    assert_eq!([[0, 0], [0, 1], [1, 0], [1, 1]].map(|i| x.get(&i)), [0, 1, 3, 4].map(Some));
    assert_eq!(Strided::new(&data, &[4, 0], &[100, -1]).get(&[0, 0]), None);
    assert_eq!(Strided::new(&data[..1], &[5, 1], &[0, 9]).get(&[4, 0]), Some(0));
    let outside: [(&[i32], &[i64]); 5] =
        [(&[2, 3], &[4, 1]), (&[2], &[-1]), (&[7], &[1]), (&[3], &[i64::MAX]), (&[1, 1], &[1])];
    for (shape, strides) in outside {
        let made = std::panic::catch_unwind(|| Strided::new(&data, shape, strides).get(&[0]));
        assert!(made.is_err(), "{shape:?} {strides:?}");
    }
}
