//! CUDA kernels.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr::null_mut;

use super::{KernelSource, Launch, Parts, TemplateArg, config};
use crate::handles::Live;
use crate::{Array, Result, VectorArray, call, sys};

const OP: &str = "cuda_kernel";

config! {
    mlx_fast_cuda_kernel_config, "cuda_kernel",
    mlx_fast_cuda_kernel_config_new, mlx_fast_cuda_kernel_config_free,
    mlx_fast_cuda_kernel_config_add_output_arg, mlx_fast_cuda_kernel_config_set_grid,
    mlx_fast_cuda_kernel_config_set_thread_group, mlx_fast_cuda_kernel_config_set_init_value,
    mlx_fast_cuda_kernel_config_set_verbose, mlx_fast_cuda_kernel_config_add_template_arg_dtype,
    mlx_fast_cuda_kernel_config_add_template_arg_int,
    mlx_fast_cuda_kernel_config_add_template_arg_bool
}

/// A CUDA kernel from source text, see [the module](super).
pub struct CudaKernel {
    raw: sys::mlx_fast_cuda_kernel,
    _live: Live,
}

// SAFETY: the kernel is a list of texts that nobody changes; running it only reads them.
unsafe impl Send for CudaKernel {}
// SAFETY: as above.
unsafe impl Sync for CudaKernel {}

impl CudaKernel {
    /// Builds a kernel; `shared_memory` is how many bytes of it are requested when it runs.
    ///
    /// # Errors
    /// There is no CUDA device or no output, or a text contains a zero byte.
    ///
    /// ```
    /// use mlx_graft::{Array, Dtype, cuda};
    /// use mlx_graft::fast::kernel::{CudaKernel, KernelSource, Launch};
    ///
    /// let source = KernelSource {
    ///     name: "double_it",
    ///     inputs: &["x"],
    ///     outputs: &["out"],
    ///     source: "auto i = cooperative_groups::this_grid().thread_rank(); out[i] = 2 * x[i];",
    ///     ..KernelSource::default()
    /// };
    /// match CudaKernel::new(&source, 0) {
    ///     Ok(kernel) => {
    ///         let x = Array::from_slice(&[1.0_f32; 4], &[4])?;
    ///         let launch = Launch::new([4, 1, 1], [4, 1, 1]).output(&[4], Dtype::Float32);
    ///         // SAFETY: each of four threads reads and writes one of four elements.
    ///         let outputs = unsafe { kernel.apply(&[&x], &launch) }?;
    ///         assert_eq!(outputs[0].to_vec::<f32>()?, [2.0; 4]);
    ///     }
    ///     Err(error) => {
    ///         assert!(!cuda::is_available()?);
    ///         assert_eq!(error.to_string(), "[cuda_kernel] No CUDA back-end.");
    ///     }
    /// }
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn new(source: &KernelSource<'_>, shared_memory: i32) -> Result<Self> {
        let parts = Parts::new(OP, source)?;
        let mut kernel =
            Self { raw: sys::mlx_fast_cuda_kernel { ctx: null_mut() }, _live: Live::new() };
        call::status(OP, || {
            // SAFETY: the texts and lists live during the call, which copies them.
            kernel.raw = unsafe {
                sys::mlx_fast_cuda_kernel_new(
                    parts.name.as_ptr(),
                    parts.inputs.as_raw(),
                    parts.outputs.as_raw(),
                    parts.source.as_ptr(),
                    parts.header.as_ptr(),
                    source.ensure_row_contiguous,
                    shared_memory,
                )
            };
            c_int::from(kernel.raw.ctx.is_null())
        })?;
        Ok(kernel)
    }

    /// Runs the kernel and gives its outputs: lazily, as any operation.
    ///
    /// # Safety
    /// The source must stay within the inputs and outputs that this launch gives it: nothing checks
    /// what a kernel does with memory.
    ///
    /// # Errors
    /// The number of inputs or outputs is wrong, or the stream in scope is not one of the GPU.
    pub unsafe fn apply<A: AsRef<Array>>(
        &self,
        inputs: &[A],
        launch: &Launch,
    ) -> Result<Vec<Array>> {
        let inputs = VectorArray::from_arrays(inputs)?;
        let config = Config::new(launch)?;
        call::arrays(OP, |res, s| {
            // SAFETY: all handles are live.
            unsafe {
                sys::mlx_fast_cuda_kernel_apply(res, self.raw, inputs.as_raw(), config.raw, s)
            }
        })
    }
}

