//! The header of an npy file: a Python dictionary as text.
//!
//! MLX looks up its fields at fixed places, so a header that is valid and laid out otherwise is
//! misread. This reads any, checks it, and writes the one that MLX expects.

use std::io::Read;

use super::At;
use crate::{Dtype, Result};

const MAGIC: &[u8] = b"\x93NUMPY";

/// More than any array of MLX needs; `NumPy` itself refuses more than 10,000.
const LONGEST: u64 = 1 << 16;

/// What an npy header says.
pub(super) struct Header {
    pub(super) dtype: Dtype,
    pub(super) big_endian: bool,
    pub(super) fortran: bool,
    pub(super) shape: Vec<i32>,
    /// Where the elements begin, counted from the first byte of the header.
    pub(super) data: u64,
    /// Whether MLX reads this very header rightly.
    pub(super) plain: bool,
}

impl Header {
    /// Reads and checks a header; `length` is that of the header and all that follows.
    pub(super) fn read(stream: &mut impl Read, length: u64, at: &At) -> Result<Self> {
        let mut fixed = [0; 8];
        let short = |what: &str| format!("ends in {what}, after {length} bytes");
        if length < 10 {
            return Err(at.broken(format!("is no npy file: it has {length} bytes")));
        }
        stream.read_exact(&mut fixed).map_err(at.refused())?;
        if fixed[..6] != *MAGIC {
            return Err(at.broken("is no npy file: it does not begin with \\x93NUMPY"));
        }
        let width = match fixed[6] {
            1 => 2_usize,
            2 | 3 => 4,
            other => return Err(at.broken(format!("has version {other} of npy, not 1, 2 or 3"))),
        };
        if length < 8 + width as u64 {
            return Err(at.broken(short("its header")));
        }
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes[..width]).map_err(at.refused())?;
        let text_length = u64::from(u32::from_le_bytes(bytes));
        let data = 8 + width as u64 + text_length;
        if text_length > LONGEST {
            return Err(at.broken(format!("announces a header of {text_length} bytes")));
        }
        if data > length {
            return Err(at.broken(short("its header")));
        }
        let mut text = vec![0; text_length as usize];
        stream.read_exact(&mut text).map_err(at.refused())?;
        let header = Self::parse(&text, fixed[6], data, at)?;
        match header.size() {
            None => Err(at.broken(format!("has the shape {:?}, which is too large", header.shape))),
            Some(size) if size > length => {
                Err(at
                    .broken(format!("announces an array of {size} bytes, and has {length} in all")))
            }
            Some(_) => Ok(header),
        }
    }

    fn parse(text: &[u8], version: u8, data: u64, at: &At) -> Result<Self> {
        let text = std::str::from_utf8(text).map_err(|_| at.broken("has no text as its header"))?;
        let mut fields = Fields { rest: text };
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        let parsed = fields.dictionary(|fields, key| {
            match key {
                "descr" if descr.is_none() => descr = Some(fields.item()?),
                "fortran_order" if fortran.is_none() => fortran = Some(fields.boolean()?),
                "shape" if shape.is_none() => shape = Some(fields.shape()?),
                _ => return None,
            }
            Some(())
        });
        let (Some(()), Some(descr), Some(fortran), Some(shape)) = (parsed, descr, fortran, shape)
        else {
            return Err(at.broken(format!("has a header that is not npy's: {:?}", text.trim())));
        };
        let Some((dtype, big_endian)) = dtype(descr) else {
            return Err(at.unsupported(format!("has the dtype {descr}, which MLX has not")));
        };
        let mut header = Self { dtype, big_endian, fortran, shape, data, plain: false };
        let [mlx, numpy] = [header.text(), header.text_of_numpy()];
        let known = text.trim_end() == mlx.trim_end() || text.trim_end() == numpy;
        header.plain = version < 3 && known && !header.swapped_complex();
        Ok(header)
    }

    /// The number of bytes of the elements.
    fn size(&self) -> Option<u64> {
        let sizes = self.shape.iter().map(|&dim| dim as u64);
        sizes.chain([self.dtype.size() as u64]).try_fold(1_u64, u64::checked_mul)
    }

    /// Where the elements end, counted from the first byte of the header.
    pub(super) fn end(&self) -> u64 {
        self.data.saturating_add(self.size().unwrap_or(u64::MAX))
    }

    /// Whether each element is two numbers, of the other byte order.
    pub(super) fn swapped_complex(&self) -> bool {
        self.big_endian && self.dtype == Dtype::Complex64
    }

    /// The header that MLX reads rightly.
    pub(super) fn for_mlx(&self) -> Vec<u8> {
        let text = self.text();
        let mut bytes = MAGIC.to_vec();
        bytes.extend([2, 0]);
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.into_bytes());
        bytes
    }

    /// The same, as `NumPy` writes it but for spaces at its end.
    fn text_of_numpy(&self) -> String {
        self.text()
            .replacen(", )}\n", if self.shape.len() == 1 { ",), }" } else { "), }" }, 1)
            .replacen("()}\n", "(), }", 1)
    }

    fn text(&self) -> String {
        let kind = match self.dtype {
            Dtype::Bool => "|b1",
            Dtype::Uint8 => "|u1",
            Dtype::Uint16 => "<u2",
            Dtype::Uint32 => "<u4",
            Dtype::Uint64 => "<u8",
            Dtype::Int8 => "|i1",
            Dtype::Int16 => "<i2",
            Dtype::Int32 => "<i4",
            Dtype::Int64 => "<i8",
            Dtype::Float16 => "<f2",
            Dtype::Float32 => "<f4",
            Dtype::Float64 => "<f8",
            Dtype::Bfloat16 => "<V2",
            Dtype::Complex64 if self.big_endian => "<f4",
            Dtype::Complex64 => "<c8",
        };
        let kind = if self.big_endian { kind.replace('<', ">") } else { kind.to_string() };
        let mut shape = self.shape.clone();
        let mut fortran = self.fortran;
        if self.swapped_complex() {
            if fortran {
                shape.reverse();
            }
            shape.push(2);
            fortran = false;
        }
        let fortran = if fortran { "True" } else { "False" };
        let shape: Vec<String> = shape.iter().map(i32::to_string).collect();
        let shape = if shape.is_empty() { String::new() } else { shape.join(", ") + ", " };
        format!("{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': ({shape})}}\n")
    }
}

