//! The order in which an Einstein summation contracts its operands.
#![allow(unsafe_code)]

use crate::containers::{Text, VectorArray, VectorInt};
use crate::{Array, Result, call, sys};

/// The order in which an Einstein summation contracts its operands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EinsumPath {
    /// The positions of the operands of each contraction. Its result goes to the end of the list.
    pub contractions: Vec<Vec<i32>>,
    /// The costs with and without this order, for people.
    pub summary: String,
}

/// The order in which [`einsum`](super::einsum) contracts the operands.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if the subscripts do not fit the operands.
///
/// ```
/// # use mlx_graft::{Array, Dtype, ops};
/// let (a, b) = (ops::ones(&[2, 3], Dtype::Float32)?, ops::ones(&[3, 4], Dtype::Float32)?);
/// let c = ops::ones(&[4, 5], Dtype::Float32)?;
/// let path = ops::einsum_path("ij,jk,kl", &[&a, &b, &c])?;
/// assert_eq!(path.contractions, [[1, 2], [0, 1]]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn einsum_path(subscripts: &str, operands: &[impl AsRef<Array>]) -> Result<EinsumPath> {
    const OP: &str = "einsum_path";
    let text = call::c_string(OP, subscripts)?;
    let operands = VectorArray::from_arrays(operands)?;
    let (mut positions, mut counts) = (VectorInt::new(), VectorInt::new());
    let mut summary = Text::new();
    call::status(OP, || {
        // SAFETY: every handle and pointer is live for the length of the call.
        unsafe {
            sys::graft_einsum_path(
                positions.as_mut_raw(),
                counts.as_mut_raw(),
                summary.as_mut_raw(),
                text.as_ptr(),
                operands.as_raw(),
            )
        }
    })?;
    let mut positions = positions.to_vec()?.into_iter();
    let contraction = |count: i32| positions.by_ref().take(count as usize).collect();
    Ok(EinsumPath {
        contractions: counts.to_vec()?.into_iter().map(contraction).collect(),
        summary: summary.to_string(),
    })
}
