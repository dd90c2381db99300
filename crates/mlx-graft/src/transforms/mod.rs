//! Transformations of functions from arrays to arrays, and evaluation.

mod autodiff;
mod compile;
mod eval;
mod vmap;

pub use autodiff::{ValueAndGrad, checkpoint, grad, jvp, value_and_grad, vjp};
pub use compile::{Compiled, compile};
pub use eval::{async_eval, eval};
pub use vmap::vmap;
