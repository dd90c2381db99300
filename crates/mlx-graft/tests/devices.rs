//! Devices, streams and limits: what is there works, what is not is a typed error.

use mlx_graft::memory::{self, LimitGuard, Limits};
use mlx_graft::stream::{self, current_device, on_stream};
use mlx_graft::{
    Array, Device, DeviceType, DeviceValue, ErrorKind, Stream, ThreadLocalStream, cuda, metal, ops,
    with_device, with_stream,
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
    // A stream of another thread cannot be evaluated on: the failure shows where the node was put.
    // It is named by number, as handles do not cross.
    let foreign = std::thread::spawn(|| Stream::new(Device::cpu()).unwrap().index().unwrap());
    let index = foreign.join().unwrap();
    let foreign = stream::all().unwrap().into_iter().find(|s| s.index().unwrap() == index).unwrap();
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
