//! Random numbers, named as in `mlx.core.random`.
//!
//! A shape is never left out: it comes first, or behind the arguments that make the distribution, as
//! in [`randint`] and [`bernoulli`]. Where Python has many more arguments with defaults, they are set
//! in options: see [`UniformOptions`].
//!
//! # Keys
//! The numbers depend on the key, and on nothing else. A function that gets none takes one from the
//! generator of the calling thread, as Python's `mlx.core.random` takes them from a generator of its
//! own, `mlx.core.random.state`: neither sets the other. Generators of threads that [`seed`] has not
//! set begin with the same key, made of the time at which the process asked for one first; so seed
//! each thread with another number, or give keys. A compiled function takes its key when it is traced
//! and draws the same numbers in each call: give it the key as an input.
//!
//! ```
//! use std::thread;
//! use mlx_graft::{Dtype, Result, random};
//!
//! let draw = || random::gumbel(&[4], Dtype::Float32, None)?.to_vec::<f32>();
//! random::seed(7)?;
//! let (first, second) = (draw()?, draw()?);
//! assert_ne!(first, second);
//! let of_another_thread = move || -> Result<_> {
//!     random::seed(7)?;
//!     draw()
//! };
//! assert_eq!(thread::spawn(of_another_thread).join().unwrap()?, first);
//!
//! // This thread's generator goes on where it was, until it is set again.
//! let third = draw()?;
//! assert!(third != first && third != second);
//! random::seed(7)?;
//! assert_eq!(draw()?, first);
//! # Ok::<(), mlx_graft::Error>(())
//! ```

mod generated;

pub use generated::*;
