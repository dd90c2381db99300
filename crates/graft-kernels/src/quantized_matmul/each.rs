//! Products of the same rows with several quantized matrices.

use mlx_graft::ops::QuantizedMatmulOptions;
use mlx_graft::primitive::{ArraySpec, InputBuffer, KernelError, OutputBuffer, Primitive, apply};
use mlx_graft::{Array, Result};

use super::format::Format;
use super::operands::Weight;
use super::{QuantizedMatmul, dtype_of, fits, quantized_matmul, solve};
use crate::derivatives::{Composed, of_composed};
use crate::floats::Floats;
use crate::is_active;

/// What `mlx.core.quantize` returns for a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// The packed words, `(N, K * bits / 32)`.
    pub w: &'a Array,
    /// `(N, K / group_size)`.
    pub scales: &'a Array,
    /// Of the shape of the scales, in affine mode.
    pub biases: Option<&'a Array>,
}

impl<'a> Packed<'a> {
    pub(super) fn arrays(self) -> impl Iterator<Item = &'a Array> {
        [self.w, self.scales].into_iter().chain(self.biases)
    }
}

/// The products of `x` and each of some quantized matrices, transposed, as so many calls of
/// [`quantized_matmul`]: those of the queries, keys and values of a layer.
///
/// `x` is `(…, M, K)`, the matrices `(N, K)`, and each result `(…, M, N)`. `group_size`, `bits` and
/// `mode` of `options` are those of all.
///
/// Where [`quantized_matmul`] computes them, they are one operation, whose work is shared among
/// threads once: for one row, as in generation, that takes less time than several.
///
/// # Errors
/// Those of [`quantized_matmul`].
///
/// ```
/// use graft_kernels::{Packed, quantized_matmul_each};
/// use mlx_graft::{Dtype, ops};
///
/// let w = ops::ones(&[8, 64], Dtype::Float32)?;
/// let packed = ops::quantize(&w, &ops::QuantizeOptions::default())?;
/// let packed = Packed { w: &packed[0], scales: &packed[1], biases: Some(&packed[2]) };
/// let x = ops::ones(&[1, 64], Dtype::Float32)?;
/// let y = quantized_matmul_each(&x, &[packed, packed], &ops::QuantizedMatmulOptions::default())?;
/// assert_eq!(y[1].to_vec::<f32>()?, [64.0; 8]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn quantized_matmul_each(
    x: &Array,
    packed: &[Packed<'_>],
    options: &QuantizedMatmulOptions<'_>,
) -> Result<Vec<Array>> {
    let &QuantizedMatmulOptions { group_size, bits, mode, .. } = options;
    let suits = |format: &Format| {
        packed.len() > 1
            && packed.iter().all(|&Packed { w, scales, biases }| {
                w.ndim() == 2
                    && fits(x, w, scales, biases, true, *format)
                    && dtype_of(x, scales, biases) == x.dtype()
            })
    };
    match Format::new(mode, group_size, bits).filter(suits) {
        Some(format) if is_active()? => {
            let inputs: Vec<&Array> =
                [x].into_iter().chain(packed.iter().flat_map(|packed| packed.arrays())).collect();
            apply(QuantizedMatmulEach { format }, &inputs)
        }
        _ => {
            let product = |&Packed { w, scales, biases }: &Packed<'_>| {
                let options = (*options).biases(biases).transpose(true);
                quantized_matmul(x, w, scales, &options)
            };
            packed.iter().map(product).collect()
        }
    }
}

/// The products of `x`, of the dtype of the results, and quantized matrices, transposed: of each
/// the packed words, the scales and, in affine mode, the biases.
#[derive(Clone, Copy, PartialEq)]
struct QuantizedMatmulEach {
    format: Format,
}

impl QuantizedMatmulEach {
    /// The product with one of the matrices.
    fn one(self) -> QuantizedMatmul {
        QuantizedMatmul { format: self.format, transpose: true }
    }

    /// What belongs to each matrix.
    fn split<T>(self, packed: &[T]) -> impl Iterator<Item = &[T]> {
        packed.chunks(2 + usize::from(self.format.has_biases()))
    }
}

impl Composed for QuantizedMatmulEach {
    fn composed(self, inputs: &[Array]) -> Result<Vec<Array>> {
        let product = |packed: &[Array]| {
            self.one().apply(&[&inputs[0]].into_iter().chain(packed).collect::<Vec<_>>())
        };
        self.split(&inputs[1..]).map(product).collect()
    }
}

impl Primitive for QuantizedMatmulEach {
    const NAME: &'static str = "quantized_matmul_each";

    fn output_specs(&self, inputs: &[ArraySpec]) -> Result<Vec<ArraySpec>> {
        let spec = |packed: &[ArraySpec]| {
            Ok(self.one().output_specs(&[&inputs[..1], packed].concat())?.remove(0))
        };
        self.split(&inputs[1..]).map(spec).collect()
    }

    fn eval_cpu(
        &self,
        inputs: &[InputBuffer<'_>],
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<(), KernelError> {
        let weights = self.split(&inputs[1..]).map(|packed| Weight::new(self.format, packed));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        solve::solve_each(Floats::new(&inputs[0])?, &weights, outputs)
    }

    of_composed!();

    fn vmap(
        &self,
        inputs: &[Array],
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<Option<i32>>)> {
        let (mut products, mut mapped) = (Vec::new(), Vec::new());
        for (packed, of_packed) in self.split(&inputs[1..]).zip(self.split(&axes[1..])) {
            let axes = [&axes[..1], of_packed].concat();
            if axes.iter().all(Option::is_none) {
                let inputs: Vec<&Array> = [&inputs[0]].into_iter().chain(packed).collect();
                products.push(self.one().apply(&inputs)?);
                mapped.push(None);
                continue;
            }
            let (product, axes) = self.one().vmap(&[&inputs[..1], packed].concat(), &axes)?;
            products.extend(product);
            mapped.extend(axes);
        }
        Ok((products, mapped))
    }
}
