//! Metal kernels.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr::null_mut;

use super::{KernelSource, Launch, Parts, TemplateArg, config};
use crate::handles::Live;
use crate::{Array, Result, VectorArray, call, stream, sys};

const OP: &str = "metal_kernel";

config! {
    mlx_fast_metal_kernel_config, "metal_kernel",
    mlx_fast_metal_kernel_config_new, mlx_fast_metal_kernel_config_free,
    mlx_fast_metal_kernel_config_add_output_arg, mlx_fast_metal_kernel_config_set_grid,
    mlx_fast_metal_kernel_config_set_thread_group, mlx_fast_metal_kernel_config_set_init_value,
    mlx_fast_metal_kernel_config_set_verbose, mlx_fast_metal_kernel_config_add_template_arg_dtype,
    mlx_fast_metal_kernel_config_add_template_arg_int,
    mlx_fast_metal_kernel_config_add_template_arg_bool
}

/// How exactly a Metal kernel computes floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MathMode {
    /// As the standard says.
    #[default]
    Safe,
    /// May reorder, but keeps infinities and NaN.
    Relaxed,
    /// May reorder, and assumes that there are no infinities and NaN.
    Fast,
}

/// A Metal kernel, see [the module](super).
pub struct MetalKernel {
    raw: sys::mlx_fast_metal_kernel,
    _live: Live,
}

// SAFETY: the kernel is a list of texts that nobody changes; running it only reads them.
unsafe impl Send for MetalKernel {}
// SAFETY: as above.
unsafe impl Sync for MetalKernel {}

impl MetalKernel {
    /// Builds a kernel; with `atomic_outputs` its outputs are atomic, so that threads can add to
    /// one element.
    ///
    /// # Errors
    /// There is no output, or a text contains a zero byte. A missing device shows when it runs.
    pub fn new(source: &KernelSource<'_>, atomic_outputs: bool) -> Result<Self> {
        Self::build(source, |parts| {
            // SAFETY: the texts and lists live during the call, which copies them.
            unsafe {
                sys::mlx_fast_metal_kernel_new(
                    parts.name.as_ptr(),
                    parts.inputs.as_raw(),
                    parts.outputs.as_raw(),
                    parts.source.as_ptr(),
                    parts.header.as_ptr(),
                    source.ensure_row_contiguous,
                    atomic_outputs,
                )
            }
        })
    }

    /// As [`MetalKernel::new`], compiled for another precision of mathematics.
    ///
    /// # Errors
    /// As [`MetalKernel::new`].
    pub fn with_math_mode(
        source: &KernelSource<'_>,
        atomic_outputs: bool,
        mode: MathMode,
    ) -> Result<Self> {
        let mode = match mode {
            MathMode::Safe => sys::GRAFT_METAL_MATH_SAFE,
            MathMode::Relaxed => sys::GRAFT_METAL_MATH_RELAXED,
            MathMode::Fast => sys::GRAFT_METAL_MATH_FAST,
        };
        Self::build(source, |parts| {
            // SAFETY: the texts and lists live during the call, which copies them.
            unsafe {
                sys::graft_fast_metal_kernel_new(
                    parts.name.as_ptr(),
                    parts.inputs.as_raw(),
                    parts.outputs.as_raw(),
                    parts.source.as_ptr(),
                    parts.header.as_ptr(),
                    source.ensure_row_contiguous,
                    atomic_outputs,
                    mode,
                )
            }
        })
    }

    fn build(
        source: &KernelSource<'_>,
        f: impl FnOnce(&Parts) -> sys::mlx_fast_metal_kernel,
    ) -> Result<Self> {
        let parts = Parts::new(OP, source)?;
        let mut kernel =
            Self { raw: sys::mlx_fast_metal_kernel { ctx: null_mut() }, _live: Live::new() };
        call::status(OP, || {
            kernel.raw = f(&parts);
            c_int::from(kernel.raw.ctx.is_null())
        })?;
        Ok(kernel)
    }

    /// Runs the kernel and gives its outputs: lazily, as any operation.
    ///
    /// It runs on the default stream of the GPU, whatever the default device is.
    ///
    /// # Safety
    /// The source must stay within the inputs and outputs that this launch gives it: nothing checks
    /// what a kernel does with memory.
    ///
    /// # Errors
    /// The number of inputs or outputs is wrong, or there is no Metal device.
    pub unsafe fn apply<A: AsRef<Array>>(
        &self,
        inputs: &[A],
        launch: &Launch,
    ) -> Result<Vec<Array>> {
        let inputs = VectorArray::from_arrays(inputs)?;
        let config = Config::new(launch)?;
        let mut outputs = VectorArray::new();
        let res = outputs.as_mut_raw();
        call::status(OP, || {
            // SAFETY: all handles are live.
            unsafe {
                match stream::explicit() {
                    Some(stream) => sys::mlx_fast_metal_kernel_apply(
                        res,
                        self.raw,
                        inputs.as_raw(),
                        config.raw,
                        stream,
                    ),
                    None => sys::graft_fast_metal_kernel_apply_default(
                        res,
                        self.raw,
                        inputs.as_raw(),
                        config.raw,
                    ),
                }
            }
        })?;
        outputs.to_vec()
    }
}

impl Drop for MetalKernel {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_fast_metal_kernel_free(self.raw) };
        }
    }
}
