//! A gguf file's header against its length.
//!
//! MLX reads the file through a memory map, and trusts the lengths in it: a wrong one makes it read
//! beyond the map, divide by zero or end the process. So the header is walked here first, and
//! everything that its reader does not survive, or silently misreads, is refused.

use std::fs::File;
use std::io::{BufReader, Read};

use super::super::At;
use super::MOST_DIMENSIONS;
use crate::{Error, Result};

const DEFAULT_ALIGNMENT: u64 = 32;

const FLOAT64: u32 = 12;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// The size of a value of a metadata type of fixed size.
fn value_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10 | 11 | FLOAT64 => Some(8),
        _ => None,
    }
}

/// The elements and the bytes of a block of a tensor type that MLX can read.
fn block(kind: u32) -> Option<(u64, u64)> {
    match kind {
        // F32 and I32; F16, I16 and BF16; I8.
        0 | 26 => Some((1, 4)),
        1 | 25 | 30 => Some((1, 2)),
        24 => Some((1, 1)),
        // Q4_0, Q4_1 and Q8_0.
        2 => Some((32, 18)),
        3 => Some((32, 20)),
        8 => Some((32, 34)),
        // Q2_K, Q4_K and Q6_K.
        10 => Some((256, 84)),
        12 => Some((256, 144)),
        14 => Some((256, 210)),
        _ => None,
    }
}

/// Checks a file, and returns the keys of its metadata.
pub(super) fn check(file: File, length: u64, at: &At) -> Result<Vec<String>> {
    let mut cursor = Cursor { stream: BufReader::new(file), position: 0, length, at };
    if length < 24 || cursor.bytes(4)? != b"GGUF" {
        return Err(at.broken("is no gguf file: it does not begin with GGUF and a header"));
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(at.broken(format!("has version {version} of gguf, not 2 or 3")));
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    let mut keys = Vec::new();
    let mut alignment = DEFAULT_ALIGNMENT;
    for _ in 0..pairs {
        let key = cursor.text("a key")?;
        if let Some(found) = cursor.value(&key)? {
            alignment = found;
        }
        keys.push(key);
    }
    let mut places = Vec::new();
    for _ in 0..tensors {
        places.push(cursor.tensor()?);
    }
    let data = cursor.position.next_multiple_of(alignment);
    let mut names = std::collections::HashSet::new();
    for (name, place, size) in places {
        let end = data.checked_add(place).and_then(|start| start.checked_add(size));
        if end.is_none_or(|end| end > length) {
            return Err(at.broken(format!(
                "tensor {name:?} lies beyond the end: an incomplete download or a corrupt file?"
            )));
        }
        if !names.insert(name.clone()) {
            return Err(at.broken(format!("tensor {name:?} is there twice")));
        }
    }
    Ok(keys)
}

struct Cursor<'a> {
    stream: BufReader<File>,
    position: u64,
    length: u64,
    at: &'a At,
}

impl Cursor<'_> {
    /// The next bytes; memory is taken only for what the file has.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        self.claim(count)?;
        let mut bytes = vec![0; count as usize];
        self.stream.read_exact(&mut bytes).map_err(self.at.refused())?;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        self.claim(count)?;
        self.stream.seek_relative(count as i64).map_err(self.at.refused())
    }

    fn claim(&mut self, count: u64) -> Result<()> {
        let end = self.position.checked_add(count).filter(|&end| end <= self.length);
        self.position = end.ok_or_else(|| {
            self.at.broken(format!(
                "ends in its header, after {} bytes: an incomplete download or a corrupt file?",
                self.length
            ))
        })?;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let length = self.u64()?;
        let bytes = self.bytes(length)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| self.at.broken(format!("{what} is no UTF-8 text")))?;
        self.at.c_text(&text)?;
        Ok(text)
    }

    /// Walks over a value; returns the alignment, if this is it.
    fn value(&mut self, key: &str) -> Result<Option<u64>> {
        let what = format!("metadata {key:?}");
        match self.u32()? {
            4 if key == "general.alignment" => match u64::from(self.u32()?) {
                0 => Err(self.at.broken(format!("{what} is 0"))),
                alignment => Ok(Some(alignment)),
            },
            STRING => self.text(&what).map(|_| None),
            ARRAY => self.list(&what).map(|()| None),
            FLOAT64 => Err(self.wide_float(&what)),
            kind => {
                let size = value_size(kind).ok_or_else(|| self.unknown(&what, kind))?;
                self.skip(size).map(|()| None)
            }
        }
    }

    fn list(&mut self, what: &str) -> Result<()> {
        let (kind, count) = (self.u32()?, self.u64()?);
        if i32::try_from(count).is_err() {
            return Err(self.at.broken(format!("{what} has {count} elements")));
        }
        match kind {
            FLOAT64 => Err(self.wide_float(what)),
            ARRAY => Err(self.at.unsupported(format!("{what} is a list of lists, unlike MLX's"))),
            STRING => (0..count).try_for_each(|_| self.text(what).map(drop)),
            kind => {
                let size = value_size(kind).ok_or_else(|| self.unknown(what, kind))?;
                self.skip(size.saturating_mul(count))
            }
        }
    }

    /// MLX reads it as 32 bits and goes on in the midst of it.
    fn wide_float(&self, what: &str) -> Error {
        self.at.unsupported(format!("{what} is a 64-bit float, which MLX misreads"))
    }

    fn unknown(&self, what: &str, kind: u32) -> Error {
        self.at.broken(format!("{what} has the unknown type {kind}"))
    }

    /// The name, the place and the size of a tensor.
    fn tensor(&mut self) -> Result<(String, u64, u64)> {
        let name = self.text("the name of a tensor")?;
        let ndim = self.u32()? as usize;
        if ndim > MOST_DIMENSIONS {
            return Err(self.at.broken(format!("tensor {name:?} has {ndim} dimensions")));
        }
        let mut shape = Vec::with_capacity(ndim);
        for _ in 0..ndim {
            shape.push(self.u64()?);
        }
        let (kind, place) = (self.u32()?, self.u64()?);
        let Some((per_block, bytes)) = block(kind) else {
            return Err(self.at.unsupported(format!(
                "tensor {name:?} has the type {kind}, which MLX cannot read"
            )));
        };
        let fits = shape.iter().all(|&dim| i32::try_from(dim).is_ok());
        let count = shape.iter().try_fold(1_u64, |count, &dim| count.checked_mul(dim));
        let size = count.and_then(|count| count.div_ceil(per_block).checked_mul(bytes));
        // A block is never split between rows, which come first in gguf.
        let whole = per_block == 1 || shape.first().is_some_and(|row| row % per_block == 0);
        match size {
            Some(size) if fits && whole => Ok((name, place, size)),
            _ => Err(self.at.broken(format!(
                "tensor {name:?} has the shape {shape:?}, which its type {kind} cannot have"
            ))),
        }
    }
}
