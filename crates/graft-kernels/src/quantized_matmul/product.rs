//! Products of rows and a quantized matrix, and how they are shared among threads.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr;

use mlx_graft::primitive::{KernelError, OutputBuffer};
use pulp::Arch;

use super::format::Format;
use super::operands::Weight;
use super::output::Output;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx2_many_rows, avx512, multiples, row_sums, vnni};
use super::{few_rows, many_rows};
use crate::gather::Groups;
use crate::isa;
use crate::tasks::{self, Cut};

/// Rows for which numbers are unpacked where they are multiplied.
pub(super) const FEW_ROWS: usize = 8;

/// Rows for which they are unpacked in registers, of a matrix that is transposed.
#[cfg(target_arch = "x86_64")]
pub(super) const REGISTER_ROWS: usize = 32;

/// Rows of 16-bit numbers up to which AVX2 multiplies them without panels.
#[cfg(target_arch = "x86_64")]
const AVX2_ROWS: usize = 4;

/// Columns of a task are a multiple of a cache line of every dtype.
const COLUMNS: usize = 32;

/// Rows times a quantized matrix.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    /// Rows of `length` numbers.
    pub(super) x: &'a [f32],
    pub(super) length: usize,
    pub(super) weight: &'a Weight<'a>,
    /// The number of the matrix in its stack.
    pub(super) index: usize,
    /// Whether the rows of the matrix are the columns that are multiplied.
    pub(super) transpose: bool,
    pub(super) path: Path,
}

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// Pieces of the matrix are unpacked and multiplied as matrices of `float32`.
    ManyRows,
    /// Rows of the matrix are unpacked one by one.
    FewRows,
    /// Numbers are unpacked in AVX-512's registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same with rows as whole numbers: for what is rounded to 16 bits.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// Numbers of a matrix that is not transposed are unpacked in AVX-512's registers.
    #[cfg(target_arch = "x86_64")]
    RowSums,
    /// Codes and rows as whole numbers in AVX2's registers: rows of 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with rows of `float32`, each as two whole numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2Float32,
    /// The same of many rows of 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2ManyRows,
}

impl Path {
    /// The fastest path for so many rows, of `float32` or of numbers of 16 bits.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub(super) fn of(format: Format, transpose: bool, rows: usize, is_float32: bool) -> Self {
        #[cfg(target_arch = "x86_64")]
        if avx512::is_supported() {
            if !transpose && rows <= FEW_ROWS {
                return Self::RowSums;
            }
            if transpose && rows <= REGISTER_ROWS {
                let as_multiples = !is_float32 && vnni::is_supported() && vnni::suits(format);
                return if as_multiples { Self::Vnni } else { Self::Avx512 };
            }
        } else if transpose && avx2::is_supported() && avx2::suits(format) {
            match (rows, is_float32) {
                (..=FEW_ROWS, true) => return Self::Avx2Float32,
                (..=AVX2_ROWS, false) => return Self::Avx2,
                (_, false) => return Self::Avx2ManyRows,
                (_, true) => {}
            }
        }
        if rows > FEW_ROWS { Self::ManyRows } else { Self::FewRows }
    }
}

impl Product<'_> {
    /// The rows of `x`.
    pub(super) fn rows(&self) -> usize {
        self.x.len() / self.length
    }

    /// The numbers of a row of the product.
    pub(super) fn columns(&self) -> usize {
        if self.transpose { self.weight.rows } else { self.weight.columns }
    }

    /// Whether its rows may become whole numbers, and meet codes instead of what they stand for.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn is_tame(&self) -> bool {
        self.x.chunks_exact(self.length).all(multiples::is_tame)
    }

    /// Whether its pieces are those of many rows.
    fn has_many_rows(&self) -> bool {
        match self.path {
            Path::ManyRows => true,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2ManyRows => true,
            _ => false,
        }
    }

    /// What it costs.
    fn work(&self) -> usize {
        tasks::work_of_rows(self.rows(), self.columns() * self.length)
    }

    /// Columns from which on a task may start: whole groups of packed rows.
    fn unit(&self) -> usize {
        let format = self.weight.format;
        match self.path {
            #[cfg(target_arch = "x86_64")]
            Path::RowSums => row_sums::unit(format).max(format.group_size),
            _ if self.transpose => COLUMNS,
            _ => COLUMNS.max(format.group_size),
        }
    }
}

