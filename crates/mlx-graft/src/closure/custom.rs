//! The rules by which a custom function is transformed.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use super::handle::{Payload, closure_handle, drop_payload, function, is_plain, plain};
use crate::containers::VectorInt;
use crate::{Array, Result, VectorArray, call, containers, error, sys};

closure_handle! {
    /// A rule for vector-Jacobian products: a function of the inputs, the cotangents and the
    /// outputs, which returns one product for each input.
    ///
    /// ```
    /// use mlx_graft::{Array, closure::CustomVjp, ops};
    ///
    /// let rule = CustomVjp::new(|x, dy, _y| Ok(vec![ops::multiply(&dy[0], &ops::cos(&x[0])?)?]));
    /// let (x, dy) = (Array::scalar(0.0_f32)?, Array::scalar(3.0_f32)?);
    /// let y = ops::sin(&x)?;
    /// assert_eq!(rule.call(&[x], &[dy], &[y])?[0].item::<f32>()?, 3.0);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    CustomVjp,
    mlx_closure_custom,
    mlx_closure_custom_new,
    mlx_closure_custom_set,
    mlx_closure_custom_free
}

closure_handle! {
    /// A rule for Jacobian-vector products: a function of the inputs, the tangents of some of them
    /// and the numbers of these inputs, which returns one product for each output.
    ///
    /// ```
    /// use mlx_graft::{Array, closure::CustomJvp, ops};
    ///
    /// let rule = CustomJvp::new(|x, dx, argnums| {
    ///     assert_eq!(argnums, [0]);
    ///     Ok(vec![ops::multiply(&dx[0], &ops::cos(&x[0])?)?])
    /// });
    /// let (x, dx) = (Array::scalar(0.0_f32)?, Array::scalar(3.0_f32)?);
    /// assert_eq!(rule.call(&[x], &[dx], &[0])?[0].item::<f32>()?, 3.0);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    CustomJvp,
    mlx_closure_custom_jvp,
    mlx_closure_custom_jvp_new,
    mlx_closure_custom_jvp_set,
    mlx_closure_custom_jvp_free
}

closure_handle! {
    /// A rule for vectorisation: a function of the batched inputs and the axis that numbers the
    /// items in each (`None` for an input that all items share), which returns the batched outputs
    /// with theirs.
    ///
    /// ```
    /// use mlx_graft::{Array, closure::CustomVmap, ops};
    ///
    /// let rule = CustomVmap::new(|x, axes| Ok((vec![ops::square(&x[0])?], vec![axes[0]])));
    /// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
    /// let (y, axes) = rule.call(&[x], &[Some(0)])?;
    /// assert_eq!((y[0].to_vec::<f32>()?, axes), (vec![1.0, 4.0], vec![Some(0)]));
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    CustomVmap,
    mlx_closure_custom_vmap,
    mlx_closure_custom_vmap_new,
    mlx_closure_custom_vmap_set,
    mlx_closure_custom_vmap_free
}

fn run_vjp<F>(
    f: &F,
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    cotangents: sys::mlx_vector_array,
    outputs: sys::mlx_vector_array,
) -> c_int
where
    F: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>>,
{
    error::guarded(|| {
        // SAFETY: C++ passes live lists and a slot for the length of this call.
        unsafe {
            let primals = containers::vec_from_raw(primals)?;
            let cotangents = containers::vec_from_raw(cotangents)?;
            let outputs = containers::vec_from_raw(outputs)?;
            containers::fill(res, &f(&primals, &cotangents, &outputs)?)
        }
    })
}

