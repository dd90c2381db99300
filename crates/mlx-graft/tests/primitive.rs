//! Operations written in Rust: every kind of output, derivatives, threads, and nothing left behind.

#[path = "common/numbers.rs"]
mod numbers;

use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_graft::primitive::{
    ArraySpec, InputBuffer, KernelError, Layout, OutputBuffer, Primitive, apply,
};
use mlx_graft::{
    Array, Complex32, Dtype, Element, Error, Result, bf16, f16, live_handles, memory, ops,
    transforms,
};
use numbers::numbers;

/// `x` and `y` as they are, and their sum: three outputs, of any dtype and layout.
#[derive(Clone, PartialEq)]
struct Both;

fn copy<T: Element>(from: &InputBuffer<'_>, to: &mut OutputBuffer<'_>) -> Result<(), KernelError> {
    let from = from.strided::<T>()?;
    let mut at = vec![0; from.shape().len()];
    for value in to.as_mut_slice::<T>()? {
        *value = from.get(&at).ok_or_else(|| KernelError::new("outside"))?;
        for (place, &length) in at.iter_mut().zip(from.shape()).rev() {
            *place += 1;
            if *place < length {
                break;
            }
            *place = 0;
        }
    }
    Ok(())
}

impl Primitive for Both {
    const NAME: &'static str = "both";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let [x, y] = inputs else { return Err(Error::invalid_argument(Self::NAME, "takes two")) };
        Ok(vec![x.clone(), y.clone(), ArraySpec::new([], Dtype::Int64)])
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        macro_rules! copy_any {
            ($($variant:ident $ty:ty),*) => {
                for (input, output) in inputs.iter().zip(outputs.iter_mut()) {
                    match input.dtype() {
                        $(Dtype::$variant => copy::<$ty>(input, output)?,)*
                    }
                }
            };
        }
        copy_any!(
            Bool bool, Uint8 u8, Uint16 u16, Uint32 u32, Uint64 u64, Int8 i8, Int16 i16, Int32 i32,
            Int64 i64, Float16 f16, Float32 f32, Float64 f64, Bfloat16 bf16, Complex64 Complex32
        );
        outputs[2].as_mut_slice::<i64>()?[0] = (inputs[0].size() + inputs[1].size()) as i64;
        Ok(())
    }

    fn vjp(
        &self,
        _primals: &[Array],
        cotangents: &[Array],
        argnums: &[usize],
        _outputs: &[Array],
    ) -> Result<Vec<Array>> {
        Ok(argnums.iter().map(|&argnum| cotangents[argnum].clone()).collect())
    }

    fn jvp(&self, primals: &[Array], tangents: &[Array], argnums: &[usize]) -> Result<Vec<Array>> {
        let tangent = |input: usize| match argnums.iter().position(|&argnum| argnum == input) {
            Some(at) => Ok(tangents[at].clone()),
            None => ops::zeros_like(&primals[input]),
        };
        Ok(vec![tangent(0)?, tangent(1)?, Array::scalar(0_i64)?])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Ok((apply(Self, &[&inputs[0], &inputs[1]])?, vec![axes[0], axes[1], None]))
    }

    fn layout(&self, _input: usize) -> Layout {
        Layout::Strided
    }
}

/// Breaks the promises of the trait, one by one.
#[derive(Clone, PartialEq)]
enum Broken {
    Vjp,
    Jvp,
    VmapCount,
    VmapAxis,
    Shape,
    Size,
}

impl Primitive for Broken {
    const NAME: &'static str = "broken";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        if *self == Self::Shape {
            return Ok(vec![ArraySpec::new([-1], Dtype::Float32)]);
        }
        // In 64 bits, these bytes are none.
        if *self == Self::Size && inputs[0].shape == [3] {
            return Ok(vec![ArraySpec::new([1 << 30, 1 << 30, 4], Dtype::Float32); 2]);
        }
        if *self == Self::Size {
            return Ok(vec![ArraySpec::new([1, 1, 1], Dtype::Float32); 2]);
        }
        Ok(vec![inputs[0].clone(), inputs[0].clone()])
    }

    fn eval_cpu(
        &self,
        _inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        outputs.iter_mut().try_for_each(|output| output.as_mut_slice::<f32>().map(|_| ()))
    }

    fn vjp(&self, _: &[Array], _: &[Array], _: &[usize], _: &[Array]) -> Result<Vec<Array>> {
        Ok(vec![ops::zeros(&[7], Dtype::Float32)?])
    }

    fn jvp(&self, _: &[Array], _: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Ok(vec![ops::zeros(&[7], Dtype::Float32)?; 2])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let outputs = apply(self.clone(), &[&inputs[0]])?;
        if *self == Self::VmapCount {
            return Ok((outputs[..1].to_vec(), vec![axes[0]]));
        }
        Ok((outputs, vec![Some(5); 2]))
    }
}