/// Buffers of a thread.
#[derive(Default)]
struct Buffers {
    many: many_rows::Buffers,
    few: few_rows::Buffers,
    #[cfg(target_arch = "x86_64")]
    registers: avx512::Buffers,
    #[cfg(target_arch = "x86_64")]
    words: avx2::Buffers,
    #[cfg(target_arch = "x86_64")]
    many_words: avx2_many_rows::Buffers,
    #[cfg(target_arch = "x86_64")]
    row_sums: row_sums::Buffers,
}

/// Where products are written.
enum Places<'a> {
    /// Their rows follow each other.
    Stacked(&'a Output<'a>),
    /// Their rows are those of the picks in their order, of so many rows each.
    Picked(&'a Output<'a>, &'a Groups, usize),
    /// Each has an output.
    Each(&'a [Output<'a>]),
}

impl Places<'_> {
    /// The output of product `i`.
    fn output(&self, i: usize) -> &Output<'_> {
        match self {
            Self::Stacked(output) | Self::Picked(output, ..) => output,
            Self::Each(outputs) => &outputs[i],
        }
    }

    /// The first row of each product, in the order of the picks.
    ///
    /// # Panics
    /// If the products are not all of the outputs.
    fn first_rows(&self, products: &[Product<'_>]) -> Vec<usize> {
        let mut total = 0;
        let first_row = |(i, product): (usize, &Product<'_>)| {
            let output = self.output(i);
            assert_eq!(product.columns(), output.columns());
            if let Self::Each(_) = self {
                assert_eq!(product.rows(), output.rows());
                return 0;
            }
            total += product.rows();
            total - product.rows()
        };
        let first_rows = products.iter().enumerate().map(first_row).collect();
        match self {
            Self::Stacked(output) => assert_eq!(total, output.rows()),
            Self::Picked(output, groups, m) => {
                assert!(total == output.rows() && total == groups.order().len() * m);
            }
            Self::Each(outputs) => assert_eq!(products.len(), outputs.len()),
        }
        first_rows
    }

    /// The row of the output that a row is written to.
    fn row(&self, row: usize) -> usize {
        match self {
            Self::Picked(_, groups, m) => groups.order()[row / m] * m + row % m,
            Self::Stacked(_) | Self::Each(_) => row,
        }
    }
}

