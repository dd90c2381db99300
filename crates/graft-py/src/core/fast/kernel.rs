//! Kernels for the GPU from source text.
#![allow(unsafe_code)]

use mlx_graft::DeviceType;
use mlx_graft::fast::kernel::{
    CudaKernel, KernelSource, Launch, MathMode, MetalKernel, PrecompiledCudaKernel, ScalarArg,
    TemplateArg,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList};

use crate::bridge::{DtypeArg, Out, StreamOrDevice, wrong_type};
use crate::error::to_py;
use crate::ops::arguments::run;
use crate::ops::scalars::{Converted, Operand};

/// Adds the functions of this file to a Python module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(metal_kernel, module)?)?;
    module.add_function(wrap_pyfunction!(cuda_kernel, module)?)?;
    module.add_function(wrap_pyfunction!(precompiled_cuda_kernel, module)?)
}

/// A kernel for Metal from the body of its function. It is built once and called often:
/// `kernel(inputs=[x], output_shapes=[x.shape], output_dtypes=[x.dtype], grid=(x.size, 1, 1),
/// threadgroup=(256, 1, 1), template=[("T", mx.float32)])`.
#[pyfunction]
#[pyo3(signature = (name, input_names, output_names, source, header="", ensure_row_contiguous=true, atomic_outputs=false, compile_options=None), text_signature = "(name, input_names, output_names, source, header='', ensure_row_contiguous=True, atomic_outputs=False, compile_options=None)")]
#[allow(clippy::too_many_arguments)]
fn metal_kernel(
    name: &str,
    input_names: Vec<String>,
    output_names: Vec<String>,
    source: &str,
    header: &str,
    ensure_row_contiguous: bool,
    atomic_outputs: bool,
    compile_options: Option<&Bound<'_, PyAny>>,
) -> PyResult<CustomKernel> {
    let mode = compile_options.map(math_mode).transpose()?;
    let kernel = with_source(
        (name, &input_names, &output_names, source, header, ensure_row_contiguous),
        |source| match mode {
            Some(mode) => MetalKernel::with_math_mode(source, atomic_outputs, mode),
            None => MetalKernel::new(source, atomic_outputs),
        },
    )?;
    Ok(CustomKernel(Kernel::Metal(kernel)))
}

/// A kernel for CUDA from the body of its function, called as a `metal_kernel` is.
#[pyfunction]
#[pyo3(signature = (name, input_names, output_names, source, header="", ensure_row_contiguous=true, shared_memory=0), text_signature = "(name, input_names, output_names, source, header='', ensure_row_contiguous=True, shared_memory=0)")]
fn cuda_kernel(
    name: &str,
    input_names: Vec<String>,
    output_names: Vec<String>,
    source: &str,
    header: &str,
    ensure_row_contiguous: bool,
    shared_memory: i32,
) -> PyResult<CustomKernel> {
    let kernel = with_source(
        (name, &input_names, &output_names, source, header, ensure_row_contiguous),
        |source| CudaKernel::new(source, shared_memory),
    )?;
    Ok(CustomKernel(Kernel::Cuda(kernel)))
}

/// Runs a CUDA kernel that was compiled to PTX or cubin: its function takes the inputs, the
/// outputs and the scalars in this order.
#[pyfunction]
#[pyo3(signature = (*, name, compiled_source, inputs, output_shapes, output_dtypes, scalars, grid, threadgroup, shared_memory=0, init_value=None, ensure_row_contiguous=false, stream=None), text_signature = "(*, name, compiled_source, inputs, output_shapes, output_dtypes, scalars, grid, threadgroup, shared_memory=0, init_value=None, ensure_row_contiguous=False, stream=None)")]
#[allow(clippy::too_many_arguments)]
fn precompiled_cuda_kernel<'py>(
    py: Python<'py>,
    name: &str,
    compiled_source: &[u8],
    inputs: Vec<Operand<'_>>,
    output_shapes: Vec<Vec<i32>>,
    output_dtypes: Vec<DtypeArg>,
    scalars: Vec<Bound<'_, PyAny>>,
    grid: Three,
    threadgroup: Three,
    shared_memory: i32,
    init_value: Option<f32>,
    ensure_row_contiguous: bool,
    stream: Option<&Bound<'_, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let inputs = arrays(inputs)?;
    let scalars = scalars.iter().map(scalar).collect::<PyResult<Vec<_>>>()?;
    let launch = launch(grid, threadgroup, output_shapes, output_dtypes, init_value)?;
    let kernel = PrecompiledCudaKernel {
        name,
        compiled: compiled_source,
        shared_memory,
        ensure_row_contiguous,
    };
    // SAFETY: Python has no unsafe code; as with `mlx.core`, its caller answers for the kernel.
    let outputs = run(stream, || unsafe { kernel.apply(&inputs, &scalars, &launch) })?;
    PyList::new(py, outputs.into_iter().map(Out))
}

/// Three integers.
struct Three([i32; 3]);

impl<'py> FromPyObject<'_, 'py> for Three {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Self).map_err(|_| wrong_type("three integers", object))
    }
}

enum Kernel {
    Metal(MetalKernel),
    Cuda(CudaKernel),
}

/// A kernel for the GPU, made by `metal_kernel` or `cuda_kernel`.
#[pyclass(module = "mlx_graft.core.fast", frozen)]
struct CustomKernel(Kernel);

