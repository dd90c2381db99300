//! The promises of the trait for operations written in Rust.

#[macro_use]
#[path = "common/no_transforms.rs"]
mod no_transforms;
#[path = "common/main_thread.rs"]
mod main_thread;
#[path = "common/numbers.rs"]
mod numbers;

use std::sync::atomic::{AtomicUsize, Ordering};

use main_thread::away_from_the_main_thread;
use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{Array, Dtype, Error, ErrorKind, Result, ops, transforms};
use numbers::numbers;

/// An element-wise operation without derivatives, whose kernel is a plain function.
macro_rules! operation {
    ($name:ident, $text:literal, $dtype:expr, $layout:expr, $kernel:expr) => {
        #[derive(Clone, PartialEq)]
        struct $name(f32);

        impl Primitive for $name {
            const NAME: &'static str = $text;

            fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
                Ok(vec![ArraySpec::new(inputs[0].shape.clone(), $dtype)])
            }

            fn eval_cpu(
                &self,
                inputs: &[InputBuffer<'_>],
                outputs: &mut [OutputBuffer<'_>],
            ) -> Result<(), KernelError> {
                let kernel: fn(&Self, &InputBuffer<'_>, &mut OutputBuffer<'_>) -> _ = $kernel;
                kernel(self, &inputs[0], &mut outputs[0])
            }

            fn vjp(
                &self,
                _primals: &[Array],
                cotangents: &[Array],
                _argnums: &[usize],
                _outputs: &[Array],
            ) -> Result<Vec<Array>> {
                apply(self.clone(), &[&cotangents[0]])
            }

            fn jvp(&self, _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
                Err(Error::unsupported_transform(Self::NAME, "jvp"))
            }

            fn vmap(
                &self,
                inputs: &[Array],
                axes: &[Option<i32>],
            ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
                Ok((apply(self.clone(), &[&inputs[0]])?, vec![axes[0]]))
            }

            fn layout(&self, _input: usize) -> Layout {
                $layout
            }
        }
    };
}

static RUNS: AtomicUsize = AtomicUsize::new(0);

operation!(Counted, "counted", Dtype::Float32, Layout::RowContiguous, |this, x, y| {
    RUNS.fetch_add(1, Ordering::Relaxed);
    for (y, x) in y.as_mut_slice::<f32>()?.iter_mut().zip(x.as_slice::<f32>()?) {
        *y = this.0 * x;
    }
    Ok(())
});

operation!(Scale, "scale", Dtype::Float32, Layout::RowContiguous, |this, x, y| {
    for (y, x) in y.as_mut_slice::<f32>()?.iter_mut().zip(x.as_slice::<f32>()?) {
        *y = this.0 * x;
    }
    Ok(())
});

operation!(ScaleAgain, "scale", Dtype::Float32, Layout::RowContiguous, |this, x, y| {
    for (y, x) in y.as_mut_slice::<f32>()?.iter_mut().zip(x.as_slice::<f32>()?) {
        *y = this.0 * x + 1.0;
    }
    Ok(())
});

operation!(Gather, "gather_rows", Dtype::Float32, Layout::Strided, |this, x, y| {
    let x = x.strided::<f32>()?;
    let (rows, columns) = (x.shape()[0], x.shape()[1]);
    assert_eq!(x.get(&[rows, 0]), None);
    assert_eq!(x.get(&[0, -1]), None);
    assert_eq!(x.get(&[0]), None);
    let indices = (0..rows).flat_map(|i| (0..columns).map(move |j| [i, j]));
    for (y, index) in y.as_mut_slice::<f32>()?.iter_mut().zip(indices) {
        *y = this.0 * x.get(&index).ok_or(KernelError::new("outside"))?;
    }
    Ok(())
});

operation!(Refuses, "refuses", Dtype::Float32, Layout::RowContiguous, |_, _, y| {
    y.as_mut_slice::<f32>()?.fill(7.0);
    Err(KernelError::new("it is Monday"))
});

operation!(RefusesInt, "refuses_int", Dtype::Int32, Layout::RowContiguous, |_, _, _| {
    Err(KernelError::new("no integers"))
});

operation!(RefusesBool, "refuses_bool", Dtype::Bool, Layout::RowContiguous, |_, _, _| {
    Err(KernelError::new("no booleans"))
});

operation!(Panics, "panics", Dtype::Float32, Layout::RowContiguous, |_, x, _| {
    let empty = vec![0; x.size() - x.size()];
    panic!("length {}", empty.len())
});

operation!(WrongDtype, "wrong_dtype", Dtype::Float32, Layout::RowContiguous, |_, x, y| {
    y.as_mut_slice::<f32>()?.fill(x.as_slice::<i32>()?[0] as f32);
    Ok(())
});

// Whether each element is true, by its strides or one after the other.
operation!(Truths, "truths", Dtype::Float32, Layout::Strided, |this, x, y| {
    let y = y.as_mut_slice::<f32>()?;
    if this.0 > 0.0 {
        let x = x.strided::<bool>()?;
        for (i, y) in (0..).zip(y) {
            *y = f32::from(u8::from(x.get(&[i]) == Some(true)));
        }
    } else {
        for (y, x) in y.iter_mut().zip(x.as_slice::<bool>()?) {
            *y = f32::from(u8::from(*x));
        }
    }
    Ok(())
});

fn one<P: Primitive>(primitive: P, x: &Array) -> Result<Array> {
    Ok(apply(primitive, &[x])?.remove(0))
}

#[test]
fn equality_compares_parameters_and_types() -> Result<()> {
    away_from_the_main_thread();
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
    let sum = transforms::compile(
        |x| Ok(vec![ops::add(&one(Scale(2.0), &x[0])?, &one(Scale(3.0), &x[0])?)?]),
        false,
    )?;
    assert_eq!(sum.call(&[&x])?[0].to_vec::<f32>()?, [5.0, 10.0]);
    // Same name and parameters, another type.
    let sum = transforms::compile(
        |x| Ok(vec![ops::add(&one(Scale(2.0), &x[0])?, &one(ScaleAgain(2.0), &x[0])?)?]),
        false,
    )?;
    assert_eq!(sum.call(&[&x])?[0].to_vec::<f32>()?, [5.0, 9.0]);
    // Equal ones merge, so that the kernel runs once.
    let sum = transforms::compile(
        |x| Ok(vec![ops::add(&one(Counted(2.0), &x[0])?, &one(Counted(2.0), &x[0])?)?]),
        false,
    )?;
    assert_eq!(sum.call(&[&x])?[0].to_vec::<f32>()?, [4.0, 8.0]);
    assert_eq!(RUNS.load(Ordering::Relaxed), 1);
    Ok(())
}

#[test]
fn inputs_in_every_layout() -> Result<()> {
    away_from_the_main_thread();
    let x = numbers(&[6, 8]);
    let views = [
        x.clone(),
        ops::transpose(&x)?,
        ops::slice(&x, &[1, 2], &[6, 8], &[2, 3])?,
        ops::slice(&x, &[5, 7], &[-7, -9], &[-1, -2])?,
        ops::broadcast_to(&ops::slice(&x, &[2, 0], &[3, 8], &[1, 1])?, &[4, 8])?,
        ops::broadcast_to(&ops::slice(&x, &[0, 2], &[6, 3], &[1, 1])?, &[6, 4])?,
        numbers(&[0, 4]),
        Array::from_slice(&[f32::NAN, f32::INFINITY], &[1, 2])?,
    ];
    for view in &views {
        let bits = |x: &Array| -> Result<Vec<u32>> {
            Ok(x.to_vec::<f32>()?.into_iter().map(f32::to_bits).collect())
        };
        let wanted = ops::multiply(view, &Array::scalar(2.0_f32)?)?;
        assert_eq!(bits(&one(Scale(2.0), view)?)?, bits(&wanted)?);
        assert_eq!(bits(&one(Gather(2.0), view)?)?, bits(&wanted)?);
    }
    Ok(())
}

#[test]
fn an_input_is_never_overwritten() -> Result<()> {
    away_from_the_main_thread();
    // A temporary that MLX could give away to the output.
    let x = numbers(&[1000]);
    let y = one(Scale(3.0), &ops::add(&x, &x)?)?;
    let z = ops::add(&y, &one(Scale(-3.0), &ops::add(&x, &x)?)?)?;
    assert!(z.to_vec::<f32>()?.iter().all(|&z| z == 0.0));
    Ok(())
}

#[track_caller]
fn assert_kernel_error(error: &Error, op: &str, message: &str) {
    assert!(
        matches!(error, Error::Kernel { op: o, message: m } if o == op && m == message),
        "{error:?}"
    );
    assert_eq!(error.to_string(), format!("[{op}] {message}"));
}

#[test]
fn a_failing_kernel_reaches_the_caller() -> Result<()> {
    away_from_the_main_thread();
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
    for _ in 0..20 {
        let y = one(Refuses(0.0), &x)?;
        let z = ops::add(&y, &x)?;
        assert_kernel_error(&z.eval().unwrap_err(), "refuses", "it is Monday");
        // The poison went through the operation that followed.
        assert!(y.to_vec::<f32>()?.iter().all(|y| y.is_nan()));
        assert!(z.to_vec::<f32>()?.iter().all(|z| z.is_nan()));
    }
    let y = one(RefusesInt(0.0), &x)?;
    assert_kernel_error(&y.to_vec::<i32>().unwrap_err(), "refuses_int", "no integers");
    assert_eq!(y.to_vec::<i32>()?, [-1, -1]);
    let y = one(RefusesBool(0.0), &x)?;
    assert_kernel_error(&transforms::eval(&[&y]).unwrap_err(), "refuses_bool", "no booleans");
    assert_eq!(y.to_vec::<bool>()?, [true, true]);
    let y = one(Panics(0.0), &x)?;
    assert_kernel_error(&y.eval().unwrap_err(), "panics", "the kernel panicked: length 0");
    assert!(y.to_vec::<f32>()?.iter().all(|y| y.is_nan()));
    let y = one(WrongDtype(0.0), &x)?;
    assert_kernel_error(&y.eval().unwrap_err(), "wrong_dtype", "the buffer is float32, not int32");

    // Nothing of it is left for others.
    assert_eq!(one(Scale(2.0), &x)?.to_vec::<f32>()?, [2.0, 4.0]);
    Ok(())
}

#[test]
fn a_failure_after_async_eval_reaches_the_one_who_waits() -> Result<()> {
    away_from_the_main_thread();
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
    for _ in 0..20 {
        let y = one(Refuses(0.0), &x)?;
        transforms::async_eval(&[&y])?;
        assert_kernel_error(&y.eval().unwrap_err(), "refuses", "it is Monday");
        assert!(y.to_vec::<f32>()?.iter().all(|y| y.is_nan()));
    }
    assert_eq!(one(Scale(2.0), &x)?.to_vec::<f32>()?, [2.0, 4.0]);
    Ok(())
}

#[test]
fn a_failure_inside_a_compiled_gradient_reaches_the_caller() -> Result<()> {
    away_from_the_main_thread();
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
    let step = transforms::compile(
        |x| {
            let loss = |x: &[Array]| Ok(vec![ops::sum(&one(Refuses(0.0), &x[0])?, false)?]);
            transforms::grad(loss, &[0], x)
        },
        false,
    )?;
    let gradient = step.call(&[&x])?.remove(0);
    assert_kernel_error(&gradient.eval().unwrap_err(), "refuses", "it is Monday");
    Ok(())
}

#[test]
fn a_missing_transform_says_so() -> Result<()> {
    away_from_the_main_thread();
    let x = [Array::from_slice(&[1.0_f32, 2.0], &[2])?];
    let function = |x: &[Array]| Ok(vec![one(Scale(2.0), &x[0])?]);
    let error = transforms::jvp(function, &x, &x).unwrap_err();
    assert_eq!(error.to_string(), "[scale] jvp is not implemented for this operation");
    Ok(())
}

#[test]
fn derivative_and_vectorization_of_the_trait_are_used() -> Result<()> {
    away_from_the_main_thread();
    let x = [numbers(&[3, 4])];
    let function = |x: &[Array]| Ok(vec![one(Scale(2.0), &x[0])?]);
    let (_, gradient) = transforms::vjp(function, &x, &x)?;
    let wanted = ops::add(&x[0], &x[0])?.to_vec::<f32>()?;
    assert_eq!(gradient[0].to_vec::<f32>()?, wanted);
    let mapped = transforms::vmap(function, &x, &[Some(1)], &[Some(1)])?;
    assert_eq!(mapped[0].to_vec::<f32>()?, wanted);
    Ok(())
}

/// Two outputs, and a derivative that panics.
#[derive(PartialEq)]
struct Halves;

impl Primitive for Halves {
    const NAME: &'static str = "halves";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let [ArraySpec { shape, dtype }] = inputs else {
            return Err(Error::invalid_argument(Self::NAME, "needs one array"));
        };
        let half = [shape[0] / 2];
        Ok(vec![ArraySpec::new(half, *dtype), ArraySpec::new(half, Dtype::Int32)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let (first, second) = inputs[0].as_slice::<f32>()?.split_at(outputs[0].size());
        outputs[0].as_mut_slice::<f32>()?.copy_from_slice(first);
        for (y, x) in outputs[1].as_mut_slice::<i32>()?.iter_mut().zip(second) {
            *y = *x as i32;
        }
        Ok(())
    }

    fn vjp(
        &self,
        _primals: &[Array],
        _cotangents: &[Array],
        _argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        panic!("no derivative of halves")
    }

    fn jvp(&self, _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        // One array for two outputs.
        Ok(vec![Array::scalar(0.0_f32)?])
    }

    fn vmap(&self, _: &[Array], _: &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Err(Error::unsupported_transform(Self::NAME, "vmap"))
    }
}

#[test]
fn several_outputs() -> Result<()> {
    away_from_the_main_thread();
    let x = Array::from_slice(&[1.5_f32, 2.5, 3.0, 4.0], &[4])?;
    let outputs = apply(Halves, &[&x])?;
    assert_eq!(outputs[0].to_vec::<f32>()?, [1.5, 2.5]);
    assert_eq!(outputs[1].to_vec::<i32>()?, [3, 4]);
    let shapeless = transforms::compile(|x| apply(Halves, &[&x[0]]), true)?;
    for size in [4, 8, 2] {
        let x = ops::arange(0.0, f64::from(size), 1.0, Dtype::Float32)?;
        let outputs = shapeless.call(&[&x])?;
        assert_eq!(outputs[0].shape(), [size / 2]);
        assert_eq!(outputs[1].to_vec::<i32>()?, (size / 2..size).collect::<Vec<_>>());
    }
    let error = apply(Halves, &[&x, &x]).unwrap_err();
    assert_eq!(error.to_string(), "[halves] needs one array");
    Ok(())
}

#[test]
fn a_panic_in_a_derivative_unwinds_to_the_caller() -> Result<()> {
    away_from_the_main_thread();
    let x = [Array::from_slice(&[1.0_f32, 2.0], &[2])?];
    let differentiate = || {
        let loss = |x: &[Array]| Ok(vec![ops::sum(&apply(Halves, &[&x[0]])?[0], false)?]);
        transforms::grad(loss, &[0], &x)
    };
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(differentiate)).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"no derivative of halves"));

    let error = transforms::jvp(|x| apply(Halves, &[&x[0]]), &x, &x).unwrap_err();
    assert!(error.to_string().contains("jvp returned 1 arrays instead of 2"), "{error}");
    Ok(())
}

