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
