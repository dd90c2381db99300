//! Products with many rows: pieces of the quantized matrix are unpacked as they are needed, and
//! multiplied as matrices of `float32`.
#![allow(clippy::inline_always)] // see `lanes`

use std::ops::Range;

use pulp::{Arch, NullaryFnOnce};

use super::operands::Scratch;
use super::product::Product;
use crate::matmul::float32::product_into;
use crate::matmul::matrix::Matrix;

/// Bytes of a piece, which stays in the second-level cache while rows pass by.
const PIECE_BYTES: usize = 512 << 10;

/// Columns of a piece at most.
const MOST_COLUMNS: usize = 256;

/// Rows that are multiplied at a time.
const ROWS: usize = 512;

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Buffers {
    scratch: Scratch,
    piece: Vec<f32>,
    sums: Vec<f32>,
}

/// Columns that are unpacked at a time at most, of so many numbers.
pub(super) fn columns_of_piece(length: usize) -> usize {
    (PIECE_BYTES / (4 * length)).clamp(1, MOST_COLUMNS)
}

/// Computes some columns of a product. `write` gets the number of a row, and the columns of it and
/// of rows that follow it.
pub(super) fn compute(
    product: &Product<'_>,
    columns: Range<usize>,
    buffers: &mut Buffers,
    arch: Arch,
    mut write: impl FnMut(usize, &[f32]),
) {
    let Buffers { scratch, piece, sums } = buffers;
    let (length, width) = (product.length, columns.len());
    piece.resize(length * width, 0.0);
    arch.dispatch(Unpack { product, columns, scratch, piece });
    let piece = if product.transpose {
        Matrix::from_rows(piece, width, length).transposed()
    } else {
        Matrix::from_rows(piece, length, width)
    };
    for (block, x) in product.x.chunks(ROWS * length).enumerate() {
        product_into(sums, Matrix::from_rows(x, x.len() / length, length), piece, false);
        write(block * ROWS, sums);
    }
}

/// Unpacks what some columns of the product are made of: rows of a matrix that is multiplied
/// transposed, columns of another.
struct Unpack<'a> {
    product: &'a Product<'a>,
    columns: Range<usize>,
    scratch: &'a mut Scratch,
    piece: &'a mut [f32],
}

impl NullaryFnOnce for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Product { weight, index, transpose, .. } = *self.product;
        let (rows, columns) = if transpose {
            (self.columns, 0..weight.columns)
        } else {
            (0..weight.rows, self.columns)
        };
        for (row, out) in rows.zip(self.piece.chunks_exact_mut(columns.len())) {
            weight.unpack(index, row, columns.clone(), self.scratch, out);
        }
    }
}
