//! Apple MLX for Rust, on the same `libmlx` that Python's `mlx.core` uses.
//!
//! An [`Array`] is a reference-counted handle of an MLX array: a node of a lazy graph until it is
//! evaluated. Operations live in [`ops`], transformations of functions in [`transforms`].
//!
//! ```
//! use mlx_graft::{Array, ops};
//!
//! let x = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[3])?;
//! let y = ops::sum(&ops::square(&x)?, false)?;
//! assert_eq!(y.item::<f32>()?, 14.0);
//! # Ok::<(), mlx_graft::Error>(())
//! ```
//!
//! # Threads
//! MLX binds streams to the thread that made them: a lazy array must be evaluated there. So an
//! [`Array`] is neither `Send` nor `Sync`; host buffers ([`Array::to_vec`]) are what crosses.
//!
//! ```compile_fail
//! let x = mlx_graft::Array::from_slice(&[1.0_f32], &[1]).unwrap();
//! std::thread::spawn(move || x.to_vec::<f32>());
//! ```

mod array;
mod call;
mod device;
mod dtype;
mod error;
mod fork;
mod handles;
mod limits;
mod promotion;
mod raw;

pub mod closure;
pub mod containers;
pub mod fast;
pub mod fft;
pub mod index;
pub mod io;
pub mod linalg;
pub mod memory;
pub mod ops;
pub mod primitive;
pub mod random;
pub mod stream;
pub mod transforms;
pub mod tree;

pub use array::{Array, Elements, MemoryLayout};
pub use closure::{Closure, ClosureKwargs, ValueAndGrad};
pub(crate) use containers::VectorArray;
pub use device::{Device, DeviceType};
pub use dtype::{Dtype, Element};
pub use error::{Error, ErrorKind, Result};
pub use half::{bf16, f16};
pub use handles::live_handles;
pub use limits::{FloatLimits, IntLimits};
pub use num_complex::Complex32;
pub use promotion::{DtypeCategory, broadcast_shapes};
pub use raw::{BorrowedArray, array_to_raw};
pub use stream::{Stream, with_device, with_stream};
pub use tree::Tree;

pub use mlx_c_sys as sys;
