//! Derivatives.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use crate::handles::Live;
use crate::{Array, Closure, Error, Result, VectorArray, call, sys};

/// A function that returns a function's values and its gradients.
pub struct ValueAndGrad {
    raw: sys::mlx_closure_value_and_grad,
    _live: Live,
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
        const OP: &str = "value_and_grad";
        let function = Closure::new(f);
        let raw = sys::mlx_closure_value_and_grad { ctx: null_mut() };
        let mut res = Self { raw, _live: Live::new() };
        call::with_closures(OP, || {
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

    /// The values and the gradients at `inputs`.
    ///
    /// # Errors
    /// The function's own error, or what MLX reports: a first value that is not a scalar, an
    /// argument number out of range, an operation without a derivative.
    pub fn call<A: AsRef<Array>>(&self, inputs: &[A]) -> Result<(Vec<Array>, Vec<Array>)> {
        let inputs = VectorArray::from_arrays(inputs)?;
        let (mut values, mut grads) = (VectorArray::new(), VectorArray::new());
        call::with_closures("value_and_grad", || {
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

impl Drop for ValueAndGrad {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_closure_value_and_grad_free(self.raw) };
        }
    }
}

/// The values of `f` at `inputs` and the gradients of its first value with respect to the inputs
/// numbered `argnums`.
///
/// # Errors
/// As [`ValueAndGrad::call`].
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let x = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[3])?;
/// let f = |x: &[Array]| Ok(vec![ops::sum(&ops::square(&x[0])?, false)?]);
/// let (values, grads) = transforms::value_and_grad(f, &[0], &[x])?;
/// assert_eq!(values[0].item::<f32>()?, 14.0);
/// assert_eq!(grads[0].to_vec::<f32>()?, [2.0, 4.0, 6.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn value_and_grad<F, A>(f: F, argnums: &[i32], inputs: &[A]) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    ValueAndGrad::new(f, argnums)?.call(inputs)
}

/// The gradients of the first value of `f` with respect to the inputs numbered `argnums`.
///
/// # Errors
/// As [`ValueAndGrad::call`].
pub fn grad<F, A>(f: F, argnums: &[i32], inputs: &[A]) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    Ok(value_and_grad(f, argnums, inputs)?.1)
}

/// The values of `f` at `primals` and its vector-Jacobian products with `cotangents`.
///
/// # Errors
/// The function's own error, or what MLX reports.
pub fn vjp<F, A>(f: F, primals: &[A], cotangents: &[A]) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    product("vjp", f, primals, cotangents, sys::mlx_vjp)
}

/// The values of `f` at `primals` and its Jacobian-vector products with `tangents`.
///
/// # Errors
/// The function's own error, or what MLX reports.
pub fn jvp<F, A>(f: F, primals: &[A], tangents: &[A]) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    if primals.len() != tangents.len() {
        return Err(Error::invalid_argument(
            "jvp",
            format!("{} primals and {} tangents", primals.len(), tangents.len()),
        ));
    }
    product("jvp", f, primals, tangents, sys::mlx_jvp)
}

type Product = unsafe extern "C" fn(
    *mut sys::mlx_vector_array,
    *mut sys::mlx_vector_array,
    sys::mlx_closure,
    sys::mlx_vector_array,
    sys::mlx_vector_array,
) -> i32;

fn product<F, A>(
    op: &'static str,
    f: F,
    primals: &[A],
    vectors: &[A],
    call: Product,
) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    A: AsRef<Array>,
{
    let function = Closure::new(f);
    let primals = VectorArray::from_arrays(primals)?;
    let vectors = VectorArray::from_arrays(vectors)?;
    let (mut values, mut products) = (VectorArray::new(), VectorArray::new());
    call::with_closures(op, || {
        // SAFETY: all handles are live.
        unsafe {
            call(
                values.as_mut_raw(),
                products.as_mut_raw(),
                function.as_raw(),
                primals.as_raw(),
                vectors.as_raw(),
            )
        }
    })?;
    Ok((values.to_vec()?, products.to_vec()?))
}

/// A function with the same values and gradients as `f` that keeps none of its intermediate
/// arrays for the backward pass: they are computed again there.
///
/// # Errors
/// What MLX reports.
pub fn checkpoint<F>(f: F) -> Result<Closure>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let function = Closure::new(f);
    Closure::derived("checkpoint", |res| {
        // SAFETY: the closure is live, and MLX keeps its own copy.
        unsafe { sys::mlx_checkpoint(res, function.as_raw()) }
    })
}