impl Drop for CudaKernel {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_fast_cuda_kernel_free(self.raw) };
        }
    }
}

/// An argument of a precompiled kernel that is no array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScalarArg {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i32),
    /// A float.
    Float(f32),
}

impl ScalarArg {
    fn as_raw(self) -> sys::graft_fast_scalar {
        let (type_, value) = match self {
            Self::Bool(value) => (sys::GRAFT_FAST_SCALAR_BOOL, f64::from(u8::from(value))),
            Self::Int(value) => (sys::GRAFT_FAST_SCALAR_INT, f64::from(value)),
            Self::Float(value) => (sys::GRAFT_FAST_SCALAR_FLOAT, f64::from(value)),
        };
        sys::graft_fast_scalar { type_, value }
    }
}

/// A CUDA kernel that was compiled to PTX or cubin.
///
/// ```
/// use mlx_graft::{Array, Dtype, cuda};
/// use mlx_graft::fast::kernel::{Launch, PrecompiledCudaKernel, ScalarArg};
///
/// let kernel = PrecompiledCudaKernel {
///     name: "scale",
///     compiled: b"...",
///     shared_memory: 0,
///     ensure_row_contiguous: false,
/// };
/// let x = Array::from_slice(&[1.0_f32; 4], &[4])?;
/// let launch = Launch::new([4, 1, 1], [4, 1, 1]).output(&[4], Dtype::Float32);
/// if !cuda::is_available()? {
///     // SAFETY: there is no device on which it could run.
///     let result = unsafe { kernel.apply(&[&x], &[ScalarArg::Float(2.0)], &launch) };
///     let error = result.unwrap_err();
///     assert_eq!(error.to_string(), "[cuda_kernel] No CUDA back-end.");
/// }
/// # Ok::<(), mlx_graft::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PrecompiledCudaKernel<'a> {
    /// The name of the function in the module.
    pub name: &'a str,
    /// PTX or cubin.
    pub compiled: &'a [u8],
    /// How many bytes of dynamic shared memory are requested.
    pub shared_memory: i32,
    /// Whether inputs that are not row-contiguous are copied before the kernel runs.
    pub ensure_row_contiguous: bool,
}

impl PrecompiledCudaKernel<'_> {
    /// Runs the kernel and gives its outputs: lazily, as any operation. Of `launch`, templates and
    /// verbosity do not count. MLX keeps the loaded module.
    ///
    /// # Safety
    /// The function must take the inputs, the outputs and the scalars in this order and with these
    /// types, and stay within them: nothing checks what a kernel does with memory.
    ///
    /// # Errors
    /// There is no CUDA device, or the stream in scope is not one of the GPU.
    pub unsafe fn apply<A: AsRef<Array>>(
        &self,
        inputs: &[A],
        scalars: &[ScalarArg],
        launch: &Launch,
    ) -> Result<Vec<Array>> {
        const OP: &str = "precompiled_cuda_kernel";
        let name = call::c_string(OP, self.name)?;
        let inputs = VectorArray::from_arrays(inputs)?;
        let scalars: Vec<_> = scalars.iter().map(|scalar| scalar.as_raw()).collect();
        let config = Config::new(launch)?;
        call::arrays(OP, |res, s| {
            // SAFETY: all handles are live, and the slices are passed with their lengths.
            unsafe {
                sys::graft_fast_precompiled_cuda_kernel(
                    res,
                    name.as_ptr(),
                    self.compiled.as_ptr(),
                    self.compiled.len(),
                    inputs.as_raw(),
                    scalars.as_ptr(),
                    scalars.len(),
                    config.raw,
                    self.shared_memory,
                    self.ensure_row_contiguous,
                    s,
                )
            }
        })
    }
}
