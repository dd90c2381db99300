//! What is repeated: each type of handle, each transformation, and each way to fail.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use mlx_graft::containers::{
    MapStringToArray, MapStringToString, Text, VectorArray, VectorInt, VectorStream, VectorString,
    VectorVectorArray,
};
use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{
    Array, Closure, Device, Dtype, Element, Error, Result, Stream, bf16, f16, io, ops, random,
    transforms, with_device, with_stream,
};

use super::{Round, x};

pub const ROUNDS: &[Round] = &[
    ("arrays of every dtype", arrays),
    ("host data", host_data),
    ("lists", lists),
    ("maps and texts", maps),
    ("operations", operations),
    ("random numbers", random_numbers),
    ("grad", grad),
    ("vjp and jvp", vjp_and_jvp),
    ("vmap", vmap),
    ("compile", compile),
    ("compiled operations with several outputs", compile_siblings),
    ("checkpoint", checkpoint),
    ("closures that fail", failing_closures),
    ("closures that panic", panicking_closures),
    ("operations that fail", failing_operations),
    ("an operation in Rust", primitive),
    ("files", files),
    ("files that fail", failing_files),
];

pub const FEW: &[Round] = &[("devices and streams", streams)];

pub const FAILING: &[Round] = &[("an operation in Rust that fails", failing_primitive)];

fn square_sum(inputs: &[Array]) -> Result<Vec<Array>> {
    Ok(vec![ops::sum(&ops::square(&inputs[0])?, false)?])
}

fn one<T: Element>() -> Result<()> {
    let array = Array::from_slice(&[T::default(); 8], &[2, 4])?;
    let copy = array.clone();
    copy.to_vec::<T>()?;
    ops::transpose(&array)?.to_vec::<T>()?;
    Array::scalar(T::default())?.item::<T>()?;
    Ok(())
}

fn arrays() -> Result<()> {
    one::<bool>()?;
    one::<u8>()?;
    one::<u16>()?;
    one::<u32>()?;
    one::<u64>()?;
    one::<i8>()?;
    one::<i16>()?;
    one::<i32>()?;
    one::<i64>()?;
    one::<f16>()?;
    one::<bf16>()?;
    one::<f32>()?;
    one::<f64>()?;
    one::<mlx_graft::Complex32>()
}

fn host_data() -> Result<()> {
    let owned = Array::from_vec(vec![1.0_f32; 64], &[8, 8])?;
    ops::sum(&owned, false)?.item::<f32>()?;
    let mut array = Array::from_bytes(&[0; 64], &[4, 4], Dtype::Float32)?;
    array.assign(&[1_i32, 2], &[2])?;
    assert!(Array::from_slice(&[1_i32, 2], &[3]).is_err());
    assert!(array.to_vec::<f32>().is_err());
    Ok(())
}

fn lists() -> Result<()> {
    let arrays = VectorArray::from_arrays(&[x()?, x()?])?;
    let nested = VectorVectorArray::from_lists(&[&arrays, &arrays])?;
    nested.get(1)?.to_vec()?;
    VectorInt::from_ints(&[1, 2])?.clone().push(3)?;
    VectorString::from_strings(&["a", "b"])?.to_vec()?;
    assert!(arrays.get(9).is_err());
    Ok(())
}

fn maps() -> Result<()> {
    let mut arrays = MapStringToArray::new();
    arrays.insert("a", &x()?)?;
    arrays.clone().to_map();
    assert!(arrays.get("b")?.is_none());
    let mut texts = MapStringToString::new();
    texts.insert("a", "b")?;
    texts.to_map();
    Text::from_text("text")?;
    Ok(())
}

fn streams() -> Result<()> {
    let stream = Stream::new(Device::cpu())?;
    VectorStream::from_streams(&[&stream])?.get(0)?;
    with_device(stream.device()?, x)??;
    with_stream(&stream, || ops::exp(&x()?))??.eval()
}

fn operations() -> Result<()> {
    let x = x()?;
    ops::split(&ops::concatenate(&[&x, &x])?, 4, 0)?;
    ops::matmul(&ops::softmax_axis(&x, -1, true)?, &x)?.eval()
}

fn random_numbers() -> Result<()> {
    let (key, other) = random::split(&random::key(7)?)?;
    random::normal(&[8], &random::LocScaleOptions::default().key(&key))?.eval()?;
    random::bits(&[8], 4, Some(&other))?.eval()
}

fn grad() -> Result<()> {
    let x = x()?;
    let (value, grads) = transforms::value_and_grad(square_sum, &[0], &[&x])?;
    transforms::eval(&[&value[0], &grads[0]])?;
    let inner = |inputs: &[Array]| {
        let grads = transforms::grad(square_sum, &[0], inputs)?;
        Ok(vec![ops::sum(&grads[0], false)?])
    };
    transforms::grad(inner, &[0], &[&x])?[0].eval()
}

fn vjp_and_jvp() -> Result<()> {
    let (x, one) = (x()?, Array::scalar(1.0_f32)?);
    transforms::vjp(square_sum, &[&x], &[&one])?.1[0].eval()?;
    transforms::jvp(square_sum, &[&x], &[&x])?.1[0].eval()
}

fn vmap() -> Result<()> {
    transforms::vmap(square_sum, &[&x()?], &[Some(0)], &[Some(0)])?[0].eval()
}

fn compile() -> Result<()> {
    let compiled = transforms::compile(square_sum, false)?;
    compiled.call(&[x()?])?[0].item::<f32>()?;
    compiled.call(&[x()?])?[0].item::<f32>().map(drop)
}