/// Writes products, whose rows follow each other in `output`.
///
/// # Panics
/// If they are not all of it.
pub(super) fn write_stacked(
    products: &[Product<'_>],
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    // SAFETY: `compute` writes all rows of all products, and asserts that these are all there are.
    let output = unsafe { Output::new(output, products[0].columns())? };
    compute(products, &Places::Stacked(&output), isa::arch());
    Ok(())
}

/// Writes products, whose rows are those of the picks in their order, of `m` rows each.
///
/// # Panics
/// As [`write_stacked`].
pub(super) fn write_picked(
    products: &[Product<'_>],
    groups: &Groups,
    m: usize,
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    // SAFETY: as above.
    let output = unsafe { Output::new(output, products[0].columns())? };
    compute(products, &Places::Picked(&output, groups, m), isa::arch());
    Ok(())
}

/// Writes products, each of which is all of an output.
///
/// # Panics
/// If one is not.
pub(super) fn write_each(
    products: &[Product<'_>],
    outputs: Vec<&mut OutputBuffer<'_>>,
) -> Result<(), KernelError> {
    let mut written = Vec::with_capacity(products.len());
    for (product, output) in products.iter().zip(outputs) {
        // SAFETY: `compute` writes all rows of all products, which it asserts to be those of their
        // outputs.
        written.push(unsafe { Output::new(output, product.columns())? });
    }
    compute(products, &Places::Each(&written), isa::arch());
    Ok(())
}

/// Computes products, which are all of their outputs.
fn compute(products: &[Product<'_>], places: &Places<'_>, arch: Arch) {
    let mut pieces: Vec<(usize, Range<usize>)> = Vec::new();
    let first_rows = places.first_rows(products);
    let cut = Cut::new(products.iter().map(Product::work).sum());
    for (i, product) in products.iter().enumerate() {
        let columns = product.columns();
        let most = match product.path {
            Path::ManyRows => many_rows::columns_of_piece(product.length),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2ManyRows => avx2_many_rows::columns_of_piece(product.length),
            _ => columns,
        };
        let unit = product.unit();
        let size = cut.width(product.work(), columns, unit).min(most.next_multiple_of(unit));
        let starts = (0..columns).step_by(size);
        pieces.extend(starts.map(|start| (i, start..columns.min(start + size))));
    }
    // Writes some columns of rows from `first` on of product `i`.
    let write = |i: usize, first: usize, start: usize, sums: &[f32], width: usize| {
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            let row = places.row(first_rows[i] + first + row);
            // SAFETY: a task writes rows of its own product, and columns of its own piece; no two
            // rows have one place, as groups have every pick once.
            unsafe { places.output(i).write(row, start, sums) };
        }
    };
    let forms = Forms::new(products, cut.is_parallel());
    tasks::for_each(pieces.len(), cut.is_parallel(), |task, buffers: &mut Buffers| {
        let (i, columns) = pieces[task].clone();
        let (product, start, width) = (&products[i], columns.start, columns.len());
        let write_rows = |first: usize, sums: &[f32]| write(i, first, start, sums, width);
        let sums = match forms.of(i) {
            #[cfg(target_arch = "x86_64")]
            Form::Registers(x) => avx512::compute(product, x, columns, &mut buffers.registers),
            #[cfg(target_arch = "x86_64")]
            Form::Words(x) => avx2::compute(product, x, columns, &mut buffers.words),
            #[cfg(target_arch = "x86_64")]
            Form::RowSums => row_sums::compute(product, &columns, &mut buffers.row_sums),
            #[cfg(target_arch = "x86_64")]
            Form::Panels(x) => {
                let buffers = &mut buffers.many_words;
                return avx2_many_rows::compute(product, x, &columns, buffers, write_rows);
            }
            Form::Floats if product.has_many_rows() => {
                return many_rows::compute(product, columns, &mut buffers.many, arch, write_rows);
            }
            Form::Floats => few_rows::compute(product, columns, &mut buffers.few, arch),
        };
        write_rows(0, sums);
    });
}

/// What rows are multiplied as.
enum Form {
    /// As they are.
    Floats,
    #[cfg(target_arch = "x86_64")]
    Registers(avx512::Rows),
    #[cfg(target_arch = "x86_64")]
    Words(avx2::Rows),
    #[cfg(target_arch = "x86_64")]
    Panels(avx2_many_rows::Rows),
    /// As they are, with codes instead of what they stand for.
    #[cfg(target_arch = "x86_64")]
    RowSums,
}

impl Form {
    /// That of a product's path, if its rows are tame.
    fn new(product: &Product<'_>) -> Self {
        #[cfg(target_arch = "x86_64")]
        match product.path {
            Path::ManyRows | Path::FewRows => {}
            _ if !product.is_tame() => {}
            Path::Avx512 => return Self::Registers(avx512::Rows::new(product, false)),
            Path::Vnni => return Self::Registers(avx512::Rows::new(product, true)),
            Path::Avx2 => return Self::Words(avx2::Rows::new(product, false)),
            Path::Avx2Float32 => return Self::Words(avx2::Rows::new(product, true)),
            Path::Avx2ManyRows => return Self::Panels(avx2_many_rows::Rows::new(product)),
            Path::RowSums => return Self::RowSums,
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = product;
        Self::Floats
    }
}

/// The forms of the rows of products.
struct Forms {
    forms: Vec<Form>,
    /// For each product the first one of the same rows and path, whose form serves both.
    first: Vec<usize>,
}

impl Forms {
    /// They are found before the products are shared: a thread that waited for another one to find a
    /// form would sleep, and to wake it takes as long as a small product.
    fn new(products: &[Product<'_>], parallel: bool) -> Self {
        let first: Vec<usize> = (0..products.len()).map(|i| first_like(products, i)).collect();
        let mut forms: Vec<Form> = products.iter().map(|_| Form::Floats).collect();
        let several = first.iter().any(|&first| first > 0);
        tasks::for_each_chunk(&mut forms, 1, parallel && several, |i, form| {
            if first[i] == i {
                form[0] = Form::new(&products[i]);
            }
        });
        Self { forms, first }
    }

    /// That of product `i`.
    fn of(&self, i: usize) -> &Form {
        &self.forms[self.first[i]]
    }
}

/// The first product of the same rows and path as product `i`.
fn first_like(products: &[Product<'_>], i: usize) -> usize {
    let product = &products[i];
    let is_same = |other: &Product<'_>| {
        ptr::eq(other.x, product.x)
            && other.path == product.path
            && other.weight.format == product.weight.format
    };
    products.iter().position(is_same).unwrap_or(i)
}

#[cfg(test)]
mod tests {
    use super::super::format::{E2M1, Format, Mode, e4m3, e8m0};
    use super::*;

    /// Seeded bits.
    fn bits(seed: u32, count: usize) -> impl Iterator<Item = u32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        (0..count).map(move |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.rotate_left(13)
        })
    }

    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        bits(seed, count).map(|x| (x >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// A quantized matrix, which nobody frees, and its numbers found bit by bit, with the
    /// magnitudes of what they are the sums of.
    fn packed(format: Format, rows: usize, columns: usize) -> (Weight<'static>, Vec<[f64; 2]>) {
        let words: Vec<u32> = bits(1, rows * columns * format.bits / 32).collect();
        let groups = rows * columns / format.group_size;
        // Scales around 1.
        let codes: Vec<u8> = bits(2, groups).map(|x| (x % 16) as u8 + 120).collect();
        let (scales, biases) = match format.mode {
            Mode::Affine => (Ok(numbers(3, groups)), Some(numbers(4, groups))),
            Mode::Mx => (Err(codes), None),
            Mode::Nv => (Err(codes.iter().map(|x| x % 64).collect()), None),
        };
        let bit = |i: usize| words[i / 32] >> (i % 32) & 1;
        let number = |i: usize| {
            let code = (0..format.bits).map(|b| bit(i * format.bits + b) << b).sum::<u32>();
            let group = i / format.group_size;
            let number = match (format.mode, format.bits) {
                (Mode::Affine, _) => f64::from(code),
                (_, 4) => f64::from(E2M1[code as usize]),
                _ => f64::from(e4m3(code as u8)),
            };
            let scale = match &scales {
                Ok(scales) => scales[group],
                Err(codes) if format.mode == Mode::Mx => e8m0(codes[group]),
                Err(codes) => e4m3(codes[group]),
            };
            let bias = biases.as_ref().map_or(0.0, |x| f64::from(x[group]));
            let scaled = number * f64::from(scale);
            [scaled + bias, scaled.abs() + bias.abs()]
        };
        let numbers = (0..rows * columns).map(number).collect();
        let scales = match scales {
            Ok(scales) => Ok(&*scales.leak()),
            Err(codes) => Err(&*codes.leak()),
        };
        let biases = biases.map(|biases| &*biases.leak());
        (Weight::from_parts(format, rows, words.leak(), scales, biases), numbers)
    }

    /// The instruction sets that this processor has.
    fn arches() -> Vec<Arch> {
        #[cfg(target_arch = "x86_64")]
        let more = pulp::x86::V3::try_new().map(Arch::V3);
        #[cfg(not(target_arch = "x86_64"))]
        let more = None;
        [Arch::Scalar, Arch::new()].into_iter().chain(more).collect()
    }

    /// The paths beside those that every processor has.
    #[cfg(target_arch = "x86_64")]
    fn own_paths(weight: &Weight<'_>, transpose: bool) -> Vec<Path> {
        let mut paths = Vec::new();
        if avx512::is_supported() {
            paths.push(if transpose { Path::Avx512 } else { Path::RowSums });
            if transpose && vnni::is_supported() && vnni::suits(weight.format) {
                paths.push(Path::Vnni);
            }
        }
        if transpose && avx2::is_supported() && avx2::suits(weight.format) {
            paths.extend([Path::Avx2, Path::Avx2Float32, Path::Avx2ManyRows]);
        }
        paths
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn own_paths(_: &Weight<'_>, _: bool) -> Vec<Path> {
        Vec::new()
    }

    /// Whether a path takes rows as multiples of a power of two.
    fn is_of_multiples(path: Path) -> bool {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Vnni | Path::Avx2 | Path::Avx2ManyRows => true,
            _ => false,
        }
    }

    /// Every path computes every product, also those that another computes faster.
    #[test]
    fn paths_agree() {
        let affine = [2, 3, 4, 5, 6, 8].map(|bits| Format::new("affine", Some(32), Some(bits)));
        let others = ["mxfp4", "mxfp8", "nvfp4"].map(|mode| Format::new(mode, None, None));
        for format in affine.into_iter().chain(others).flatten() {
            for (rows, columns) in [(1, 32), (35, 96), (70, 544)] {
                let (weight, unpacked) = packed(format, rows, columns);
                for transpose in [true, false] {
                    for m in [1, 2, 3, 7, 13] {
                        let x = numbers(5, m * if transpose { columns } else { rows });
                        check(&weight, &unpacked, transpose, &x);
                    }
                }
            }
        }
    }

    /// Where codes and biases are large and what they stand for together is not, both meet the same
    /// numbers, rounded or not.
    #[test]
    fn codes_and_biases_cancel() {
        let format = Format::new("affine", Some(64), Some(4)).expect("known");
        // Numbers .875, -1, and zeros.
        let mut words = [0x8888_8888; 8];
        words[0] = 0x8888_880f;
        let weight = Weight::from_parts(format, 1, &words, Ok(&[0.125]), Some(&[-1.0]));
        let mut unpacked = vec![[0.0, 2.0]; 64];
        (unpacked[0], unpacked[1]) = ([0.875, 2.875], [-1.0, 1.0]);
        let mut row = [0.1; 64];
        row[..3].copy_from_slice(&[0.0, 0.0, 1000.0]);
        for m in [1, 8, 40] {
            check(&weight, &unpacked, true, &row.repeat(m));
        }
    }

    fn check(weight: &Weight<'_>, unpacked: &[[f64; 2]], transpose: bool, x: &[f32]) {
        let (rows, columns) = (weight.rows, weight.columns);
        let (length, n) = if transpose { (columns, rows) } else { (rows, columns) };
        let (m, size) = (x.len() / length, weight.format.group_size);
        let largest_of = |group: &[f32]| {
            f64::from(group.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())))
        };
        let largest: Vec<Vec<f64>> =
            x.chunks_exact(length).map(|row| row.chunks(size).map(largest_of).collect()).collect();
        let number = |k: usize, j: usize| {
            unpacked[if transpose { j * columns + k } else { k * columns + j }]
        };
        let paths = [Path::ManyRows, Path::FewRows].into_iter();
        for path in paths.chain(own_paths(weight, transpose)) {
            for arch in arches() {
                let mut out = vec![f32::NAN; m * n];
                let product = Product { x, length, weight, index: 0, transpose, path };
                let output = Output::from_rows(&mut out, n);
                compute(&[product], &Places::Stacked(&output), arch);
                for (at, &found) in out.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let (mut wanted, mut bound) = (0.0, 0.0);
                    for (k, &x) in x[i * length..][..length].iter().enumerate() {
                        let ([number, magnitude], x) = (number(k, j), f64::from(x));
                        wanted += x * number;
                        if is_of_multiples(path) {
                            bound += number.abs() * largest[i][k / size] / 16384.0;
                        }
                        bound += magnitude * x.abs() * length as f64 * f64::from(f32::EPSILON);
                    }
                    let close = (f64::from(found) - wanted).abs() <= bound + 1e-7;
                    assert!(close, "{path:?} {m} {length} {n}: {found} instead of {wanted}");
                }
            }
        }
    }
}