/// The counters are the process's, so the tests run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_kind_of_output() -> Result<()> {
    let _alone = alone();
    for &dtype in Dtype::ALL {
        let x = ops::astype(&numbers(&[3, 4]), dtype)?;
        let views = [
            x.clone(),
            ops::transpose(&x)?,
            x.get((.., 1))?,
            x.get((2, 3))?,
            x.get((3.., ..))?,
            ops::broadcast_to(&x.get((.., ..1))?, &[3, 4])?,
        ];
        for view in &views {
            let out = apply(Both, &[view, &x])?;
            assert_eq!((out[0].shape(), out[0].dtype()), (view.shape(), dtype));
            assert_eq!(out[0].to_bytes()?, view.to_bytes()?);
            assert_eq!(out[1].to_bytes()?, x.to_bytes()?);
            assert_eq!(out[2].item::<i64>()?, (view.size() + x.size()) as i64);
        }
    }
    assert!(apply(Both, &[&numbers(&[2])]).is_err());
    Ok(())
}

fn total(inputs: &[Array]) -> Result<Vec<Array>> {
    let out = apply(Both, &[&inputs[0], &inputs[1]])?;
    Ok(vec![ops::add(&ops::sum(&ops::square(&out[0])?, false)?, &ops::sum(&out[1], false)?)?])
}

#[test]
fn derivatives_and_maps() -> Result<()> {
    let _alone = alone();
    let (x, y) = (numbers(&[3]), numbers(&[2, 2]));
    let grads = transforms::grad(total, &[0, 1], &[&x, &y])?;
    assert_eq!(grads[0].to_vec::<f32>()?, [0.0, 2.0, 4.0]);
    assert_eq!(grads[1].to_vec::<f32>()?, [1.0; 4]);
    let grads = transforms::grad(total, &[1], &[&x, &y])?;
    assert_eq!(grads[0].to_vec::<f32>()?, [1.0; 4]);
    let (_, products) = transforms::jvp(total, &[&x, &y], &[&x, &y])?;
    assert_eq!(products[0].to_vec::<f32>()?, [2.0 * 5.0 + 6.0]);
    let compiled = transforms::compile(total, false)?;
    assert_eq!(compiled.call(&[&x, &y])?[0].to_vec::<f32>()?, [11.0]);
    let rows = ops::stack(&[&x, &x])?;
    let mapped = transforms::vmap(total, &[&rows, &y], &[Some(0), None], &[Some(0)])?;
    assert_eq!(mapped[0].to_vec::<f32>()?, [11.0, 11.0]);
    let columns = ops::transpose(&rows)?;
    let mapped = transforms::vmap(total, &[&columns, &y], &[Some(1), Some(0)], &[Some(0)])?;
    assert_eq!(mapped[0].to_vec::<f32>()?, [6.0, 10.0]);
    Ok(())
}

#[test]
fn broken_promises_are_errors() {
    let _alone = alone();
    let x = numbers(&[3]);
    let run = |broken: Broken| {
        move |v: &[Array]| Ok(vec![ops::sum(&apply(broken.clone(), &[&v[0]])?[0], false)?])
    };
    assert!(apply(Broken::Shape, &[&x]).unwrap_err().to_string().contains("no length below zero"));
    let shapeless = transforms::compile(|x| apply(Broken::Size, &[&x[0]]), true).unwrap();
    assert_eq!(shapeless.call(&[&numbers(&[2])]).unwrap()[0].shape(), [1, 1, 1]);
    for error in [apply(Broken::Size, &[&x]), shapeless.call(&[&x])].map(Result::unwrap_err) {
        assert!(error.to_string().contains("more than memory can hold"), "{error}");
    }
    let error = transforms::grad(run(Broken::Vjp), &[0], &[&x]).unwrap_err();
    assert!(error.to_string().contains("vjp returned an array of shape (7)"), "{error}");
    let error = transforms::jvp(run(Broken::Jvp), &[&x], &[&x]).unwrap_err();
    assert!(error.to_string().contains("jvp returned an array of shape (7)"), "{error}");
    for (broken, text) in [(Broken::VmapCount, "1 arrays instead of 2"), (Broken::VmapAxis, "axis")]
    {
        let error = transforms::vmap(run(broken), &[&x], &[Some(0)], &[Some(0)]).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn eight_threads_leave_nothing() {
    let _alone = alone();
    let rounds = |count: usize| {
        std::thread::scope(|scope| {
            for thread in 0..8_i32 {
                scope.spawn(move || {
                    for _ in 0..count {
                        let x = numbers(&[thread + 1]);
                        let grads = transforms::grad(total, &[0], &[&x, &x]).unwrap();
                        let wanted: Vec<f32> = (0..=thread).map(|i| 2.0 * i as f32).collect();
                        assert_eq!(grads[0].to_vec::<f32>().unwrap(), wanted);
                    }
                });
            }
        });
    };
    rounds(1);
    let before = (live_handles(), memory::active().unwrap());
    rounds(100);
    assert_eq!((live_handles(), memory::active().unwrap()), before);
}