/// MLX forgets some of these as it copies a graph, with what the function captured.
fn compile_siblings() -> Result<()> {
    let (captured, two) = (x()?, Array::scalar(2.0_f32)?);
    let f = move |inputs: &[Array]| {
        let halves = ops::divmod(&ops::multiply(&inputs[0], &captured)?, &two)?;
        let again = ops::divmod(&ops::exp(&halves[1])?, &ops::exp(&halves[0])?)?;
        let last = ops::add(&again[0], &ops::multiply(&again[1], &halves[0])?)?;
        Ok(vec![ops::sum(&last, false)?])
    };
    transforms::compile(f.clone(), false)?.call(&[x()?])?[0].eval()?;
    let traces = transforms::Traces::new();
    let named = move |inputs: &[Array]| Ok((f(inputs)?, "sum"));
    traces.call(named, &[x()?], false, &[])?.0[0].eval()
}

fn checkpoint() -> Result<()> {
    let nested = |inputs: &[Array]| transforms::checkpoint(square_sum)?.call(inputs);
    transforms::grad(nested, &[0], &[&x()?])?[0].eval()
}

fn failing(_: &[Array]) -> Result<Vec<Array>> {
    Err(Error::invalid_argument("test", "as planned"))
}

fn failing_closures() -> Result<()> {
    let x = [x()?];
    let some = [Some(0)];
    assert!(Closure::new(failing).call(&x).is_err());
    assert!(transforms::grad(failing, &[0], &x).is_err());
    assert!(transforms::vjp(failing, &x, &x).is_err());
    assert!(transforms::jvp(failing, &x, &x).is_err());
    assert!(transforms::vmap(failing, &x, &some, &some).is_err());
    assert!(transforms::compile(failing, false)?.call(&x).is_err());
    let nested = |inputs: &[Array]| transforms::checkpoint(failing)?.call(inputs);
    assert!(transforms::grad(nested, &[0], &x).is_err());
    Ok(())
}

fn panicking_closures() -> Result<()> {
    let panicking = |_: &[Array]| -> Result<Vec<Array>> { panic!("as planned") };
    let x = [x()?];
    let run = |f: &dyn Fn()| assert!(catch_unwind(AssertUnwindSafe(f)).is_err());
    run(&|| drop(Closure::new(panicking).call(&x)));
    run(&|| drop(transforms::grad(panicking, &[0], &x)));
    run(&|| drop(transforms::vmap(panicking, &x, &[Some(0)], &[Some(0)])));
    Ok(())
}

fn failing_operations() -> Result<()> {
    let x = x()?;
    assert!(ops::reshape(&x, &[7]).is_err());
    assert!(ops::add(&x, &Array::from_slice(&[0_i32; 3], &[3])?).is_err());
    assert!(ops::concatenate(&[] as &[Array]).is_err());
    assert!(ops::einsum("ab,bc->", &[&x]).is_err());
    Ok(())
}

/// Doubles; fails in the kernel if it is told to.
#[derive(Clone, PartialEq)]
struct Double {
    fails: bool,
}

impl Primitive for Double {
    const NAME: &'static str = "double";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(inputs.to_vec())
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        if self.fails {
            return Err(KernelError::new("as planned"));
        }
        let doubled = inputs[0].as_slice::<f32>()?.iter().map(|x| 2.0 * x);
        outputs[0].as_mut_slice::<f32>()?.iter_mut().zip(doubled).for_each(|(y, x)| *y = x);
        Ok(())
    }

    fn vjp(&self, _: &[Array], ct: &[Array], _: &[usize], _: &[Array]) -> Result<Vec<Array>> {
        apply(self.clone(), &[&ct[0]])
    }

    fn jvp(&self, _: &[Array], tangents: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        apply(self.clone(), &[&tangents[0]])
    }

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Ok((apply(self.clone(), &[&inputs[0]])?, vec![axes[0]]))
    }
}

fn doubled_sum(inputs: &[Array]) -> Result<Vec<Array>> {
    let doubled = apply(Double { fails: false }, &[&inputs[0]])?;
    Ok(vec![ops::sum(&doubled[0], false)?])
}

fn primitive() -> Result<()> {
    let x = [x()?];
    transforms::grad(doubled_sum, &[0], &x)?[0].eval()?;
    transforms::jvp(doubled_sum, &x, &x)?.1[0].eval()?;
    transforms::vmap(doubled_sum, &x, &[Some(0)], &[Some(0)])?[0].eval()?;
    transforms::compile(doubled_sum, false)?.call(&x)?[0].eval()
}

fn failing_primitive() -> Result<()> {
    let failing = apply(Double { fails: true }, &[&x()?])?;
    assert!(failing[0].eval().is_err());
    Ok(())
}

/// In memory, through the tables of callbacks: a file on a disk would wait for it each time.
fn files() -> Result<()> {
    let x = x()?;
    let mut npy = Vec::new();
    io::save_to(&mut npy, &x)?;
    io::load_from(Cursor::new(npy))?.eval()?;
    let mut safetensors = Vec::new();
    io::save_safetensors_to(&mut safetensors, [("x", &x)], [("key", "value")])?;
    let loaded = io::load_safetensors_from(Cursor::new(safetensors))?;
    transforms::eval(&loaded.arrays.values().collect::<Vec<_>>())
}

fn failing_files() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(io::load_safetensors(here.join("missing.safetensors")).is_err());
    assert!(io::load_safetensors(here.join("Cargo.toml")).is_err());
    assert!(io::load(here.join("Cargo.toml")).is_err());
    assert!(io::save(here.join("missing/x.npy"), &x()?).is_err());
    Ok(())
}
