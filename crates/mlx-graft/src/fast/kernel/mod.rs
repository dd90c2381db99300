//! Kernels for the GPU from source text, built once and run often.
//!
//! A kernel is built for Metal or for CUDA from the body of a function, whose signature MLX writes;
//! it is compiled when it first runs. Without the device, [`CudaKernel::new`] and
//! [`MetalKernel::apply`] fail.
//!
//! ```
//! use mlx_graft::{Array, Dtype, metal};
//! use mlx_graft::fast::kernel::{KernelSource, Launch, MetalKernel};
//!
//! let exp = MetalKernel::new(
//!     &KernelSource {
//!         name: "my_exp",
//!         inputs: &["x"],
//!         outputs: &["out"],
//!         source: "uint i = thread_position_in_grid.x; out[i] = metal::exp(T(x[i]));",
//!         ..KernelSource::default()
//!     },
//!     false,
//! )?;
//! let x = Array::from_slice(&[0.0_f32; 8], &[8])?;
//! let launch = Launch::new([8, 1, 1], [8, 1, 1])
//!     .output(&[8], Dtype::Float32)
//!     .template("T", Dtype::Float32);
//! // SAFETY: each of eight threads reads and writes one of eight elements.
//! match unsafe { exp.apply(&[&x], &launch) } {
//!     Ok(outputs) => assert_eq!(outputs[0].to_vec::<f32>()?, [1.0; 8]),
//!     Err(error) => {
//!         assert!(!metal::is_available()?);
//!         assert_eq!(error.to_string(), "[metal_kernel] No Metal back-end.");
//!     }
//! }
//! # Ok::<(), mlx_graft::Error>(())
//! ```

mod cuda;
mod metal;

use std::ffi::CString;

use crate::containers::VectorString;
use crate::{Dtype, Result, call};

pub use cuda::{CudaKernel, PrecompiledCudaKernel, ScalarArg};
pub use metal::{MathMode, MetalKernel};

/// What a kernel is built from.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource<'a> {
    /// The name of the kernel.
    pub name: &'a str,
    /// The names of the inputs in the source.
    pub inputs: &'a [&'a str],
    /// The names of the outputs in the source.
    pub outputs: &'a [&'a str],
    /// The body of the function.
    pub source: &'a str,
    /// What stands before the function: helpers, includes.
    pub header: &'a str,
    /// Whether inputs that are not row-contiguous are copied before the kernel runs, as by
    /// default. Otherwise the source uses `NAME_strides`.
    pub ensure_row_contiguous: bool,
}

impl Default for KernelSource<'_> {
    fn default() -> Self {
        Self {
            name: "",
            inputs: &[],
            outputs: &[],
            source: "",
            header: "",
            ensure_row_contiguous: true,
        }
    }
}

/// A source as mlx-c takes it.
struct Parts {
    name: CString,
    inputs: VectorString,
    outputs: VectorString,
    source: CString,
    header: CString,
}

impl Parts {
    fn new(op: &'static str, source: &KernelSource<'_>) -> Result<Self> {
        Ok(Self {
            name: call::c_string(op, source.name)?,
            inputs: VectorString::from_strings(source.inputs)?,
            outputs: VectorString::from_strings(source.outputs)?,
            source: call::c_string(op, source.source)?,
            header: call::c_string(op, source.header)?,
        })
    }
}

/// A value that is put for a name in the source when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateArg {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i32),
    /// A type.
    Dtype(Dtype),
}

