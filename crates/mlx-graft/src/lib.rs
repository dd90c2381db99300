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
//! Every thread may use MLX, each with arrays and streams of its own. What crosses is host data:
//! the vectors of [`Array::to_vec`], and the slices that arrays are made from. It cannot be
//! otherwise:
//!
//! - A lazy [`Array`] names the [`Stream`] that computes it, and MLX binds a stream to the thread
//!   that made it; and two threads that evaluate clones of one array race in MLX, as evaluation
//!   changes the graph that the clones share. So neither is `Send` or `Sync`.
//! - A [`Closure`], and what [`transforms::compile`] makes of one, holds arrays, and its function
//!   need not be `Send`.
//! - A [`ThreadLocalStream`] and a [`Device`] are names, and cross.
//!
//! ```compile_fail,E0277
//! let x = mlx_graft::Array::from_slice(&[1.0_f32], &[1]).unwrap();
//! std::thread::spawn(move || x.to_vec::<f32>());
//! ```
//!
//! ```compile_fail,E0277
//! let x = mlx_graft::Array::from_slice(&[1.0_f32], &[1]).unwrap();
//! std::thread::scope(|scope| {
//!     scope.spawn(|| x.to_vec::<f32>());
//! });
//! ```
//!
//! ```compile_fail,E0277
//! let stream = mlx_graft::Stream::new(mlx_graft::Device::cpu()).unwrap();
//! std::thread::spawn(move || stream.synchronize());
//! ```
//!
//! ```compile_fail,E0277
//! let f = mlx_graft::Closure::new(|x| Ok(x.to_vec()));
//! std::thread::spawn(move || f.call::<mlx_graft::Array>(&[]));
//! ```
//!
//! ```
//! let x = mlx_graft::Array::from_slice(&[1.0_f32, 2.0], &[2])?;
//! let host = x.to_vec::<f32>()?;
//! let sum = std::thread::spawn(move || host.iter().sum::<f32>()).join().unwrap();
//! assert_eq!(sum, 3.0);
//! # Ok::<(), mlx_graft::Error>(())
//! ```

/// The guide, so that its program is tested. Its file is outside of the crate's folder.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/rust.md")]
struct Guide;

mod array;
mod call;
mod device;
mod dtype;
mod error;
mod fork;
mod guard;
mod handles;
mod limits;
mod promotion;
mod raw;
mod version;

pub mod closure;
pub mod containers;
pub mod cuda;
pub mod distributed;
pub mod export;
pub mod fast;
pub mod fft;
pub mod index;
pub mod io;
pub mod linalg;
pub mod memory;
pub mod metal;
pub mod ops;
pub mod primitive;
pub mod printing;
pub mod profile;
pub mod random;
pub mod stream;
pub mod transforms;
pub mod tree;

pub use array::{Array, Elements, MemoryLayout};
pub use closure::{Closure, ClosureKwargs, ValueAndGrad};
pub(crate) use containers::VectorArray;
pub use device::{Device, DeviceInfo, DeviceType, DeviceValue};
pub use dtype::{Dtype, Element};
pub use error::{Error, ErrorKind, Result};
pub use half::{bf16, f16};
pub use handles::live_handles;
pub use limits::{FloatLimits, IntLimits};
pub use num_complex::Complex32;
pub use promotion::{DtypeCategory, broadcast_shapes};
pub use raw::{
    BorrowedArray, array_to_raw, device_from_raw, group_from_raw, group_to_raw, stream_from_raw,
    stream_to_raw, thread_local_stream_from_raw, thread_local_stream_to_raw,
};
pub use stream::{Stream, ThreadLocalStream, with_device, with_stream};
pub use tree::Tree;
pub use version::version;

pub use mlx_c_sys as sys;
