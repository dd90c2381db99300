//! Products with few rows: each row of the quantized matrix is unpacked once, where it is used.
#![allow(clippy::inline_always)] // see `lanes`

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::operands::Scratch;
use super::product::Product;
use crate::lanes::dot;

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: Scratch,
    unpacked: Vec<f32>,
    sums: Vec<f32>,
}

/// Computes some columns of a product, row by row: whole groups of a matrix that is not multiplied
/// transposed.
pub(super) fn compute<'b>(
    product: &Product<'_>,
    columns: Range<usize>,
    buffers: &'b mut Buffers,
    arch: Arch,
) -> &'b [f32] {
    arch.dispatch(Task { product, columns, buffers });
    &buffers.sums
}

struct Task<'a> {
    product: &'a Product<'a>,
    columns: Range<usize>,
    buffers: &'a mut Buffers,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, columns, buffers: Buffers { scratch, unpacked, sums } } = self;
        let Product { x, length, weight, index, .. } = *product;
        let width = columns.len();
        sums.clear();
        sums.resize(product.rows() * width, 0.0);
        if product.transpose {
            unpacked.resize(length, 0.0);
            for j in 0..width {
                weight.unpack(index, columns.start + j, 0..length, scratch, unpacked);
                for (sum, x) in sums[j..].iter_mut().step_by(width).zip(x.chunks_exact(length)) {
                    *sum = dot(simd, x, unpacked);
                }
            }
        } else {
            unpacked.resize(width, 0.0);
            for k in 0..length {
                weight.unpack(index, k, columns.clone(), scratch, unpacked);
                for (sums, x) in sums.chunks_exact_mut(width).zip(x.chunks_exact(length)) {
                    let x = x[k];
                    for (sum, &number) in sums.iter_mut().zip(&*unpacked) {
                        *sum += x * number;
                    }
                }
            }
        }
    }
}
