//! Derivatives.
#![allow(unsafe_code)]

use crate::{Array, Closure, Error, Result, ValueAndGrad, VectorArray, call, sys};

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
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// // The second derivative of the sine, by a gradient within a gradient.
/// let sine = |x: &[Array]| Ok(vec![ops::sin(&x[0])?]);
/// let slope = move |x: &[Array]| transforms::grad(sine, &[0], x);
/// let curvature = transforms::grad(slope, &[0], &[Array::scalar(0.5_f32)?])?;
/// assert_eq!(curvature[0].item::<f32>()?, -(0.5_f32.sin()));
/// # Ok::<(), mlx_graft::Error>(())
/// ```
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
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
/// let dy = Array::from_slice(&[1.0_f32, 10.0], &[2])?;
/// let f = |x: &[Array]| Ok(vec![ops::square(&x[0])?]);
/// let (values, products) = transforms::vjp(f, &[x], &[dy])?;
/// assert_eq!(values[0].to_vec::<f32>()?, [1.0, 4.0]);
/// assert_eq!(products[0].to_vec::<f32>()?, [2.0, 40.0]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
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
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let (x, dx) = (Array::scalar(3.0_f32)?, Array::scalar(1.0_f32)?);
/// let f = |x: &[Array]| Ok(vec![ops::square(&x[0])?]);
/// let (_, products) = transforms::jvp(f, &[x], &[dx])?;
/// assert_eq!(products[0].item::<f32>()?, 6.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
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
    call::status(op, || {
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
/// What MLX reports. The function returned fails if `f` returns no array.
///
/// ```
/// use mlx_graft::{Array, ops, transforms};
///
/// let f = transforms::checkpoint(|x| Ok(vec![ops::exp(&ops::sin(&x[0])?)?]))?;
/// let x = Array::scalar(0.0_f32)?;
/// let slope = transforms::grad(move |x| f.call(x), &[0], &[x])?;
/// assert_eq!(slope[0].item::<f32>()?, 1.0);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn checkpoint<F>(f: F) -> Result<Closure>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    const OP: &str = "checkpoint";
    let function = Closure::new(move |inputs| some(OP, f(inputs)?));
    Closure::derived(OP, |res| {
        // SAFETY: the closure is live, and MLX keeps its own copy.
        unsafe { sys::mlx_checkpoint(res, function.as_raw()) }
    })
}

/// The outputs, unless there are none: MLX takes the stream of the first.
pub(super) fn some(op: &'static str, outputs: Vec<Array>) -> Result<Vec<Array>> {
    if outputs.is_empty() {
        return Err(Error::invalid_argument(op, "the function returned no array"));
    }
    Ok(outputs)
}