#[test]
fn a_boolean_of_another_byte_is_refused_or_true() -> Result<()> {
    away_from_the_main_thread();
    let bytes = |bytes: &[u8]| -> Result<Array> {
        ops::view(&Array::from_slice(bytes, &[bytes.len() as i32])?, Dtype::Bool)
    };
    for strided in [0.0, 1.0] {
        let y = one(Truths(strided), &bytes(&[0, 1, 1, 0])?)?;
        assert_eq!(y.to_vec::<f32>()?, [0.0, 1.0, 1.0, 0.0]);
    }
    let odd = bytes(&[0, 1, 2, 255])?;
    assert_eq!(one(Truths(1.0), &odd)?.to_vec::<f32>()?, [0.0, 1.0, 1.0, 1.0]);
    let error = one(Truths(0.0), &odd)?.eval().unwrap_err();
    assert!(matches!(&error, Error::Kernel { op, .. } if op == "truths"), "{error:?}");
    assert!(error.to_string().contains("a byte of 2, which is no bool"), "{error}");
    Ok(())
}

/// An update of its input, and more than any machine has memory for.
#[derive(PartialEq)]
struct Vast;

impl Primitive for Vast {
    const NAME: &'static str = "vast";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(vec![inputs[0].clone(), ArraySpec::new([1 << 22, 1 << 23], Dtype::Float32)])
    }

    fn eval_cpu(
        &self,
        _inputs: &[InputBuffer<'_>],
        _outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        Ok(())
    }

    fn updates(&self, output: usize) -> Option<usize> {
        (output == 0).then_some(0)
    }

    no_transforms!();
}

