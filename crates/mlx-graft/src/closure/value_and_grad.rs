//! Functions that return a function's values and its gradients.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use super::handle::{Payload, closure_handle, drop_payload, function, is_plain, plain};
use crate::{Array, Closure, Result, VectorArray, call, containers, error, sys};

closure_handle! {
    /// A function that returns a function's values and its gradients.
    ///
    /// ```
    /// use mlx_graft::{Array, ValueAndGrad, ops};
    ///
    /// let cube = |x: &[Array]| Ok(vec![ops::multiply(&ops::square(&x[0])?, &x[0])?]);
    /// let f = ValueAndGrad::new(cube, &[0])?;
    /// let (values, grads) = f.call(&[Array::scalar(2.0_f32)?])?;
    /// assert_eq!((values[0].item::<f32>()?, grads[0].item::<f32>()?), (8.0, 12.0));
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    ValueAndGrad,
    mlx_closure_value_and_grad,
    mlx_closure_value_and_grad_new,
    mlx_closure_value_and_grad_set,
    mlx_closure_value_and_grad_free
}

fn run<F>(
    f: &F,
    values: *mut sys::mlx_vector_array,
    grads: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
) -> c_int
where
    F: Fn(&[Array]) -> Result<(Vec<Array>, Vec<Array>)>,
{
    error::guarded(|| {
        // SAFETY: C++ passes a live list and two slots for the length of this call.
        unsafe {
            let (own_values, own_grads) = f(&containers::vec_from_raw(input)?)?;
            containers::fill(values, &own_values)?;
            containers::fill(grads, &own_grads)
        }
    })
}

extern "C" fn with_payload<F>(
    values: *mut sys::mlx_vector_array,
    grads: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array]) -> Result<(Vec<Array>, Vec<Array>)> + 'static,
{
    // SAFETY: C++ passes the payload that `from_fn` gave it.
    run(unsafe { function::<F>(payload) }, values, grads, input)
}

extern "C" fn without_payload<F>(
    values: *mut sys::mlx_vector_array,
    grads: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
) -> c_int
where
    F: Fn(&[Array]) -> Result<(Vec<Array>, Vec<Array>)> + 'static,
{
    // SAFETY: `from_fn` uses this for plain functions only and forgets the value.
    run(unsafe { plain::<F>() }, values, grads, input)
}

impl ValueAndGrad {
    /// The values of `f` and the gradients of its first value, a scalar, with respect to the
    /// inputs numbered `argnums`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if `argnums` is empty, what MLX reports
    /// otherwise.
    pub fn new<F>(f: F, argnums: &[i32]) -> Result<Self>
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        let function = Closure::new(f);
        let mut res = Self::empty();
        call::status("value_and_grad", || {
            // SAFETY: the closure is live and MLX keeps its own copy; `argnums` is copied.
            unsafe {
                sys::mlx_value_and_grad(
                    &raw mut res.raw,
                    function.as_raw(),
                    argnums.as_ptr(),
                    argnums.len(),
                )
            }
        })?;
        Ok(res)
    }

    /// Wraps a Rust function that returns values and gradients of its own.
    ///
    /// ```
    /// use mlx_graft::{Array, ValueAndGrad, ops};
    ///
    /// let f = ValueAndGrad::from_fn(|x| {
    ///     Ok((vec![ops::sin(&x[0])?], vec![ops::cos(&x[0])?]))
    /// });
    /// let (values, grads) = f.call(&[Array::scalar(0.0_f32)?])?;
    /// assert_eq!((values[0].item::<f32>()?, grads[0].item::<f32>()?), (0.0, 1.0));
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn from_fn<F>(f: F) -> Self
    where
        F: Fn(&[Array]) -> Result<(Vec<Array>, Vec<Array>)> + 'static,
    {
        call::ready();
        if is_plain::<F>() {
            std::mem::forget(f);
            let callback = Some(without_payload::<F> as _);
            // SAFETY: a plain function needs no payload.
            return Self::owning(unsafe { sys::mlx_closure_value_and_grad_new_func(callback) });
        }
        // SAFETY: the callback and the destructor match the payload's type; C++ calls the
        // destructor once, when the last copy of the closure goes.
        Self::owning(unsafe {
            sys::mlx_closure_value_and_grad_new_func_payload(
                Some(with_payload::<F>),
                Payload::give(f),
                Some(drop_payload::<F>),
            )
        })
    }

    /// The values and the gradients at `inputs`.
    ///
    /// # Errors
    /// The function's own error, or what MLX reports: a first value that is not a scalar, an
    /// argument number out of range, an operation without a derivative.
    pub fn call<A: AsRef<Array>>(&self, inputs: &[A]) -> Result<(Vec<Array>, Vec<Array>)> {
        let inputs = VectorArray::from_arrays(inputs)?;
        let (mut values, mut grads) = (VectorArray::new(), VectorArray::new());
        call::status("value_and_grad", || {
            // SAFETY: all handles are live.
            unsafe {
                sys::mlx_closure_value_and_grad_apply(
                    values.as_mut_raw(),
                    grads.as_mut_raw(),
                    self.raw,
                    inputs.as_raw(),
                )
            }
        })?;
        Ok((values.to_vec()?, grads.to_vec()?))
    }
}
