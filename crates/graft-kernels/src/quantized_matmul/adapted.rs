//! The product with a quantized weight that has a low-rank update.

use mlx_graft::ops::QuantizedMatmulOptions;
use mlx_graft::{Array, Result};

use super::format::Format;
use super::{Packed, QuantizedMatmul, dtype_of, fits, quantized_matmul};
use crate::{is_active, low_rank};

/// `x @ w.T + scale * (x @ a) @ b`: a linear layer with a low-rank update (Hu et al., 2021), whose
/// weight is packed (Dettmers et al., 2023).
///
/// `x` is `(…, I)`, `packed` a matrix of shape `(O, I)`, `a` is `(I, R)` and `b` is `(R, O)`; the result
/// is `(…, O)`. `group_size`, `bits` and `mode` of `options` are those of the matrix. Where
/// [`quantized_matmul`](crate::quantized_matmul) runs here and `a` and `b` are of `float32`, it is one
/// operation, and so is the derivative with respect to `x`: the update is added to the product before
/// it is rounded once more. Otherwise it is rounded to the dtype of `x`, as mlx-lm does, and added.
///
/// # Errors
/// Those of [`quantized_matmul`](crate::quantized_matmul) and `mlx.core.matmul`, if the shapes do not
/// fit.
///
/// ```
/// use graft_kernels::{Packed, adapted_quantized_matmul};
/// use mlx_graft::{Dtype, ops};
///
/// let w = ops::quantize(&ops::ones(&[8, 64], Dtype::Float32)?, &ops::QuantizeOptions::default())?;
/// let packed = Packed { w: &w[0], scales: &w[1], biases: Some(&w[2]) };
/// let x = ops::ones(&[2, 64], Dtype::Float32)?;
/// let (a, b) = (ops::ones(&[64, 1], Dtype::Float32)?, ops::ones(&[1, 8], Dtype::Float32)?);
/// let options = ops::QuantizedMatmulOptions::default();
/// let y = adapted_quantized_matmul(&x, packed, &options, &a, &b, 0.5)?;
/// assert_eq!(y.to_vec::<f32>()?, [96.0; 16]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn adapted_quantized_matmul(
    x: &Array,
    packed: Packed<'_>,
    options: &QuantizedMatmulOptions<'_>,
    a: &Array,
    b: &Array,
    scale: f32,
) -> Result<Array> {
    let Packed { w, scales, biases } = packed;
    let &QuantizedMatmulOptions { group_size, bits, mode, .. } = options;
    let suits = |format: &Format| {
        w.ndim() == 2
            && fits(x, w, scales, biases, true, *format)
            && dtype_of(x, scales, biases) == x.dtype()
    };
    if let Some(format) = Format::new(mode, group_size, bits).filter(suits)
        && is_active()?
    {
        let base = QuantizedMatmul { format, transpose: true };
        let matrices: Vec<&Array> = packed.arrays().collect();
        if let Some(y) = low_rank::updated(base, x, &matrices, [a, b], scale)? {
            return Ok(y);
        }
    }
    let options = (*options).biases(biases).transpose(true);
    low_rank::add_update(&quantized_matmul(x, w, scales, &options)?, x, [a, b], scale)
}