#[test]
fn outputs_without_memory_are_errors_each_time() -> Result<()> {
    away_from_the_main_thread();
    let outputs = apply(Vast, &[&ops::exp(&numbers(&[5]))?])?;
    // Both ask for the memory of all outputs, and need the input for it.
    for output in [&outputs[0], &outputs[1], &outputs[1], &outputs[0]] {
        assert_eq!(output.eval().unwrap_err().kind(), ErrorKind::OutOfMemory);
    }
    Ok(())
}

/// Copies its input, to as many outputs, of such dtypes and dimensions as its length says.
#[derive(PartialEq)]
struct Fickle;

impl Primitive for Fickle {
    const NAME: &'static str = "fickle";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let of = |dtype| ArraySpec::new(inputs[0].shape.clone(), dtype);
        Ok(match inputs[0].shape[0] {
            1 => vec![of(Dtype::Float32)],
            3 => vec![of(Dtype::Float32); 3],
            4 => vec![of(Dtype::Float32), of(Dtype::Int64)],
            5 => Vec::new(),
            6 => vec![ArraySpec::new([6, 1], Dtype::Float32); 2],
            _ => vec![of(Dtype::Float32); 2],
        })
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        for output in outputs {
            output.as_mut_slice::<f32>()?.copy_from_slice(inputs[0].as_slice::<f32>()?);
        }
        Ok(())
    }

    no_transforms!();
}

#[test]
fn outputs_for_other_shapes_differ_in_lengths_alone() -> Result<()> {
    away_from_the_main_thread();
    for traced in [1, 2] {
        let both = transforms::compile(|x| apply(Fickle, &[&x[0]]), true)?;
        assert_eq!(both.call(&[&numbers(&[traced])])?.len(), traced as usize);
        for other in [1, 3, 4, 5, 6] {
            if other == traced {
                continue;
            }
            let error = both.call(&[&numbers(&[other])]).unwrap_err();
            assert!(error.to_string().starts_with("[fickle] output_specs "), "{error}");
        }
        assert_eq!(both.call(&[&numbers(&[traced])])?[0].shape(), [traced]);
    }
    Ok(())
}
