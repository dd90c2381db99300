//! The npz format of `NumPy`: several arrays in a zip archive, an npy file each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use zip::read::ZipFile;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::header::Header;
use super::npy::lazy;
use super::section::Section;
use super::{At, replace, save_to, with_ending};
use crate::{Array, Error, ErrorKind, Result};

const LOAD: &str = "load_npz";
const SAVE: &str = "savez";

/// Deflate makes no more than this many bytes out of one.
const MOST_DEFLATED: u64 = 1032;

/// How the arrays of an npz file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are, as `mx.savez` does.
    Stored,
    /// Deflated, as `mx.savez_compressed` does.
    Deflated,
}

/// Loads an npz file, stored or deflated: its arrays by name.
///
/// An array is read, and its checksum checked, when it is evaluated.
///
/// # Errors
/// [`Error::File`] if the file is missing or no zip archive ([`ErrorKind::InvalidArgument`]), or if
/// an entry is no npy file, encrypted, overlaps another, or has not the size that it announces.
///
/// ```
/// use mlx_graft::io::{self, Compression};
/// use mlx_graft::Array;
///
/// let path = std::env::temp_dir().join("mlx-graft-doc-load.npz");
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
/// io::save_npz(&path, [("x", &x)], Compression::Deflated)?;
/// assert_eq!(io::load_npz(&path)?["x"].to_vec::<f32>()?, [1.0, 2.0]);
/// # let _ = std::fs::remove_file(path);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn load_npz(path: impl AsRef<Path>) -> Result<BTreeMap<String, Array>> {
    let path = path.as_ref();
    let at = At::path(LOAD, path);
    let (file, _) = at.open(path, ErrorKind::InvalidArgument)?;
    read(BufReader::new(file), &at)
}

/// Loads the arrays of an npz archive in a stream.
///
/// # Errors
/// As for [`load_npz`], or the stream's own.
pub fn load_npz_from<R>(stream: R) -> Result<BTreeMap<String, Array>>
where
    R: Read + Seek + Send + 'static,
{
    read(BufReader::new(stream), &At::stream(LOAD))
}

fn read<R>(stream: R, at: &At) -> Result<BTreeMap<String, Array>>
where
    R: Read + Seek + Send + 'static,
{
    let not_npz = |reason: String| at.unsupported(format!("is no npz file: {reason}"));
    let mut archive = ZipArchive::new(stream).map_err(|error| match error {
        ZipError::Io(error) => {
            error.downcast::<Error>().unwrap_or_else(|error| not_npz(error.to_string()))
        }
        other => not_npz(other.to_string()),
    })?;
    if archive.has_overlapping_files().map_err(|error| at.broken(error.to_string()))? {
        return Err(at.broken("has entries that overlap"));
    }
    let entries = archive.len();
    let archive = Arc::new(Mutex::new(archive));
    let mut arrays = BTreeMap::new();
    for index in 0..entries {
        let (name, header, size) = {
            let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
            let mut entry =
                archive.by_index(index).map_err(|error| at.broken(error.to_string()))?;
            checked(&mut entry, at)?
        };
        let entry_at = At { op: at.op, file: format!("{}, entry {name:?}", at.file) };
        if header.end() > size {
            return Err(entry_at.broken(format!("has {size} bytes of {}", header.end())));
        }
        let entry = Entry { archive: archive.clone(), index, position: 0 };
        let stream = Section::new(header.for_mlx(), entry, header.data);
        let array = lazy(stream, &header, &entry_at)?;
        let name = name.strip_suffix(".npy").map_or_else(|| name.clone(), str::to_string);
        if arrays.insert(name, array).is_some() {
            return Err(entry_at.broken("is there twice"));
        }
    }
    Ok(arrays)
}

/// The name, the npy header and the size of an entry.
fn checked<R: Read + ?Sized>(entry: &mut ZipFile<'_, R>, at: &At) -> Result<(String, Header, u64)> {
    let name = entry.name().map_err(|error| at.broken(error.to_string()))?.into_owned();
    let at = At { op: at.op, file: format!("{}, entry {name:?}", at.file) };
    let (size, packed) = (entry.size(), entry.compressed_size());
    let most = match entry.compression() {
        CompressionMethod::Stored => packed,
        _ => packed.saturating_mul(MOST_DEFLATED),
    };
    if size > most {
        return Err(at.broken(format!("announces {size} bytes in {packed}, which is impossible")));
    }
    let header = Header::read(entry, size, &at)?;
    Ok((name, header, size))
}

