//! Products of many rows of `bfloat16`: parts of the quantized matrix are rounded to `bfloat16` and
//! multiplied by dot products of pairs, where these are fast.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256bh, __m256i, __m512i, _mm256_storeu_si256, _mm512_add_ps, _mm512_cvtneps_pbh,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_permutexvar_epi32, _mm512_set1_ps, _mm512_srlv_epi32,
};
use std::array::from_fn;
use std::cell::RefCell;
use std::mem::transmute;
use std::ops::Range;

use half::bf16;
use mlx_graft::primitive::{KernelError, OutputBuffer};

use super::avx512::{Tile, numbers_of};
use super::codes::{Codes, with_codes};
use super::operands::{Row, Scratch, Weight};
use super::product::{FEW_ROWS, REGISTER_ROWS};
use crate::avx512::LANES;
use crate::floats::Floats;
use crate::isa::Isa;
use crate::matmul::avx512_pairs::{self, MOST_STEPS, Terms, part};
use crate::matmul::matrix::Matrix;
use crate::tasks;

/// Numbers of a part that is unpacked at a time: a few megabytes, which the caches keep.
const PART: usize = 2 << 20;

/// Numbers that a task unpacks.
const UNPACKED: usize = 1 << 15;

/// Parts begin at multiples of this: whole groups of every format.
const UNIT: usize = 128;

thread_local! {
    /// Memory for a part, kept from product to product.
    static MEMORY: RefCell<Vec<bf16>> = const { RefCell::new(Vec::new()) };
}

/// The rows, of `length` numbers, if they are multiplied here.
pub(super) fn many_rows(x: Floats<'_>, length: usize, transpose: bool) -> Option<&[bf16]> {
    let most_others = if transpose { REGISTER_ROWS } else { FEW_ROWS };
    match x {
        Floats::Bfloat16(x) if length > 0 && x.len() / length > most_others => {
            avx512_pairs::is_preferred().then_some(x)
        }
        _ => None,
    }
}

/// Writes the product of rows and the first matrix of a stack, all of `output`.
pub(super) fn write(
    x: &[bf16],
    weight: &Weight<'_>,
    transpose: bool,
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    // SAFETY: all of it is written.
    let out = unsafe { output.as_uninit_slice::<bf16>()? };
    if out.is_empty() {
        return Ok(());
    }
    let (length, columns) =
        if transpose { (weight.columns, weight.rows) } else { (weight.rows, weight.columns) };
    let steps = part(length, MOST_STEPS, UNIT);
    let mut terms = Unpacked {
        x: Matrix::from_rows(x, x.len() / length, length),
        weight,
        transpose,
        columns,
        steps,
        most_columns: (PART / steps).max(UNIT) / UNIT * UNIT,
        memory: MEMORY.take(),
    };
    avx512_pairs::multiply_terms(&mut terms, out);
    MEMORY.set(terms.memory);
    Ok(())
}

/// Rows and a quantized matrix, which is unpacked part by part.
struct Unpacked<'a> {
    x: Matrix<'a, bf16>,
    weight: &'a Weight<'a>,
    /// Whether the rows of the matrix are the columns that are multiplied.
    transpose: bool,
    columns: usize,
    /// Steps of a piece.
    steps: usize,
    most_columns: usize,
    memory: Vec<bf16>,
}

impl Terms<bf16> for Unpacked<'_> {
    fn size(&self) -> (usize, usize) {
        (self.x.rows, self.columns)
    }

    fn pieces(&self) -> usize {
        self.x.columns.div_ceil(self.steps)
    }

    fn most_steps(&self) -> usize {
        self.steps
    }

    fn most_columns(&self) -> (usize, usize) {
        (self.most_columns, UNIT)
    }

    fn piece(&mut self, piece: usize, columns: Range<usize>) -> [Matrix<'_, bf16>; 2] {
        let first = piece * self.steps;
        let steps = first..self.x.columns.min(first + self.steps);
        let x = self.x.columns(first, steps.len());
        let size = steps.len() * columns.len();
        if self.memory.len() < size {
            self.memory.resize(size, bf16::ZERO);
        }
        let numbers = &mut self.memory[..size];
        if self.transpose {
            unpack(self.weight, columns.clone(), steps.clone(), numbers);
            [x, Matrix::from_rows(numbers, columns.len(), steps.len()).transposed()]
        } else {
            unpack(self.weight, steps.clone(), columns.clone(), numbers);
            [x, Matrix::from_rows(numbers, steps.len(), columns.len())]
        }
    }
}

