//! Functions with named arguments.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use super::handle::{Payload, closure_handle, drop_payload, function, is_plain, plain};
use crate::containers::{self, MapStringToArray};
use crate::{Array, Result, VectorArray, call, error, sys};

closure_handle! {
    /// A function of arrays by position and by name.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// use mlx_graft::{Array, ClosureKwargs, ops};
    ///
    /// let scaled = ClosureKwargs::new(|x, named| Ok(vec![ops::multiply(&x[0], &named["by"])?]));
    /// let by = BTreeMap::from([("by".to_string(), Array::scalar(2.0_f32)?)]);
    /// let y = scaled.call(&[Array::scalar(3.0_f32)?], &by)?;
    /// assert_eq!(y[0].item::<f32>()?, 6.0);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    ClosureKwargs,
    mlx_closure_kwargs,
    mlx_closure_kwargs_new,
    mlx_closure_kwargs_set,
    mlx_closure_kwargs_free
}

fn run<F>(
    f: &F,
    res: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    named: sys::mlx_map_string_to_array,
) -> c_int
where
    F: Fn(&[Array], &BTreeMap<String, Array>) -> Result<Vec<Array>>,
{
    error::guarded(|| {
        // SAFETY: C++ passes a live list, a live map and a slot for the length of this call.
        unsafe {
            containers::fill(
                res,
                &f(&containers::vec_from_raw(input)?, &MapStringToArray::map_from_raw(named))?,
            )
        }
    })
}

extern "C" fn with_payload<F>(
    res: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    named: sys::mlx_map_string_to_array,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array], &BTreeMap<String, Array>) -> Result<Vec<Array>> + 'static,
{
    // SAFETY: C++ passes the payload that `new` gave it.
    run(unsafe { function::<F>(payload) }, res, input, named)
}

extern "C" fn without_payload<F>(
    res: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    named: sys::mlx_map_string_to_array,
) -> c_int
where
    F: Fn(&[Array], &BTreeMap<String, Array>) -> Result<Vec<Array>> + 'static,
{
    // SAFETY: `new` uses this for plain functions only and forgets the value.
    run(unsafe { plain::<F>() }, res, input, named)
}

impl ClosureKwargs {
    /// Wraps a Rust function.
    pub fn new<F>(f: F) -> Self
    where
        F: Fn(&[Array], &BTreeMap<String, Array>) -> Result<Vec<Array>> + 'static,
    {
        call::ready();
        if is_plain::<F>() {
            std::mem::forget(f);
            // SAFETY: a plain function needs no payload.
            let raw = unsafe { sys::mlx_closure_kwargs_new_func(Some(without_payload::<F>)) };
            return Self::owning(raw);
        }
        // SAFETY: the callback and the destructor match the payload's type; C++ calls the
        // destructor once, when the last copy of the closure goes.
        Self::owning(unsafe {
            sys::mlx_closure_kwargs_new_func_payload(
                Some(with_payload::<F>),
                Payload::give(f),
                Some(drop_payload::<F>),
            )
        })
    }

    /// Calls the function.
    ///
    /// # Errors
    /// The function's own error, or what MLX reports.
    pub fn call<A: AsRef<Array>>(
        &self,
        inputs: &[A],
        named: &BTreeMap<String, Array>,
    ) -> Result<Vec<Array>> {
        let inputs = VectorArray::from_arrays(inputs)?;
        let named = MapStringToArray::try_from(named)?;
        let mut res = VectorArray::new();
        call::status("closure", || {
            // SAFETY: all handles are live.
            unsafe {
                sys::mlx_closure_kwargs_apply(
                    res.as_mut_raw(),
                    self.raw,
                    inputs.as_raw(),
                    named.as_raw(),
                )
            }
        })?;
        res.to_vec()
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_closure_kwargs {
        self.raw
    }
}
