//! Rust functions that MLX can call.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use crate::handles::Live;
use crate::{Array, Result, VectorArray, call, containers, error, sys};

/// A function from arrays to arrays that MLX can call, transform and compile.
///
/// An error or a panic of the Rust function comes out of the outermost call unchanged.
///
/// ```
/// use mlx_graft::{Array, Closure, ops};
///
/// let square = Closure::new(|x| Ok(vec![ops::square(&x[0])?]));
/// let y = square.call(&[Array::scalar(3.0_f32)?])?;
/// assert_eq!(y[0].item::<f32>()?, 9.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub struct Closure {
    raw: sys::mlx_closure,
    _live: Live,
}

/// What C++ holds of a Rust function. It is called on the thread that evaluates or traces.
struct Payload<F>(F);

extern "C" fn trampoline<F>(
    res: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    error::guarded(|| {
        // SAFETY: `payload` is the box made in `Closure::new`, which C++ keeps while it can call;
        // only shared references are made, as a function may call itself through a transform.
        let function = unsafe { &*payload.cast::<Payload<F>>() };
        // SAFETY: `input` is a live list for the length of this call.
        let inputs = unsafe { containers::vec_from_raw(input)? };
        let outputs = (function.0)(&inputs)?;
        // SAFETY: `res` is the place of a list.
        unsafe { containers::fill(res, &outputs) }
    })
}

extern "C" fn drop_payload<F>(payload: *mut c_void) {
    // A destructor runs inside C++ and must not unwind into it.
    let _ = error::guarded(|| {
        // SAFETY: C++ gives back the box made in `Closure::new`, once.
        drop(unsafe { Box::from_raw(payload.cast::<Payload<F>>()) });
        Ok(())
    });
}

impl Closure {
    /// Wraps a Rust function.
    pub fn new<F>(f: F) -> Self
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        call::ready();
        let payload = Box::into_raw(Box::new(Payload(f)));
        // SAFETY: the trampoline and the destructor match the payload's type; C++ calls the
        // destructor once, when the last copy of the closure goes.
        let raw = unsafe {
            sys::mlx_closure_new_func_payload(
                Some(trampoline::<F>),
                payload.cast(),
                Some(drop_payload::<F>),
            )
        };
        Self { raw, _live: Live::new() }
    }

    /// Calls the function.
    ///
    /// # Errors
    /// The function's own error, or what MLX reports.
    pub fn call<A: AsRef<Array>>(&self, inputs: &[A]) -> Result<Vec<Array>> {
        let inputs = VectorArray::from_arrays(inputs)?;
        let mut res = VectorArray::new();
        call::with_closures("closure", || {
            // SAFETY: all handles are live.
            unsafe { sys::mlx_closure_apply(res.as_mut_raw(), self.raw, inputs.as_raw()) }
        })?;
        res.to_vec()
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_closure {
        self.raw
    }

    /// A closure made by a C call from another one.
    pub(crate) fn derived(
        op: &'static str,
        f: impl FnOnce(*mut sys::mlx_closure) -> c_int,
    ) -> Result<Self> {
        let mut res = Self { raw: sys::mlx_closure { ctx: null_mut() }, _live: Live::new() };
        call::with_closures(op, || f(&raw mut res.raw))?;
        Ok(res)
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_closure_free(self.raw) };
        }
    }
}
