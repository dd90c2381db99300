//! Devices, streams and limits: what is there works, what is not is a typed error.

use std::rc::Rc;

use mlx_graft::memory::{self, LimitGuard, Limits};
use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::stream::{self, current_device, on_stream};
use mlx_graft::{
    Array, Device, DeviceType, DeviceValue, ErrorKind, Result, Stream, ThreadLocalStream, cuda, io,
    metal, ops, transforms, with_device, with_stream,
};

const FOURTH: Device = Device { kind: DeviceType::Cpu, index: 3 };

fn x() -> Array {
    Array::from_slice(&[1.0_f32, 2.0], &[2]).unwrap()
}

#[test]
fn the_cpu_is_described() {
    let info = Device::cpu().info().unwrap();
    let keys = info.keys().unwrap();
    assert!(keys.contains(&"architecture".to_string()), "{keys:?}");
    for key in &keys {
        match info.get(key).unwrap().unwrap() {
            DeviceValue::Text(text) => assert!(!text.is_empty(), "{key}"),
            DeviceValue::Number(_) => {}
        }
    }
    assert_eq!(info.get("wings").unwrap(), None);
    assert_eq!(info.get("a\0b").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(!FOURTH.is_available().unwrap());
    assert_eq!(FOURTH.to_string(), "Device(cpu, 3)");
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let error = Stream::default_of(FOURTH).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    if Device::gpu().is_available().unwrap() {
        return;
    }
    assert_eq!(DeviceType::Gpu.count().unwrap(), 0);
    assert!(Device::gpu().info().unwrap().keys().unwrap().is_empty());
    let thread_local = ThreadLocalStream::new(Device::gpu()).unwrap();
    let errors = [
        (Device::gpu().set_default().unwrap_err(), "set_default_device"),
        (Stream::new(Device::gpu()).unwrap_err(), "new_stream"),
        (Stream::default_of(Device::gpu()).unwrap_err(), "default_stream"),
        (thread_local.stream().unwrap_err(), "new_stream"),
        (thread_local.synchronize().unwrap_err(), "new_stream"),
        (with_device(Device::gpu(), || ()).unwrap_err(), "set_default_device"),
    ];
    for (error, op) in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().starts_with(&format!("[{op}]")), "{error}");
    }
}

#[test]
fn metal_that_is_not_there_is_an_error() {
    assert!(!(metal::is_available().unwrap() && cuda::is_available().unwrap()));
    if metal::is_available().unwrap() {
        return;
    }
    let errors = [
        (metal::start_capture("x.gputrace").unwrap_err(), "metal::start_capture"),
        (metal::stop_capture().unwrap_err(), "metal::stop_capture"),
        (metal::metallib_path().unwrap_err(), "metal::"),
        (metal::set_metallib_path("mlx.metallib").unwrap_err(), "metal::set_metallib_path"),
    ];
    for (error, op) in errors {
        assert_eq!(error.kind(), ErrorKind::Runtime, "{error}");
        assert!(error.to_string().contains(op), "{error}");
    }
}

#[test]
fn streams_are_told_apart() {
    let (first, second) =
        (Stream::new(Device::cpu()).unwrap(), Stream::new(Device::cpu()).unwrap());
    assert_ne!(first, second);
    assert_ne!(first.index().unwrap(), second.index().unwrap());
    assert!(first.is_on(Device::cpu()).unwrap());
    assert!(!first.is_on(Device::gpu()).unwrap());
    assert_eq!(first.device().unwrap(), Device::cpu());
    let wanted = format!("Stream(Device(cpu, 0), {})", first.index().unwrap());
    assert_eq!((first.to_string(), format!("{first:?}")), (wanted.clone(), wanted));
    let all = stream::all().unwrap();
    assert!(all.contains(&first) && all.contains(&second));
    first.synchronize().unwrap();
    stream::synchronize().unwrap();
}

#[test]
fn scopes_nest_and_end() {
    let before = Stream::default_of(Device::cpu()).unwrap();
    let (outer, inner) = (Stream::new(Device::cpu()).unwrap(), Stream::new(Device::cpu()).unwrap());
    let default = || Stream::default_of(Device::cpu()).unwrap();
    with_stream(&outer, || {
        assert_eq!(default(), outer);
        on_stream(&inner, || {
            assert_eq!(default(), outer, "an explicit stream is no default");
            assert_eq!(current_device().unwrap(), Device::cpu());
            let y = with_stream(&inner, || ops::exp(&x())).unwrap().unwrap();
            y.eval().unwrap();
        });
        assert_eq!(default(), outer);
    })
    .unwrap();
    assert_eq!(default(), before);
    let panicking = || with_stream(&outer, || on_stream(&inner, || panic!("as planned")));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
    assert_eq!(default(), before);
    assert_eq!(ops::square(&x()).unwrap().to_vec::<f32>().unwrap(), [1.0, 4.0]);
}

#[test]
fn an_operation_runs_on_the_stream_that_is_named() {
    let foreign = of_another_thread();
    let y = on_stream(&foreign, || ops::exp(&x())).unwrap();
    assert_eq!(y.eval().unwrap_err().kind(), ErrorKind::Runtime);
    assert!(ops::exp(&x()).unwrap().eval().is_ok());
}

