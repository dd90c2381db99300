//! Custom kernels: built once, launched often; without the device a typed error.
#![allow(unsafe_code)]

use mlx_graft::fast::kernel::{
    CudaKernel, KernelSource, Launch, MathMode, MetalKernel, PrecompiledCudaKernel, ScalarArg,
};
use mlx_graft::stream::on_stream;
use mlx_graft::{Array, Device, Dtype, ErrorKind, Result, Stream, cuda, live_handles, metal};

const EXP: KernelSource<'_> = KernelSource {
    name: "test_exp",
    inputs: &["x"],
    outputs: &["out"],
    source: "uint i = thread_position_in_grid.x; out[i] = metal::exp(T(x[i])) + (ADD ? N : 0);",
    header: "// nothing\n",
    ensure_row_contiguous: true,
};

fn x() -> Array {
    Array::from_slice(&[0.0_f32; 8], &[8]).unwrap()
}

fn launch() -> Launch {
    Launch::new([8, 1, 1], [8, 1, 1])
        .output(&[8], Dtype::Float32)
        .template("T", Dtype::Float32)
        .template("ADD", true)
        .template("N", 2)
        .init_value(0.0)
        .verbose(false)
}

fn apply<A: AsRef<Array>>(
    kernel: &MetalKernel,
    inputs: &[A],
    launch: &Launch,
) -> Result<Vec<Array>> {
    // SAFETY: each of eight threads reads and writes one of eight elements, and a launch with other
    // inputs or outputs fails.
    unsafe { kernel.apply(inputs, launch) }
}

#[test]
fn a_metal_kernel_is_built_once_and_run_often() {
    let kernels = [
        MetalKernel::new(&EXP, false).unwrap(),
        MetalKernel::with_math_mode(&EXP, false, MathMode::Safe).unwrap(),
        MetalKernel::with_math_mode(&EXP, false, MathMode::Relaxed).unwrap(),
        MetalKernel::with_math_mode(&EXP, false, MathMode::Fast).unwrap(),
    ];
    for kernel in &kernels {
        for _ in 0..3 {
            match apply(kernel, &[&x()], &launch()) {
                Ok(outputs) => {
                    assert!(metal::is_available().unwrap());
                    assert_eq!(outputs[0].to_vec::<f32>().unwrap(), [3.0; 8]);
                }
                Err(error) => {
                    assert!(!metal::is_available().unwrap());
                    assert_eq!(error.kind(), ErrorKind::Runtime);
                    assert_eq!(error.to_string(), "[metal_kernel] No Metal back-end.");
                }
            }
        }
    }
}

#[test]
fn a_metal_kernel_does_not_run_on_the_cpu() {
    let kernel = MetalKernel::new(&EXP, true).unwrap();
    let cpu = Stream::new(Device::cpu()).unwrap();
    let error = on_stream(&cpu, || apply(&kernel, &[&x()], &launch())).unwrap_err();
    assert!(error.to_string().starts_with("[metal_kernel]"), "{error}");
}

#[test]
fn wrong_kernels_are_errors() {
    let nothing = KernelSource { outputs: &[], ..EXP };
    let error = MetalKernel::new(&nothing, false).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let error =
        MetalKernel::with_math_mode(&nothing, false, MathMode::Fast).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let zero = KernelSource { inputs: &["a\0b"], ..EXP };
    let error = MetalKernel::new(&zero, false).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("zero byte"), "{error}");
    let kernel = MetalKernel::new(&EXP, false).unwrap();
    let error = apply::<Array>(&kernel, &[], &launch()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let two = launch().output(&[8], Dtype::Float32);
    let error = apply(&kernel, &[&x()], &two).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let error = apply(&kernel, &[&x()], &launch().template("a\0b", 1)).unwrap_err();
    assert!(error.to_string().contains("zero byte"), "{error}");
}

#[test]
fn cuda_that_is_not_there_is_an_error() {
    if cuda::is_available().unwrap() {
        return;
    }
    let error = CudaKernel::new(&EXP, 0).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert_eq!(error.to_string(), "[cuda_kernel] No CUDA back-end.");
    let kernel = PrecompiledCudaKernel {
        name: "scale",
        compiled: b"",
        shared_memory: 0,
        ensure_row_contiguous: true,
    };
    let scalars = [ScalarArg::Bool(true), ScalarArg::Int(-3), ScalarArg::Float(0.5)];
    // SAFETY: there is no device on which it could run.
    let error = unsafe { kernel.apply(&[&x()], &scalars, &launch()) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert_eq!(error.to_string(), "[cuda_kernel] No CUDA back-end.");
}

#[test]
fn kernels_cross_threads() {
    let kernel = MetalKernel::new(&EXP, false).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let ran = apply(&kernel, &[&x()], &launch()).is_ok();
                assert_eq!(ran, metal::is_available().unwrap());
            });
        }
    });
    assert!(live_handles() > 0);
}