/// Writes some columns, which are whole groups, of some rows of the first matrix of a stack.
fn unpack(weight: &Weight<'_>, rows: Range<usize>, columns: Range<usize>, numbers: &mut [bf16]) {
    assert!(Isa::Avx512Bf16.is_supported());
    let width = columns.len();
    let per_task = UNPACKED.div_ceil(width);
    let tile = Tile::new(weight.format, width);
    let parallel = rows.len() > per_task;
    let chunks = numbers.chunks_mut(per_task * width);
    tasks::for_each_item(chunks, parallel, |task, numbers, scratch: &mut Scratch| {
        let first = rows.start + task * per_task;
        for (i, numbers) in numbers.chunks_exact_mut(width).enumerate() {
            let row = weight.row(0, first + i, columns.clone(), scratch);
            tile.check(&[row]);
            // SAFETY: the instructions were found, and the row is one of the tile.
            unsafe {
                with_codes!(weight.format, Known => unpack_row::<Known>(&row, &tile, numbers));
            }
        }
    });
}

/// Writes the numbers of a row, `number * scale + bias`.
///
/// # Safety
/// The row is one of the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn unpack_row<C: Codes>(row: &Row<'_>, tile: &Tile, out: &mut [bf16]) {
    let group_size = row.format.group_size;
    assert!(out.len() == row.scales.len() * group_size && group_size.is_multiple_of(LANES));
    let looked_up = numbers_of(*row.format);
    let factor = _mm512_set1_ps(C::FACTOR);
    // Sixteen codes that follow each other lie in so many words, each in the lanes of its codes.
    let words = C::WIDTH / 2;
    let lanes: [i32; LANES] = from_fn(|lane| (lane * C::WIDTH / 32) as i32);
    let shifts: [i32; LANES] = from_fn(|lane| (lane * C::WIDTH % 32) as i32);
    // SAFETY: the arrays fill a register.
    let shifts = unsafe { _mm512_loadu_si512(shifts.as_ptr().cast()) };
    let (sixteens, _) = out.as_chunks_mut::<LANES>();
    for (register, sixteens) in sixteens.chunks_mut(32 / C::WIDTH).enumerate() {
        // SAFETY: the caller says so.
        let codes: __m512i = unsafe { tile.part(register).codes::<C>(row) };
        for (i, sixteen) in sixteens.iter_mut().enumerate() {
            let group = (register * (32 / C::WIDTH) + i) * LANES / group_size;
            let places = lanes.map(|lane| lane + (i * words) as i32);
            // SAFETY: the array fills a register; this function is compiled for the instructions.
            let (number, _) = unsafe {
                let places = _mm512_loadu_si512(places.as_ptr().cast());
                let words = _mm512_permutexvar_epi32(places, codes);
                C::next(_mm512_srlv_epi32(words, shifts), looked_up)
            };
            // In this order, as a scale times the factor may overflow.
            let number = _mm512_mul_ps(number, factor);
            let scaled = _mm512_mul_ps(number, _mm512_set1_ps(row.scales[group]));
            let sum = match row.biases.get(group) {
                Some(&bias) => _mm512_add_ps(scaled, _mm512_set1_ps(bias)),
                None => scaled,
            };
            // SAFETY: both types are 32 bytes without invalid values, and sixteen numbers have as many.
            unsafe {
                let rounded = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sum));
                _mm256_storeu_si256(sixteen.as_mut_ptr().cast(), rounded);
            }
        }
    }
}
