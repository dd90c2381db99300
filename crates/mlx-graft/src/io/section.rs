//! A part of a stream, with other bytes before it.

use std::io::{Read, Result, Seek, SeekFrom};

/// Reads `prefix`, and then what `inner` has from `start` on.
///
/// MLX takes the position 0 for the start of a file, and looks up fields of an npy header at fixed
/// places. This makes a file of its kind out of a stream that begins elsewhere, or that has
/// another, equally valid header.
pub(super) struct Section<R> {
    prefix: Vec<u8>,
    inner: R,
    start: u64,
    position: u64,
}

impl<R> Section<R> {
    pub(super) fn new(prefix: Vec<u8>, inner: R, start: u64) -> Self {
        Self { prefix, inner, start, position: 0 }
    }
}

impl<R: Read + Seek> Read for Section<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = match self.prefix.get(self.position as usize..) {
            Some(rest) if !rest.is_empty() => {
                let len = rest.len().min(buffer.len());
                buffer[..len].copy_from_slice(&rest[..len]);
                len
            }
            _ => {
                // Others may have moved it since.
                let at = self.start + self.position - self.prefix.len() as u64;
                self.inner.seek(SeekFrom::Start(at))?;
                self.inner.read(buffer)?
            }
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for Section<R> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let moved = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => {
                let end = self.inner.seek(SeekFrom::End(0))?.saturating_sub(self.start);
                (end + self.prefix.len() as u64).checked_add_signed(by)
            }
        };
        self.position = moved.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