#[test]
fn limits_are_put_back() {
    let limits = || {
        let cache = memory::set_cache_limit(1 << 40).unwrap();
        memory::set_cache_limit(cache).unwrap();
        let wired = memory::set_wired_limit(0).unwrap();
        memory::set_wired_limit(wired).unwrap();
        (memory::memory_limit().unwrap(), cache, wired)
    };
    let before = limits();
    {
        let all = Limits { memory: Some(1 << 33), cache: Some(1 << 20), wired: Some(0) };
        let _outer = LimitGuard::new(all).unwrap();
        {
            let cache = Limits { cache: Some(1 << 21), ..Limits::default() };
            let _inner = LimitGuard::new(cache).unwrap();
            assert_eq!(limits(), (1 << 33, 1 << 21, 0));
        }
        assert_eq!(limits(), (1 << 33, 1 << 20, 0));
    }
    assert_eq!(limits(), before);
    memory::clear_cache().unwrap();
    memory::reset_peak().unwrap();
    let x = ops::square(&Array::from_slice(&vec![1.0_f32; 1 << 16], &[1 << 16]).unwrap()).unwrap();
    x.eval().unwrap();
    assert!(memory::active().unwrap() >= x.nbytes());
    assert!(memory::peak().unwrap() >= x.nbytes());
    drop(x);
    memory::cache().unwrap();
}

#[test]
fn the_version_is_that_of_the_build() {
    assert_eq!(mlx_graft::version().unwrap(), mlx_graft::sys::MLX_VERSION);
}

/// A stream that this thread cannot evaluate on: a failure shows where a node was put.
fn of_another_thread() -> Stream {
    // It is named by number, as handles do not cross.
    let foreign = std::thread::spawn(|| Stream::new(Device::cpu()).unwrap().index().unwrap());
    let index = foreign.join().unwrap();
    stream::all().unwrap().into_iter().find(|s| s.index().unwrap() == index).unwrap()
}

/// Twice its input, with derivatives and a map made of operations.
#[derive(PartialEq)]
struct Twice;

impl Primitive for Twice {
    const NAME: &'static str = "twice";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        Ok(inputs.to_vec())
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let places = outputs[0].as_mut_slice::<f32>()?.iter_mut();
        places.zip(inputs[0].as_slice::<f32>()?).for_each(|(y, x)| *y = 2.0 * x);
        Ok(())
    }

    fn vjp(&self, _: &[Array], dy: &[Array], _: &[usize], _: &[Array]) -> Result<Vec<Array>> {
        assert_eq!(current_device()?, Device::cpu());
        Ok(vec![ops::add(&dy[0], &dy[0])?])
    }

    fn jvp(&self, _: &[Array], dx: &[Array], _: &[usize]) -> Result<Vec<Array>> {
        Ok(vec![ops::add(&dx[0], &dx[0])?])
    }

    fn vmap(&self, x: &[Array], axes: &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        Ok((apply(Self, &[&x[0]])?, axes.to_vec()))
    }
}

#[test]
fn the_rules_of_a_primitive_stay_on_its_stream() {
    let foreign = of_another_thread();
    let own = Rc::new(Stream::new(Device::cpu()).unwrap());
    let twice = || {
        let own = own.clone();
        move |x: &[Array]| on_stream(&own, || apply(Twice, &[&x[0]]))
    };
    let (dx, products, rows) = on_stream(&foreign, || {
        let (_, dx) = transforms::vjp(twice(), &[x()], &[x()]).unwrap();
        let (_, products) = transforms::jvp(twice(), &[x()], &[x()]).unwrap();
        let rows = transforms::vmap(twice(), &[x()], &[Some(0)], &[Some(0)]).unwrap();
        (dx, products, rows)
    });
    for y in [&dx[0], &products[0], &rows[0]] {
        assert_eq!(y.to_vec::<f32>().unwrap(), [2.0, 4.0]);
    }
}

#[test]
fn an_explicit_stream_decides_where_indices_are_checked_and_files_are_read() {
    let own = Stream::new(Device::cpu()).unwrap();
    let foreign = of_another_thread();
    let zero = Array::from_slice(&[0], &[1]).unwrap();
    let y = with_stream(&foreign, || {
        on_stream(&own, || {
            let lazy = ops::add(&zero, &zero).unwrap();
            ops::take(&x(), &lazy).unwrap()
        })
    });
    assert_eq!(y.unwrap().to_vec::<f32>().unwrap(), [1.0]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    io::save(&path, &x()).unwrap();
    let y = with_stream(&foreign, || on_stream(&own, || io::load(&path))).unwrap().unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0, 2.0]);
}

#[test]
fn a_default_that_is_set_in_a_scope_counts_there() {
    let (outer, inner) = (Stream::new(Device::cpu()).unwrap(), of_another_thread());
    let before = Stream::default_of(Device::cpu()).unwrap();
    with_stream(&outer, || {
        Device::cpu().set_default().unwrap();
        inner.set_default().unwrap();
        assert!(ops::exp(&x()).unwrap().eval().is_err(), "put on the stream set last");
    })
    .unwrap();
    assert_eq!(Stream::default_of(Device::cpu()).unwrap(), before);
}
