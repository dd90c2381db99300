//! Random numbers, named as in `mlx.core.random`.
//!
//! The shape comes first and is always given; where Python has many more arguments with defaults, they
//! are set in options: see [`UniformOptions`]. A function that gets no key takes one from the
//! generator of this thread's process, which [`seed`] sets and which Python's `mlx.core.random`
//! shares.

mod generated;

pub use generated::*;