impl From<bool> for TemplateArg {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for TemplateArg {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<Dtype> for TemplateArg {
    fn from(value: Dtype) -> Self {
        Self::Dtype(value)
    }
}

/// How a kernel is run: the threads, the outputs, and the values of its template.
///
/// ```
/// use mlx_graft::Dtype;
/// use mlx_graft::fast::kernel::Launch;
///
/// let launch = Launch::new([1024, 1, 1], [256, 1, 1])
///     .output(&[32, 32], Dtype::Float16)
///     .template("T", Dtype::Float16)
///     .template("rows", 32)
///     .template("causal", true)
///     .init_value(0.0);
/// ```
#[derive(Debug, Clone)]
pub struct Launch {
    grid: [i32; 3],
    threadgroup: [i32; 3],
    outputs: Vec<(Vec<i32>, Dtype)>,
    template: Vec<(String, TemplateArg)>,
    init_value: Option<f32>,
    verbose: bool,
}

impl Launch {
    /// `grid` threads, in groups (or blocks) of `threadgroup`, in three dimensions.
    pub fn new(grid: [i32; 3], threadgroup: [i32; 3]) -> Self {
        Self {
            grid,
            threadgroup,
            outputs: Vec::new(),
            template: Vec::new(),
            init_value: None,
            verbose: false,
        }
    }

    /// The shape and the dtype of the next output.
    #[must_use]
    pub fn output(mut self, shape: &[i32], dtype: Dtype) -> Self {
        self.outputs.push((shape.to_vec(), dtype));
        self
    }

    /// The value of the next name in the template.
    #[must_use]
    pub fn template(mut self, name: impl Into<String>, value: impl Into<TemplateArg>) -> Self {
        self.template.push((name.into(), value.into()));
        self
    }

    /// What all outputs are filled with before the kernel runs; otherwise they are not initialised.
    #[must_use]
    pub fn init_value(mut self, value: f32) -> Self {
        self.init_value = Some(value);
        self
    }

    /// Whether the source that MLX generates is printed.
    #[must_use]
    pub fn verbose(mut self, verbose: bool) -> Self {
        self.verbose = verbose;
        self
    }
}

/// Defines the RAII handle of a launch for one of the two kinds of kernels.
macro_rules! config {
    ($raw:ident, $op:literal, $new:ident, $free:ident, $output:ident, $grid:ident, $group:ident,
     $init:ident, $verbose:ident, $dtype:ident, $int:ident, $bool:ident) => {
        struct Config {
            raw: sys::$raw,
            _live: Live,
        }

        impl Config {
            fn new(launch: &Launch) -> Result<Self> {
                call::ready();
                // SAFETY: makes a handle, which the wrapper frees.
                let config = Self { raw: unsafe { sys::$new() }, _live: Live::new() };
                let raw = config.raw;
                let [x, y, z] = launch.grid;
                // SAFETY: here and below the handle is live, and what is passed is copied.
                call::status($op, || unsafe { sys::$grid(raw, x, y, z) })?;
                let [x, y, z] = launch.threadgroup;
                // SAFETY: as above.
                call::status($op, || unsafe { sys::$group(raw, x, y, z) })?;
                for (shape, dtype) in &launch.outputs {
                    // SAFETY: as above; the shape is a slice.
                    call::status($op, || unsafe {
                        sys::$output(raw, shape.as_ptr(), shape.len(), dtype.as_raw())
                    })?;
                }
                for (name, value) in &launch.template {
                    let name = call::c_string($op, name)?;
                    // SAFETY: as above; the name is a C string.
                    call::status($op, || unsafe {
                        match *value {
                            TemplateArg::Bool(value) => sys::$bool(raw, name.as_ptr(), value),
                            TemplateArg::Int(value) => sys::$int(raw, name.as_ptr(), value),
                            TemplateArg::Dtype(value) => {
                                sys::$dtype(raw, name.as_ptr(), value.as_raw())
                            }
                        }
                    })?;
                }
                if let Some(value) = launch.init_value {
                    // SAFETY: as above.
                    call::status($op, || unsafe { sys::$init(raw, value) })?;
                }
                // SAFETY: as above.
                call::status($op, || unsafe { sys::$verbose(raw, launch.verbose) })?;
                Ok(config)
            }
        }

        impl Drop for Config {
            fn drop(&mut self) {
                // SAFETY: frees the handle we own, once.
                unsafe { sys::$free(self.raw) };
            }
        }
    };
}

use config;
