//! Compilation of a function into one graph.
#![allow(unsafe_code)]

use super::traces::{self, Cache, Siblings, Traces};
use crate::{Array, Closure, Result, call, sys};

/// A compiled function.
///
/// The function is traced once per combination of input shapes and dtypes, and each trace stays
/// in memory until this is dropped. Arrays that the function captures are constants of the trace;
/// numbers it captures are frozen at the first call: pass what changes as an input.
///
/// While it is traced, the function may call itself with arrays of the trace, but not with others.
pub struct Compiled {
    function: Closure,
    siblings: Siblings,
    shapeless: bool,
    // Dropped after the function: the traces go.
    traces: Traces,
}

/// Compiles `f`.
///
/// With `shapeless`, one trace serves all shapes with as many dimensions; `f` must not depend on
/// them. Whether they fit is checked for the trace at each call, and an operation of which that
/// cannot be told is an error.
///
/// # Errors
/// What MLX reports. `f` itself runs, and may fail, in [`Compiled::call`].
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let f = transforms::compile(|x| Ok(vec![ops::exp(&ops::negative(&x[0])?)?]), false)?;
/// let y = f.call(&[Array::scalar(0.0_f32)?])?;
/// assert_eq!(y[0].item::<f32>()?, 1.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn compile<F>(f: F, shapeless: bool) -> Result<Compiled>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let traces = Traces::new();
    let (function, siblings) = traces.compile(f, shapeless)?;
    Ok(Compiled { function, siblings, shapeless, traces })
}

/// Compiles a closure; the result is a closure too, and its traces go with its last clone.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// use mlx_graft::{Array, Closure, ops, transforms};
///
/// let f = transforms::compile_closure(&Closure::unary(ops::square), false)?;
/// let slope = transforms::grad(move |x| f.call(x), &[0], &[Array::scalar(3.0_f32)?])?;
/// assert_eq!(slope[0].item::<f32>()?, 6.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn compile_closure(f: &Closure, shapeless: bool) -> Result<Closure> {
    let f = f.clone();
    let compiled = compile(move |inputs| f.call(inputs), shapeless)?;
    Ok(Closure::new(move |inputs| compiled.call(inputs)))
}

impl Compiled {
    /// Calls the function, tracing it first if the shapes or dtypes are new.
    ///
    /// # Errors
    /// The function's own error while it is traced, or what MLX reports.
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if the function calls this, while it is
    /// traced, with arrays that are not part of the trace, or if a shapeless trace cannot take the
    /// shapes.
    pub fn call<A: AsRef<Array>>(&self, inputs: &[A]) -> Result<Vec<Array>> {
        let result = self.traces.call_with(inputs, || self.function.call(inputs));
        self.siblings.release();
        let (outputs, traced) = result?;
        if self.shapeless && traced {
            traces::check_shapes(&outputs, inputs)?;
        }
        Ok(outputs)
    }
}

/// How much of a traced graph is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompileMode {
    /// Functions run as they are.
    Disabled,
    /// Operations are fused, but equal ones are not merged.
    NoSimplify,
    /// Equal operations are merged, but none fused.
    NoFuse,
    /// Everything, as at the start.
    Enabled,
}

/// Sets how functions are compiled from now on, in the whole process.
///
/// A function keeps the traces that it has.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// use mlx_graft::transforms::{CompileMode, set_compile_mode};
///
/// set_compile_mode(CompileMode::NoFuse)?;
/// set_compile_mode(CompileMode::Enabled)?;
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn set_compile_mode(mode: CompileMode) -> Result<()> {
    let mode = match mode {
        CompileMode::Disabled => sys::MLX_COMPILE_MODE_DISABLED,
        CompileMode::NoSimplify => sys::MLX_COMPILE_MODE_NO_SIMPLIFY,
        CompileMode::NoFuse => sys::MLX_COMPILE_MODE_NO_FUSE,
        CompileMode::Enabled => sys::MLX_COMPILE_MODE_ENABLED,
    };
    // SAFETY: a mode of the enumeration.
    call::status("set_compile_mode", || unsafe { sys::mlx_set_compile_mode(mode) })
}

/// Lets functions that are compiled from now on run as they are, in the whole process.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// transforms::disable_compile()?;
/// let f = transforms::compile(|x| Ok(vec![ops::square(&x[0])?]), false)?;
/// assert_eq!(f.call(&[Array::scalar(3.0_f32)?])?[0].item::<f32>()?, 9.0);
/// transforms::enable_compile()?;
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn disable_compile() -> Result<()> {
    // SAFETY: sets a flag.
    call::status("disable_compile", || unsafe { sys::mlx_disable_compile() })
}

/// Undoes [`disable_compile`] and the environment variable `MLX_DISABLE_COMPILE`.
///
/// # Errors
/// What MLX reports.
///
/// ```
/// mlx_graft::transforms::enable_compile()?;
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn enable_compile() -> Result<()> {
    // SAFETY: sets a flag.
    call::status("enable_compile", || unsafe { sys::mlx_enable_compile() })
}

/// Forgets the traces of all functions compiled on this thread; the next call of each traces anew.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind) while a function is traced; what MLX reports.
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let f = transforms::compile(|x| Ok(vec![ops::square(&x[0])?]), false)?;
/// let x = Array::scalar(3.0_f32)?;
/// f.call(&[&x])?;
/// transforms::clear_compile_cache()?;
/// assert_eq!(f.call(&[&x])?[0].item::<f32>()?, 9.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn clear_compile_cache() -> Result<()> {
    traces::check_none_is_made("clear_compile_cache")?;
    Cache::of_this_thread()?.clear()
}
