//! Functions that return a Rust value beside their arrays.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::handle::{Payload, discard, drop_payload, function, without_drops};
use crate::handles::Live;
use crate::{Array, Error, ErrorKind, Result, VectorArray, call, containers, error, sys};

/// The value is missing only if there was no memory for it.
const NO_VALUE: Error =
    Error::Mlx { kind: ErrorKind::OutOfMemory, op: "compile", message: String::new() };

/// What a function returns beside its arrays. MLX may free it on another thread.
type Value = Arc<dyn Any + Send + Sync>;

/// A function that returns a value beside its arrays, compiled or not.
pub(crate) struct ClosureExtra {
    raw: sys::graft_closure_extra,
    _live: Live,
}

/// The value that a call returned.
struct Extra {
    raw: sys::graft_extra,
    _live: Live,
}

extern "C" fn drop_value(value: *mut c_void) {
    // SAFETY: C++ gives back the box made in `with_payload`, once.
    discard(unsafe { Box::from_raw(value.cast::<Value>()) });
}

extern "C" fn with_payload<F, T>(
    res: *mut sys::mlx_vector_array,
    extra: *mut sys::graft_extra,
    input: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array]) -> Result<(Vec<Array>, T)> + 'static,
    T: Send + Sync + 'static,
{
    error::guarded(|| {
        // SAFETY: C++ passes the payload that `new` gave it, a live list and two slots; the new
        // box is freed by `drop_value`.
        unsafe {
            let (outputs, value) = function::<F>(payload)(&containers::vec_from_raw(input)?)?;
            let value: Box<Value> = Box::new(Arc::new(value));
            *extra = sys::graft_extra_new_payload(Box::into_raw(value).cast(), Some(drop_value));
            containers::fill(res, &outputs)
        }
    })
}

impl ClosureExtra {
    pub(crate) fn new<F, T>(f: F) -> Self
    where
        F: Fn(&[Array]) -> Result<(Vec<Array>, T)> + 'static,
        T: Send + Sync + 'static,
    {
        call::ready();
        // SAFETY: the callback and the destructor match the payload's type; C++ calls the
        // destructor once, when the last copy of the closure goes.
        let raw = unsafe {
            sys::graft_closure_extra_new_func_payload(
                Some(with_payload::<F, T>),
                Payload::give(f),
                Some(drop_payload::<F>),
            )
        };
        Self { raw, _live: Live::new() }
    }

    /// The function, compiled with its traces under `id`.
    pub(crate) fn compiled(&self, id: usize, shapeless: bool, constants: &[u64]) -> Result<Self> {
        call::ready();
        // SAFETY: makes a handle without a function.
        let raw = unsafe { sys::graft_closure_extra_new() };
        let mut res = Self { raw, _live: Live::new() };
        call::status("compile", || {
            // SAFETY: the closure is live and MLX keeps its own copy; the constants are copied.
            unsafe {
                sys::graft_detail_compile_extra(
                    &raw mut res.raw,
                    self.raw,
                    id,
                    shapeless,
                    constants.as_ptr(),
                    constants.len(),
                )
            }
        })?;
        Ok(res)
    }

    /// Calls the function; the value is that of the call that made the trace.
    pub(crate) fn call<A, T>(&self, inputs: &[A]) -> Result<(Vec<Array>, Arc<T>)>
    where
        A: AsRef<Array>,
        T: Send + Sync + 'static,
    {
        let inputs = VectorArray::from_arrays(inputs)?;
        let mut res = VectorArray::new();
        // SAFETY: makes a handle without a value.
        let mut extra = Extra { raw: unsafe { sys::graft_extra_new() }, _live: Live::new() };
        call::status("compile", || {
            // SAFETY: all handles are live.
            unsafe {
                sys::graft_closure_extra_apply(
                    res.as_mut_raw(),
                    &raw mut extra.raw,
                    self.raw,
                    inputs.as_raw(),
                )
            }
        })?;
        // SAFETY: the handle is live.
        let value = unsafe { sys::graft_extra_payload(extra.raw) };
        // SAFETY: a value in an extra is the box made in `with_payload`.
        let value = unsafe { value.cast::<Value>().as_ref() }.cloned();
        let value = value.and_then(|value| value.downcast().ok());
        Ok((res.to_vec()?, value.ok_or(NO_VALUE)?))
    }
}

impl Drop for ClosureExtra {
    fn drop(&mut self) {
        // SAFETY: frees the handle we own, once.
        without_drops(|| unsafe { sys::graft_closure_extra_free(self.raw) });
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        // SAFETY: frees the share we own, once.
        unsafe { sys::graft_extra_free(self.raw) };
    }
}