/// The dtype of an array protocol's type string, and whether it is big-endian.
fn dtype(descr: &str) -> Option<(Dtype, bool)> {
    let text = descr.strip_prefix(['\'', '"'])?.strip_suffix(['\'', '"'])?;
    let (order, kind) = text.split_at_checked(1)?;
    let dtype = match kind {
        "b1" => Dtype::Bool,
        "u1" => Dtype::Uint8,
        "u2" => Dtype::Uint16,
        "u4" => Dtype::Uint32,
        "u8" => Dtype::Uint64,
        "i1" => Dtype::Int8,
        "i2" => Dtype::Int16,
        "i4" => Dtype::Int32,
        "i8" => Dtype::Int64,
        "f2" => Dtype::Float16,
        "f4" => Dtype::Float32,
        "f8" => Dtype::Float64,
        "V2" => Dtype::Bfloat16,
        "c8" => Dtype::Complex64,
        _ => return None,
    };
    match order {
        "<" | "=" | "|" => Some((dtype, false)),
        ">" => Some((dtype, dtype.size() > 1)),
        _ => None,
    }
}

/// A reader of the few Python literals that a header has.
struct Fields<'a> {
    rest: &'a str,
}

impl<'a> Fields<'a> {
    fn skip(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.trim_ascii_start().strip_prefix(token)?;
        Some(())
    }

    /// `{key: value, …}` and nothing after it; `value` reads the value of a key.
    fn dictionary(
        &mut self,
        mut value: impl FnMut(&mut Self, &'a str) -> Option<()>,
    ) -> Option<()> {
        self.skip("{")?;
        while self.skip("}").is_none() {
            let key = self.item()?;
            let key = key.strip_prefix(['\'', '"'])?.strip_suffix(['\'', '"'])?;
            self.skip(":")?;
            value(self, key)?;
            if self.skip(",").is_none() {
                self.skip("}")?;
                break;
            }
        }
        self.rest.trim_ascii().is_empty().then_some(())
    }

    /// A string with its quotes, or the text of a list.
    fn item(&mut self) -> Option<&'a str> {
        let text = self.rest.trim_ascii_start();
        let end = match text.chars().next()? {
            quote @ ('\'' | '"') => text[1..].find(quote)? + 2,
            '[' => text.rfind(']')? + 1,
            _ => return None,
        };
        let (item, rest) = text.split_at(end);
        self.rest = rest;
        Some(item)
    }

    fn boolean(&mut self) -> Option<bool> {
        if self.skip("True").is_some() {
            return Some(true);
        }
        self.skip("False").map(|()| false)
    }

    /// A tuple of lengths; Python 2 wrote `3L` for a long one.
    fn shape(&mut self) -> Option<Vec<i32>> {
        self.skip("(")?;
        let mut shape = Vec::new();
        while self.skip(")").is_none() {
            let text = self.rest.trim_ascii_start();
            let end = text.find(|c: char| !c.is_ascii_digit())?;
            shape.push(text[..end].parse().ok()?);
            self.rest = text[end..].strip_prefix('L').unwrap_or(&text[end..]);
            if self.skip(",").is_none() {
                self.skip(")")?;
                break;
            }
        }
        Some(shape)
    }
}
