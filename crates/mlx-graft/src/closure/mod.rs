//! Rust functions that MLX can call.
#![allow(unsafe_code)]

mod custom;
mod extra;
mod handle;
mod kwargs;
mod value_and_grad;

use std::ffi::{c_int, c_void};

pub use custom::{CustomJvp, CustomVjp, CustomVmap};
pub(crate) use extra::ClosureExtra;
pub(crate) use handle::{discard, without_drops};
pub use kwargs::ClosureKwargs;
pub use value_and_grad::ValueAndGrad;

use crate::{Array, Result, VectorArray, call, containers, error, sys};
use handle::{Payload, closure_handle, drop_payload, function, is_plain, plain};

closure_handle! {
    /// A function from arrays to arrays that MLX can call, transform and compile.
    ///
    /// An error or a panic of the Rust function comes out of the outermost call unchanged. A clone
    /// is the same function.
    ///
    /// ```
    /// use mlx_graft::{Array, Closure, ops};
    ///
    /// let square = Closure::new(|x| Ok(vec![ops::square(&x[0])?]));
    /// let y = square.call(&[Array::scalar(3.0_f32)?])?;
    /// assert_eq!(y[0].item::<f32>()?, 9.0);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    Closure, mlx_closure, mlx_closure_new, mlx_closure_set, mlx_closure_free
}

fn run<F>(f: &F, res: *mut sys::mlx_vector_array, input: sys::mlx_vector_array) -> c_int
where
    F: Fn(&[Array]) -> Result<Vec<Array>>,
{
    error::guarded(|| {
        // SAFETY: C++ passes a live list and a slot for the length of this call.
        unsafe { containers::fill(res, &f(&containers::vec_from_raw(input)?)?) }
    })
}

extern "C" fn with_payload<F>(
    res: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    // SAFETY: C++ passes the payload that `new` gave it.
    run(unsafe { function::<F>(payload) }, res, input)
}

extern "C" fn without_payload<F>(
    res: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
) -> c_int
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    // SAFETY: `new` uses this for plain functions only and forgets the value.
    run(unsafe { plain::<F>() }, res, input)
}

extern "C" fn unary<F>(res: *mut sys::mlx_array, input: sys::mlx_array) -> c_int
where
    F: Fn(&Array) -> Result<Array> + Copy + 'static,
{
    let status = error::guarded(|| {
        let mut shared = sys::mlx_array { ctx: std::ptr::null_mut() };
        call::status("closure", || {
            // SAFETY: `input` is live for the length of this call; `shared` is a slot.
            unsafe { sys::mlx_array_set(&raw mut shared, input) }
        })?;
        // SAFETY: `shared` is a new handle that we own.
        let input = unsafe { Array::from_raw(shared) };
        // SAFETY: `Closure::unary` takes plain functions only, and they are `Copy`.
        let output = unsafe { plain::<F>() }(&input)?;
        call::status("closure", || {
            // SAFETY: `res` is a slot, `output` is live; the array is shared.
            unsafe { sys::mlx_array_set(res, output.as_raw()) }
        })
    });
    if status != 0 {
        // SAFETY: mlx-c 0.7.0 frees the input of a call that succeeds only.
        unsafe { sys::mlx_array_free(input) };
    }
    status
}

impl Closure {
    /// Wraps a Rust function.
    pub fn new<F>(f: F) -> Self
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        call::ready();
        if is_plain::<F>() {
            std::mem::forget(f);
            // SAFETY: a plain function needs no payload.
            return Self::owning(unsafe { sys::mlx_closure_new_func(Some(without_payload::<F>)) });
        }
        // SAFETY: the callback and the destructor match the payload's type; C++ calls the
        // destructor once, when the last copy of the closure goes.
        Self::owning(unsafe {
            sys::mlx_closure_new_func_payload(
                Some(with_payload::<F>),
                Payload::give(f),
                Some(drop_payload::<F>),
            )
        })
    }

    /// Wraps a function of one array that captures nothing, such as an operation.
    ///
    /// ```
    /// use mlx_graft::{Array, Closure, ops};
    ///
    /// let y = Closure::unary(ops::square).call(&[Array::scalar(3.0_f32)?])?;
    /// assert_eq!(y[0].item::<f32>()?, 9.0);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn unary<F>(_f: F) -> Self
    where
        F: Fn(&Array) -> Result<Array> + Copy + 'static,
    {
        const { assert!(is_plain::<F>(), "a unary closure captures nothing: use `Closure::new`") };
        call::ready();
        // SAFETY: the callback needs no payload.
        Self::owning(unsafe { sys::mlx_closure_new_unary(Some(unary::<F>)) })
    }

    /// Calls the function.
    ///
    /// # Errors
    /// The function's own error, or what MLX reports.
    pub fn call<A: AsRef<Array>>(&self, inputs: &[A]) -> Result<Vec<Array>> {
        let inputs = VectorArray::from_arrays(inputs)?;
        let mut res = VectorArray::new();
        call::status("closure", || {
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
        let mut res = Self::empty();
        call::status(op, || f(&raw mut res.raw))?;
        Ok(res)
    }
}
