//! MLX takes what rules return at its word, and indexes memory by it: they are held to the shapes and
//! dtypes that belong there.

#[macro_use]
#[path = "common/identity.rs"]
mod identity;
#[macro_use]
#[path = "common/no_transforms.rs"]
mod no_transforms;

use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::transforms::{self, CustomFunction};
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, ops};

const LENGTH: i32 = 8;

/// The gradient of the sum of `f` of the elements picked one by one: MLX scatters what `f` passes
/// back as if it had their shape and dtype.
fn gradient(f: impl Fn(Array) -> Result<Array> + 'static) -> Result<Array> {
    let sum = move |x: &[Array]| {
        let indices = ops::arange(0.0, f64::from(LENGTH), 1.0, Dtype::Int32)?;
        Ok(vec![ops::sum(&f(ops::take_along_axis(&x[0], &indices, 0)?)?, false)?])
    };
    let ones = ops::ones(&[LENGTH], Dtype::Float32)?;
    Ok(transforms::grad(sum, &[0], &[ones])?.remove(0))
}

fn identity() -> CustomFunction {
    CustomFunction::new(|x| Ok(x.to_vec()))
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T>, words: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn a_vjp_of_another_shape_is_refused_and_of_another_dtype_converted() {
    let f = identity().vjp(|_, _, _| Ok(vec![ops::ones(&[1], Dtype::Float32)?]));
    let result = gradient(move |x| Ok(f.call(&[x])?.remove(0)));
    assert_refused(result, "the rule for vjp returns shape [1] instead of [8]");
    let f = identity().vjp(|_, dy, _| Ok(vec![ops::astype(&dy[0], Dtype::Uint8)?]));
    let slope = gradient(move |x| Ok(f.call(&[x])?.remove(0))).unwrap();
    assert_eq!(slope.to_vec::<f32>().unwrap(), [1.0; LENGTH as usize]);
    let f = transforms::custom_vjp(
        |x| Ok(x.to_vec()),
        |_, _, _| Ok(vec![ops::ones(&[2, 4], Dtype::Float32)?]),
    )
    .unwrap();
    let result = gradient(move |x| Ok(f.call(&[x])?.remove(0)));
    assert_refused(result, "the rule for vjp returns shape [2, 4] instead of [8]");
}

#[test]
fn a_jvp_of_another_shape_is_refused_and_of_another_dtype_converted() {
    let x = ops::ones(&[LENGTH], Dtype::Float32).unwrap();
    let f = identity().jvp(|_, _, _| Ok(vec![ops::ones(&[1], Dtype::Float32)?]));
    let result = transforms::jvp(move |x| f.call(x), &[&x], &[&x]);
    assert_refused(result, "the rule for jvp returns shape [1] instead of [8]");
    let f = identity().jvp(|_, dx, _| Ok(vec![ops::astype(&dx[0], Dtype::Bfloat16)?]));
    let (_, tangents) = transforms::jvp(move |x| f.call(x), &[&x], &[&x]).unwrap();
    assert_eq!(tangents[0].to_vec::<f32>().unwrap(), [1.0; LENGTH as usize]);
}

#[test]
fn a_vmap_along_an_axis_that_is_not_there_is_refused() {
    let x = ops::ones(&[4, 5, 6], Dtype::Float32).unwrap();
    let mapped = |outputs: fn(&Array) -> Result<Array>, axis: Option<i32>| {
        let f = identity().vmap(move |x, _| Ok((vec![outputs(&x[0])?], vec![axis])));
        let first = move |x: &[Array]| {
            let y = f.call(x)?.remove(0);
            Ok(vec![ops::slice(&y, &[0, 0], &[1, 1], &[1, 1])?])
        };
        transforms::vmap(first, &[&x], &[Some(0)], &[Some(0)])
    };
    let same: fn(&Array) -> Result<Array> = |x| Ok(x.clone());
    assert_eq!(mapped(same, Some(0)).unwrap()[0].shape(), [4, 1, 1]);
    for axis in [1_000_000, 3, -2] {
        let wanted = format!("gives {axis} as the axis of an output of [4, 5, 6]");
        assert_refused(mapped(same, Some(axis)), &wanted);
    }
    let wanted = "float32 [4, 5, 6] instead of float32 [5, 4, 6]";
    assert_refused(mapped(same, Some(1)), wanted);
    assert_refused(mapped(same, None), "float32 [4, 5, 6] instead of float32 [5, 6]");
    let other: fn(&Array) -> Result<Array> = |x| ops::astype(x, Dtype::Bool);
    assert_refused(mapped(other, Some(0)), "bool_ [4, 5, 6] instead of float32 [4, 5, 6]");
}

/// The identity, whose derivatives have another dtype.
#[derive(PartialEq)]
struct Narrow;

impl Primitive for Narrow {
    const NAME: &'static str = "narrow";

    identity!();

    fn vjp(
        &self,
        _: &[Array],
        cotangents: &[Array],
        _: &[usize],
        _: &[Array],
    ) -> Result<Vec<Array>> {
        Ok(vec![ops::astype(&cotangents[0], Dtype::Bool)?])
    }

    fn jvp(&self, _: &[Array], tangents: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Ok(vec![ops::astype(&tangents[0], Dtype::Float16)?])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Ok((vec![ops::astype(&inputs[0], Dtype::Int8)?], axes.to_vec()))
    }
}

#[test]
fn what_rules_of_a_primitive_return_gets_its_dtype() {
    let slope = gradient(|x| Ok(apply(Narrow, &[&x])?.remove(0))).unwrap();
    assert_eq!(slope.to_vec::<f32>().unwrap(), [1.0; LENGTH as usize]);
    let x = ops::ones(&[LENGTH], Dtype::Float32).unwrap();
    let f = |x: &[Array]| apply(Narrow, &[&x[0]]);
    let (_, tangents) = transforms::jvp(f, &[&x], &[&x]).unwrap();
    assert_eq!(tangents[0].to_vec::<f32>().unwrap(), [1.0; LENGTH as usize]);
    let error = transforms::vmap(f, &[&x], &[Some(0)], &[Some(0)]).unwrap_err();
    assert!(error.to_string().contains("int8 instead of float32"), "{error}");
}

/// Fails with a text.
#[derive(PartialEq)]
struct Fails(&'static str);

impl Primitive for Fails {
    const NAME: &'static str = "fails";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        _: &[InputBuffer<'_>],
        _: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        Err(KernelError::new(self.0))
    }

    no_transforms!();
}

#[test]
fn texts_of_errors_are_no_formats() {
    let x = ops::ones(&[8, 64], Dtype::Float32).unwrap();
    for text in ["5% done", "%s%s%s%s%s%s%s%s", "%n%n%n%n", "%p %d %%"] {
        let error = apply(Fails(text), &[&x]).unwrap()[0].eval().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        let fail = move |_: &[Array]| Err(Error::invalid_argument("closure", text));
        let f = transforms::compile(fail, false).unwrap();
        assert!(f.call(&[&x]).unwrap_err().to_string().contains(text));
        let options = ops::QuantizeOptions::default().mode(text);
        let error = ops::quantize(&x, &options).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}