extern "C" fn vjp<F>(
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    cotangents: sys::mlx_vector_array,
    outputs: sys::mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
{
    // SAFETY: C++ passes the payload that `CustomVjp::new` gave it.
    run_vjp(unsafe { function::<F>(payload) }, res, primals, cotangents, outputs)
}

extern "C" fn plain_vjp<F>(
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    cotangents: sys::mlx_vector_array,
    outputs: sys::mlx_vector_array,
) -> c_int
where
    F: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
{
    // SAFETY: `CustomVjp::new` uses this for plain functions only and forgets the value.
    run_vjp(unsafe { plain::<F>() }, res, primals, cotangents, outputs)
}

fn run_jvp<F>(
    f: &F,
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    tangents: sys::mlx_vector_array,
    argnums: *const c_int,
    num_argnums: usize,
) -> c_int
where
    F: Fn(&[Array], &[Array], &[usize]) -> Result<Vec<Array>>,
{
    error::guarded(|| {
        // SAFETY: C++ passes live lists, `num_argnums` numbers and a slot for the length of this
        // call.
        unsafe {
            let primals = containers::vec_from_raw(primals)?;
            let tangents = containers::vec_from_raw(tangents)?;
            let argnums = containers::numbers(argnums, num_argnums, |n| n as usize);
            containers::fill(res, &f(&primals, &tangents, &argnums)?)
        }
    })
}

extern "C" fn jvp<F>(
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    tangents: sys::mlx_vector_array,
    argnums: *const c_int,
    num_argnums: usize,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array], &[Array], &[usize]) -> Result<Vec<Array>> + 'static,
{
    // SAFETY: C++ passes the payload that `CustomJvp::new` gave it.
    run_jvp(unsafe { function::<F>(payload) }, res, primals, tangents, argnums, num_argnums)
}

extern "C" fn plain_jvp<F>(
    res: *mut sys::mlx_vector_array,
    primals: sys::mlx_vector_array,
    tangents: sys::mlx_vector_array,
    argnums: *const c_int,
    num_argnums: usize,
) -> c_int
where
    F: Fn(&[Array], &[Array], &[usize]) -> Result<Vec<Array>> + 'static,
{
    // SAFETY: `CustomJvp::new` uses this for plain functions only and forgets the value.
    run_jvp(unsafe { plain::<F>() }, res, primals, tangents, argnums, num_argnums)
}

fn run_vmap<F>(
    f: &F,
    res: *mut sys::mlx_vector_array,
    res_axes: *mut sys::mlx_vector_int,
    inputs: sys::mlx_vector_array,
    axes: *const c_int,
    num_axes: usize,
) -> c_int
where
    F: Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)>,
{
    error::guarded(|| {
        // SAFETY: C++ passes a live list, `num_axes` numbers and two slots for the length of this
        // call.
        unsafe {
            let inputs = containers::vec_from_raw(inputs)?;
            let (outputs, axes) =
                f(&inputs, &containers::numbers(axes, num_axes, containers::axis))?;
            containers::fill_axes(res_axes, &axes)?;
            containers::fill(res, &outputs)
        }
    })
}

