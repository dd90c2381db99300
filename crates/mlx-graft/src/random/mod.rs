//! Random numbers, named as in `mlx.core.random`.
//!
//! A function that gets no key takes one from the generator of this thread's process, which
//! [`seed`] sets and which Python's `mlx.core.random` shares.

mod generated;

pub use generated::*;