/// The content of an entry.
///
/// MLX reads the elements of an array in one, so the entry is decoded from its start for them.
struct Entry<R> {
    archive: Arc<Mutex<ZipArchive<R>>>,
    index: usize,
    position: u64,
}

/// The stream's own error, if it is one.
fn own(error: ZipError) -> io::Error {
    match error {
        ZipError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<R: Read + Seek> Read for Entry<R> {
    /// Fills the buffer, and checks the checksum of the entry.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entry = archive.by_index(self.index).map_err(own)?;
        let skip = self.position;
        if io::copy(&mut (&mut entry).take(skip), &mut io::sink())? < skip {
            return Ok(0);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            match entry.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        io::copy(&mut entry, &mut io::sink())?;
        self.position += filled as u64;
        Ok(filled)
    }
}

impl<R> Seek for Entry<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        // A section seeks from the start, unless it is asked for its end, which MLX does not.
        let SeekFrom::Start(position) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.position = position;
        Ok(position)
    }
}

/// Saves arrays by name to an npz file; `.npz` is added to another ending.
///
/// # Errors
/// What the evaluation of an array reports, [`ErrorKind::InvalidArgument`] for a name that is given
/// twice, or [`Error::File`] if the system refuses. An old file is then as it was.
pub fn save_npz<N: AsRef<str>, A: AsRef<Array>>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (N, A)>,
    compression: Compression,
) -> Result<()> {
    let path = with_ending(path.as_ref(), ".npz");
    let at = At::path(SAVE, &path);
    let write = |temporary: &Path| {
        let mut file = BufWriter::new(File::create(temporary).map_err(at.refused())?);
        archive(&mut file, arrays, compression, &at)?;
        file.flush().map_err(at.refused())
    };
    replace(&path, write, at.refused())
}

/// Writes arrays by name as an npz archive to a stream.
///
/// # Errors
/// As for [`save_npz`], or the stream's own.
///
/// ```
/// use std::io::Cursor;
/// use mlx_graft::io::{self, Compression};
/// use mlx_graft::Array;
///
/// let mut stream = Cursor::new(Vec::new());
/// let x = Array::from_slice(&[1_u8, 2], &[2])?;
/// io::save_npz_to(&mut stream, [("x", &x)], Compression::Stored)?;
/// assert_eq!(io::load_npz_from(stream)?["x"].to_vec::<u8>()?, [1, 2]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn save_npz_to<W: Write + Seek, N: AsRef<str>, A: AsRef<Array>>(
    stream: &mut W,
    arrays: impl IntoIterator<Item = (N, A)>,
    compression: Compression,
) -> Result<()> {
    archive(stream, arrays, compression, &At::stream(SAVE))
}

fn archive<W: Write + Seek, N: AsRef<str>, A: AsRef<Array>>(
    stream: &mut W,
    arrays: impl IntoIterator<Item = (N, A)>,
    compression: Compression,
    at: &At,
) -> Result<()> {
    let failed = |error| match error {
        ZipError::Io(error) => at.refused()(error),
        other => at.unsupported(other.to_string()),
    };
    let method = match compression {
        Compression::Stored => CompressionMethod::Stored,
        Compression::Deflated => CompressionMethod::Deflated,
    };
    let mut archive = ZipWriter::new(stream);
    for (name, array) in arrays {
        let array = array.as_ref();
        // What is larger needs the wider fields of zip64; a header takes less than a MiB.
        let large = array.nbytes() as u64 + (1 << 20) > u64::from(u32::MAX);
        let options = SimpleFileOptions::default().compression_method(method).large_file(large);
        archive.start_file(format!("{}.npy", name.as_ref()), options).map_err(failed)?;
        save_to(&mut archive, array)?;
    }
    archive.finish().map_err(failed)?;
    Ok(())
}