extern "C" fn vmap<F>(
    res: *mut sys::mlx_vector_array,
    res_axes: *mut sys::mlx_vector_int,
    inputs: sys::mlx_vector_array,
    axes: *const c_int,
    num_axes: usize,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> + 'static,
{
    // SAFETY: C++ passes the payload that `CustomVmap::new` gave it.
    run_vmap(unsafe { function::<F>(payload) }, res, res_axes, inputs, axes, num_axes)
}

extern "C" fn plain_vmap<F>(
    res: *mut sys::mlx_vector_array,
    res_axes: *mut sys::mlx_vector_int,
    inputs: sys::mlx_vector_array,
    axes: *const c_int,
    num_axes: usize,
) -> c_int
where
    F: Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> + 'static,
{
    // SAFETY: `CustomVmap::new` uses this for plain functions only and forgets the value.
    run_vmap(unsafe { plain::<F>() }, res, res_axes, inputs, axes, num_axes)
}

/// Wraps a rule: without a payload if it captures nothing.
macro_rules! rule {
    ($f:ident: $plain:ident with $new_plain:ident, $callback:ident with $new:ident) => {{
        call::ready();
        if is_plain::<F>() {
            std::mem::forget($f);
            // SAFETY: a plain function needs no payload.
            Self::owning(unsafe { sys::$new_plain(Some($plain::<F>)) })
        } else {
            // SAFETY: the callback and the destructor match the payload's type; C++ calls the
            // destructor once, when the last copy of the closure goes.
            Self::owning(unsafe {
                let payload = Payload::give($f);
                sys::$new(Some($callback::<F>), payload, Some(drop_payload::<F>))
            })
        }
    }};
}

impl CustomVjp {
    /// Wraps a Rust function.
    pub fn new<F>(f: F) -> Self
    where
        F: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
    {
        rule!(f: plain_vjp with mlx_closure_custom_new_func,
              vjp with mlx_closure_custom_new_func_payload)
    }

    /// Calls the rule with inputs, cotangents and outputs.
    ///
    /// # Errors
    /// The rule's own error.
    pub fn call<A: AsRef<Array>>(
        &self,
        primals: &[A],
        cotangents: &[A],
        outputs: &[A],
    ) -> Result<Vec<Array>> {
        let primals = VectorArray::from_arrays(primals)?;
        let cotangents = VectorArray::from_arrays(cotangents)?;
        let outputs = VectorArray::from_arrays(outputs)?;
        let mut res = VectorArray::new();
        call::status("custom_vjp", || {
            // SAFETY: all handles are live.
            unsafe {
                sys::mlx_closure_custom_apply(
                    res.as_mut_raw(),
                    self.raw,
                    primals.as_raw(),
                    cotangents.as_raw(),
                    outputs.as_raw(),
                )
            }
        })?;
        res.to_vec()
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_closure_custom {
        self.raw
    }
}

impl CustomJvp {
    /// Wraps a Rust function.
    pub fn new<F>(f: F) -> Self
    where
        F: Fn(&[Array], &[Array], &[usize]) -> Result<Vec<Array>> + 'static,
    {
        rule!(f: plain_jvp with mlx_closure_custom_jvp_new_func,
              jvp with mlx_closure_custom_jvp_new_func_payload)
    }

    /// Calls the rule with inputs and the tangents of those numbered `argnums`.
    ///
    /// # Errors
    /// The rule's own error.
    pub fn call<A: AsRef<Array>>(
        &self,
        primals: &[A],
        tangents: &[A],
        argnums: &[usize],
    ) -> Result<Vec<Array>> {
        let primals = VectorArray::from_arrays(primals)?;
        let tangents = VectorArray::from_arrays(tangents)?;
        let argnums: Vec<c_int> = argnums.iter().map(|n| *n as c_int).collect();
        let mut res = VectorArray::new();
        call::status("custom_jvp", || {
            // SAFETY: all handles are live; the numbers are copied.
            unsafe {
                sys::mlx_closure_custom_jvp_apply(
                    res.as_mut_raw(),
                    self.raw,
                    primals.as_raw(),
                    tangents.as_raw(),
                    argnums.as_ptr(),
                    argnums.len(),
                )
            }
        })?;
        res.to_vec()
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_closure_custom_jvp {
        self.raw
    }
}

impl CustomVmap {
    /// Wraps a Rust function.
    pub fn new<F>(f: F) -> Self
    where
        F: Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> + 'static,
    {
        rule!(f: plain_vmap with mlx_closure_custom_vmap_new_func,
              vmap with mlx_closure_custom_vmap_new_func_payload)
    }

    /// Calls the rule with batched inputs and their axes.
    ///
    /// # Errors
    /// The rule's own error.
    pub fn call<A: AsRef<Array>>(
        &self,
        inputs: &[A],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let inputs = VectorArray::from_arrays(inputs)?;
        let axes: Vec<c_int> = axes.iter().map(|axis| axis.unwrap_or(-1)).collect();
        let (mut res, mut res_axes) = (VectorArray::new(), VectorInt::new());
        call::status("custom_vmap", || {
            // SAFETY: all handles are live; the axes are copied.
            unsafe {
                sys::mlx_closure_custom_vmap_apply(
                    res.as_mut_raw(),
                    res_axes.as_mut_raw(),
                    self.raw,
                    inputs.as_raw(),
                    axes.as_ptr(),
                    axes.len(),
                )
            }
        })?;
        Ok((res.to_vec()?, res_axes.to_vec()?.into_iter().map(containers::axis).collect()))
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_closure_custom_vmap {
        self.raw
    }
}
