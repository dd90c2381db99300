//! Derivatives of primitives by those of the same formula made of other operations.
//!
//! The primitive of a gradient is seldom differentiated once more, so its own derivative need not
//! be fast.

use mlx_graft::{Array, Result, transforms};

/// `function` of the inputs with the numbers `argnums`; the others stay as they are.
fn of_some(
    function: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    inputs: &[Array],
    argnums: &[usize],
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + 'static {
    let (inputs, argnums) = (inputs.to_vec(), argnums.to_vec());
    move |changed| {
        let mut inputs = inputs.clone();
        for (&arg, value) in argnums.iter().zip(changed) {
            inputs[arg].clone_from(value);
        }
        function(&inputs)
    }
}

/// The vector-Jacobian products of `function` with respect to the inputs `argnums`.
pub(crate) fn vjp(
    function: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    inputs: &[Array],
    cotangents: &[Array],
    argnums: &[usize],
) -> Result<Vec<Array>> {
    let at: Vec<&Array> = argnums.iter().map(|&arg| &inputs[arg]).collect();
    let cotangents: Vec<&Array> = cotangents.iter().collect();
    Ok(transforms::vjp(of_some(function, inputs, argnums), &at, &cotangents)?.1)
}

/// The Jacobian-vector products of `function`, as the inputs `argnums` move by `tangents`.
pub(crate) fn jvp(
    function: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    inputs: &[Array],
    tangents: &[Array],
    argnums: &[usize],
) -> Result<Vec<Array>> {
    let at: Vec<&Array> = argnums.iter().map(|&arg| &inputs[arg]).collect();
    let tangents: Vec<&Array> = tangents.iter().collect();
    Ok(transforms::jvp(of_some(function, inputs, argnums), &at, &tangents)?.1)
}

/// A primitive that can be made of other operations too.
pub(crate) trait Composed: Copy + 'static {
    /// The same from other operations.
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>>;
}

/// The function that a primitive is.
pub(crate) fn of(primitive: impl Composed) -> impl Fn(&[Array]) -> Result<Vec<Array>> + 'static {
    move |inputs| primitive.composed(inputs)
}

/// The derivatives of a [`Primitive`](mlx_graft::primitive::Primitive) that is [`Composed`].
macro_rules! of_composed {
    () => {
        fn vjp(
            &self,
            primals: &[mlx_graft::Array],
            cotangents: &[mlx_graft::Array],
            argnums: &[usize],
            _outputs: &[mlx_graft::Array],
        ) -> mlx_graft::Result<Vec<mlx_graft::Array>> {
            $crate::derivatives::vjp($crate::derivatives::of(*self), primals, cotangents, argnums)
        }

        fn jvp(
            &self,
            primals: &[mlx_graft::Array],
            tangents: &[mlx_graft::Array],
            argnums: &[usize],
        ) -> mlx_graft::Result<Vec<mlx_graft::Array>> {
            $crate::derivatives::jvp($crate::derivatives::of(*self), primals, tangents, argnums)
        }
    };
}

pub(crate) use of_composed;
