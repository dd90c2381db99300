//! Transformations of functions from arrays to arrays, and evaluation.
//!
//! Each takes a Rust function of a slice of arrays and returns its values, or a function that does.
//! They nest in any order. [`trees`] has those of functions of [`Tree`](crate::Tree)s.

mod autodiff;
mod compile;
mod custom;
mod eval;
mod traces;
pub mod trees;
mod vmap;

pub use autodiff::{checkpoint, grad, jvp, value_and_grad, vjp};
pub use compile::{
    CompileMode, Compiled, clear_compile_cache, compile, compile_closure, disable_compile,
    enable_compile, set_compile_mode,
};
pub use custom::{CustomFunction, custom_vjp};
pub use eval::{async_eval, eval};
pub use traces::Traces;
pub(crate) use traces::{check_none_is_made, check_shapes};
pub use vmap::{vmap, vmap_with};

pub use crate::closure::ValueAndGrad;
