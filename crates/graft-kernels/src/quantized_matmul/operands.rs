//! The operands of a product in memory.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // see `lanes`

use std::borrow::Cow;
use std::ops::Range;
use std::slice;

use mlx_graft::primitive::{InputBuffer, KernelError};
use pulp::NullaryFnOnce;

use super::format::{Format, Mode, e4m3, e8m0};
use super::unpack::unpack;
use crate::floats::Floats;
use crate::isa;
use crate::tasks;

/// The numbers as `float32`.
pub(super) fn to_float32(x: Floats<'_>) -> Cow<'_, [f32]> {
    if let Floats::Float32(x) = x {
        return Cow::Borrowed(x);
    }
    Cow::Owned(tasks::filled(x.len(), CONVERTED, 0.0, true, |i, wide| {
        let start = i * CONVERTED;
        isa::arch().dispatch(Convert { x, range: start..start + wide.len(), wide });
    }))
}

/// Numbers that are converted by one task.
const CONVERTED: usize = 1 << 15;

/// Converts some numbers.
struct Convert<'a> {
    x: Floats<'a>,
    range: Range<usize>,
    wide: &'a mut [f32],
}

impl NullaryFnOnce for Convert<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.x.widen(self.range, self.wide);
    }
}

/// The scales of groups.
enum Scales<'a> {
    Numbers(Floats<'a>),
    /// Of 8 bits.
    Codes(&'a [u8]),
}

/// A stack of quantized matrices.
pub(super) struct Weight<'a> {
    pub(super) format: Format,
    /// Rows of one matrix.
    pub(super) rows: usize,
    /// Numbers in a row.
    pub(super) columns: usize,
    words: &'a [u32],
    scales: Scales<'a>,
    biases: Option<Floats<'a>>,
}

/// What scales and biases are converted into.
#[derive(Default)]
pub(super) struct Scratch {
    scales: Vec<f32>,
    biases: Vec<f32>,
}

/// Whole groups of a row, with their scales and biases as `float32`.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) format: &'a Format,
    pub(super) codes: &'a [u8],
    pub(super) scales: &'a [f32],
    /// None where the mode has none.
    pub(super) biases: &'a [f32],
}

/// Whole rows that follow each other.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    all: Row<'a>,
    /// Bytes, and groups, of a row.
    bytes: usize,
    groups: usize,
}

#[cfg(target_arch = "x86_64")]
impl<'a> Rows<'a> {
    /// Bytes, and groups, of a row.
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.bytes, self.groups]
    }

    /// Row `i`.
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> Row<'a> {
        let Row { format, codes, scales, biases } = self.all;
        let groups = i * self.groups..(i + 1) * self.groups;
        Row {
            format,
            codes: &codes[i * self.bytes..(i + 1) * self.bytes],
            scales: &scales[groups.clone()],
            biases: if biases.is_empty() { biases } else { &biases[groups] },
        }
    }
}

impl<'a> Weight<'a> {
    /// Reads the inputs of the primitive: the packed words, the scales and, in affine mode, the
    /// biases.
    pub(super) fn new(format: Format, inputs: &[InputBuffer<'a>]) -> Result<Self, KernelError> {
        let [.., rows, words] = *inputs[0].shape() else {
            return Err(KernelError::new("a quantized matrix has two dimensions"));
        };
        Ok(Self {
            format,
            rows: rows as usize,
            columns: words as usize * 32 / format.bits,
            words: inputs[0].as_slice()?,
            scales: match format.mode {
                Mode::Affine => Scales::Numbers(Floats::new(&inputs[1])?),
                Mode::Mx | Mode::Nv => Scales::Codes(inputs[1].as_slice()?),
            },
            biases: inputs.get(2).map(Floats::new).transpose()?,
        })
    }

    /// A matrix of these words, scales (codes in other modes than the affine one) and biases.
    #[cfg(test)]
    pub(super) fn from_parts(
        format: Format,
        rows: usize,
        words: &'a [u32],
        scales: Result<&'a [f32], &'a [u8]>,
        biases: Option<&'a [f32]>,
    ) -> Self {
        Self {
            format,
            rows,
            columns: words.len() / rows * 32 / format.bits,
            words,
            scales: match scales {
                Ok(scales) => Scales::Numbers(Floats::Float32(scales)),
                Err(codes) => Scales::Codes(codes),
            },
            biases: biases.map(Floats::Float32),
        }
    }

    /// Some columns, which are whole groups, of a row of matrix number `index` of the stack.
    #[inline(always)]
    pub(super) fn row<'s>(
        &'s self,
        index: usize,
        row: usize,
        columns: Range<usize>,
        scratch: &'s mut Scratch,
    ) -> Row<'s> {
        let (row, format) = (index * self.rows + row, self.format);
        let first = row * (self.columns / format.group_size);
        let groups =
            first + columns.start / format.group_size..first + columns.end / format.group_size;
        let first = row * format.bytes(self.columns);
        let codes = first + format.bytes(columns.start)..first + format.bytes(columns.end);
        self.part(codes, groups, scratch)
    }

    /// Some rows of matrix number `index` of the stack.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn rows<'s>(
        &'s self,
        index: usize,
        rows: Range<usize>,
        scratch: &'s mut Scratch,
    ) -> Rows<'s> {
        let of = |length: usize| {
            let first = index * self.rows;
            (first + rows.start) * length..(first + rows.end) * length
        };
        let (bytes, groups) =
            (self.format.bytes(self.columns), self.columns / self.format.group_size);
        Rows { all: self.part(of(bytes), of(groups), scratch), bytes, groups }
    }

    /// Bytes of codes, and their groups.
    #[inline(always)]
    fn part<'s>(
        &'s self,
        codes: Range<usize>,
        groups: Range<usize>,
        scratch: &'s mut Scratch,
    ) -> Row<'s> {
        let format = &self.format;
        let scales = match &self.scales {
            Scales::Numbers(scales) => scales.part(groups.clone(), &mut scratch.scales),
            Scales::Codes(codes) => {
                let (codes, scales) = (&codes[groups.clone()], &mut scratch.scales);
                scales.clear();
                if format.mode == Mode::Mx {
                    scales.extend(codes.iter().map(|&code| e8m0(code)));
                } else {
                    scales.extend(codes.iter().map(|&code| e4m3(code)));
                }
                scales
            }
        };
        let biases = match &self.biases {
            Some(biases) => biases.part(groups, &mut scratch.biases),
            None => &[],
        };
        Row { format, codes: &as_bytes(self.words)[codes], scales, biases }
    }

    /// Writes the numbers of such a part of a row.
    #[inline(always)]
    pub(super) fn unpack(
        &self,
        index: usize,
        row: usize,
        columns: Range<usize>,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let Row { format, codes, scales, biases } = self.row(index, row, columns, scratch);
        unpack(*format, codes, scales, biases, out);
    }
}

/// The bytes of words, the lowest first, as MLX reads them too.
fn as_bytes(words: &[u32]) -> &[u8] {
    // SAFETY: the bytes of the slice, which live as long as it does.
    unsafe { slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}
