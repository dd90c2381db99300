//! Compilation of a function into one graph.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::null_mut;

use crate::{Array, Closure, Result, call, sys};

/// A compiled function.
///
/// The function is traced once per combination of input shapes and dtypes, and each trace stays
/// in memory until this is dropped. Arrays that the function captures are constants of the trace;
/// numbers it captures are frozen at the first call: pass what changes as an input.
pub struct Compiled {
    function: Closure,
    // Its address is this function's key in MLX's cache, unique as long as it lives.
    id: Box<u8>,
    // The cache belongs to the thread that compiled.
    _thread: PhantomData<*const ()>,
}

/// Compiles `f`.
///
/// With `shapeless`, one trace serves all shapes; `f` must not depend on them.
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
    let original = Closure::new(f);
    let id = Box::new(0_u8);
    let key = std::ptr::from_ref(&*id) as usize;
    let function = Closure::derived("compile", |res| {
        // SAFETY: the closure is live and MLX keeps its own copy; there are no constants.
        unsafe {
            sys::mlx_detail_compile(res, original.as_raw(), key, shapeless, std::ptr::null(), 0)
        }
    })?;
    Ok(Compiled { function, id, _thread: PhantomData })
}

impl Compiled {
    /// Calls the function, tracing it first if the shapes or dtypes are new.
    ///
    /// # Errors
    /// The function's own error while it is traced, or what MLX reports.
    pub fn call<A: AsRef<Array>>(&self, inputs: &[A]) -> Result<Vec<Array>> {
        self.function.call(inputs)
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        let key = std::ptr::from_ref(&*self.id) as usize;
        let mut cache = sys::mlx_compile_cache { ctx: null_mut() };
        // A drop cannot report; a failure leaves the traces in memory.
        let _ = call::status("compile_erase", || {
            // SAFETY: the cache handle is filled by the first call and freed by the last, once.
            unsafe {
                let status = sys::mlx_detail_compile_cache(&raw mut cache);
                if status != 0 {
                    return status;
                }
                sys::mlx_detail_compile_erase(cache, key) | sys::mlx_compile_cache_free(cache)
            }
        });
    }
}