#[pymethods]
impl CustomKernel {
    /// Runs the kernel on `grid` threads in groups of `threadgroup`, and returns its outputs.
    #[pyo3(signature = (*, inputs, output_shapes, output_dtypes, grid, threadgroup, template=None, init_value=None, verbose=false, stream=None))]
    #[allow(clippy::too_many_arguments)]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Operand<'_>>,
        output_shapes: Vec<Vec<i32>>,
        output_dtypes: Vec<DtypeArg>,
        grid: Three,
        threadgroup: Three,
        template: Option<Vec<(String, Bound<'_, PyAny>)>>,
        init_value: Option<f32>,
        verbose: bool,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let Self(kernel) = self;
        let inputs = arrays(inputs)?;
        let mut launch =
            launch(grid, threadgroup, output_shapes, output_dtypes, init_value)?.verbose(verbose);
        for (name, value) in template.unwrap_or_default() {
            launch = launch.template(name, template_arg(kernel, &value)?);
        }
        let outputs = match kernel {
            Kernel::Metal(kernel) => {
                let stream = stream.filter(|stream| !is_the_gpu(stream));
                // SAFETY: Python has no unsafe code; as with `mlx.core`, its caller answers for the
                // kernel.
                run(stream, || unsafe { kernel.apply(&inputs, &launch) })?
            }
            Kernel::Cuda(kernel) => {
                // SAFETY: as above.
                run(stream, || unsafe { kernel.apply(&inputs, &launch) })?
            }
        };
        PyList::new(py, outputs.into_iter().map(Out))
    }
}

/// Whether a stream argument is the first GPU, on which a Metal kernel runs anyway. Its default
/// stream does not exist where kernels are only exported.
fn is_the_gpu(stream: &Bound<'_, PyAny>) -> bool {
    let place = stream.extract::<StreamOrDevice>();
    matches!(place, Ok(StreamOrDevice::Device(device))
        if device.kind == DeviceType::Gpu && device.index == 0)
}

type Parts<'a> = (&'a str, &'a [String], &'a [String], &'a str, &'a str, bool);

fn with_source<T>(
    (name, inputs, outputs, source, header, ensure_row_contiguous): Parts<'_>,
    f: impl FnOnce(&KernelSource<'_>) -> mlx_graft::Result<T>,
) -> PyResult<T> {
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    f(&KernelSource {
        name,
        inputs: &inputs,
        outputs: &outputs,
        source,
        header,
        ensure_row_contiguous,
    })
    .map_err(to_py)
}

fn arrays(inputs: Vec<Operand<'_>>) -> PyResult<Vec<Converted>> {
    inputs.into_iter().map(Operand::array).collect()
}

fn launch(
    grid: Three,
    threadgroup: Three,
    shapes: Vec<Vec<i32>>,
    dtypes: Vec<DtypeArg>,
    init_value: Option<f32>,
) -> PyResult<Launch> {
    if shapes.len() != dtypes.len() {
        return Err(PyValueError::new_err(format!(
            "[custom kernel] there are {} output_shapes and {} output_dtypes",
            shapes.len(),
            dtypes.len()
        )));
    }
    let mut launch = Launch::new(grid.0, threadgroup.0);
    for (shape, dtype) in shapes.iter().zip(dtypes) {
        launch = launch.output(shape, dtype.0);
    }
    Ok(match init_value {
        Some(value) => launch.init_value(value),
        None => launch,
    })
}

fn template_arg(kernel: &Kernel, value: &Bound<'_, PyAny>) -> PyResult<TemplateArg> {
    if value.is_instance_of::<PyBool>() {
        return Ok(TemplateArg::Bool(value.extract()?));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(TemplateArg::Int(value.extract()?));
    }
    if let Ok(dtype) = value.extract::<DtypeArg>() {
        return Ok(TemplateArg::Dtype(dtype.0));
    }
    let op = match kernel {
        Kernel::Metal(_) => "metal_kernel",
        Kernel::Cuda(_) => "cuda_kernel",
    };
    Err(PyValueError::new_err(format!(
        "[{op}] Invalid template argument. Must be `mlx.core.Dtype`, `int` or `bool`."
    )))
}

fn scalar(value: &Bound<'_, PyAny>) -> PyResult<ScalarArg> {
    if value.is_instance_of::<PyBool>() {
        return Ok(ScalarArg::Bool(value.extract()?));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(ScalarArg::Int(value.extract()?));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(ScalarArg::Float(value.extract()?));
    }
    Err(PyValueError::new_err(format!(
        "[precompiled_cuda_kernel] Invalid scalar argument type. Received {} but must be one of \
         bool, int or float",
        value.get_type().name()?
    )))
}

fn math_mode(options: &Bound<'_, PyAny>) -> PyResult<MathMode> {
    let Ok(options) = options.cast::<PyDict>() else {
        return Err(PyValueError::new_err(
            "[metal_kernel] Expected `compile_options` to be a dict.",
        ));
    };
    let mut mode = MathMode::default();
    for (key, value) in options {
        let key: String = key.extract()?;
        if key != "math_mode" {
            return Err(PyValueError::new_err(format!(
                "[metal_kernel] Unknown compile option `{key}`."
            )));
        }
        mode = match value.extract::<String>()?.as_str() {
            "safe" => MathMode::Safe,
            "relaxed" => MathMode::Relaxed,
            "fast" => MathMode::Fast,
            _ => {
                return Err(PyValueError::new_err(
                    "[metal_kernel] Expected math_mode to be 'safe', 'relaxed', or 'fast'.",
                ));
            }
        };
    }
    Ok(mode)
}
