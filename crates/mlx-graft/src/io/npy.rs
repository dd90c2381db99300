//! The npy format of `NumPy`: one array in a file.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::ptr::null_mut;

use super::header::Header;
use super::section::Section;
use super::stream::{Reader, with_writer};
use super::{At, on_cpu, replace, with_ending};
use crate::{Array, Dtype, ErrorKind, Result, call, ops, sys};

const LOAD: &str = "load";
const SAVE: &str = "save";

/// Loads an npy file, as `mx.load` does.
///
/// All versions of the format and every dtype of MLX, of either byte order and in row-major or
/// column-major order; two opaque bytes are a bfloat16, as `mx.save` writes it.
///
/// # Errors
/// [`Error::File`](crate::Error::File) if the file is missing, no npy file, of a dtype that MLX has
/// not ([`ErrorKind::InvalidArgument`]), or announces an array larger than the whole file. One that
/// is shorter than its array by less fails when the array is evaluated, as in MLX.
///
/// ```
/// use mlx_graft::{Array, io};
///
/// let path = std::env::temp_dir().join("mlx-graft-doc-load.npy");
/// io::save(&path, &Array::from_slice(&[1.0_f32, 2.0], &[2])?)?;
/// assert_eq!(io::load(&path)?.to_vec::<f32>()?, [1.0, 2.0]);
/// # let _ = std::fs::remove_file(path);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn load(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    let at = At::path(LOAD, path);
    let (mut file, length) = at.open(path, ErrorKind::Runtime)?;
    let header = Header::read(&mut file, length, &at)?;
    if !header.plain || header.end() > length {
        return lazy(Section::new(header.for_mlx(), file, header.data), &header, &at);
    }
    let name = at.c_path(path)?;
    load_path(&name)
}

/// Loads an array in npy format from a stream, from its current position on.
///
/// # Errors
/// As for [`load`], or the stream's own.
///
/// ```
/// use std::io::Cursor;
/// use mlx_graft::{Array, io};
///
/// let mut bytes = Vec::new();
/// io::save_to(&mut bytes, &Array::from_slice(&[1_u8, 2], &[2])?)?;
/// assert_eq!(io::load_from(Cursor::new(bytes))?.to_vec::<u8>()?, [1, 2]);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn load_from<R: Read + Seek + Send + 'static>(mut stream: R) -> Result<Array> {
    let at = At::stream(LOAD);
    let (start, length) = extent(&mut stream).map_err(at.refused())?;
    let header = Header::read(&mut stream, length, &at)?;
    lazy(Section::new(header.for_mlx(), stream, start + header.data), &header, &at)
}

/// The position of a stream, and how much follows.
pub(super) fn extent(stream: &mut impl Seek) -> std::io::Result<(u64, u64)> {
    let start = stream.stream_position()?;
    let end = stream.seek(SeekFrom::End(0))?;
    stream.seek(SeekFrom::Start(start))?;
    Ok((start, end.saturating_sub(start)))
}

fn load_path(name: &CStr) -> Result<Array> {
    let mut res = sys::mlx_array { ctx: null_mut() };
    let done = on_cpu(LOAD, |s| {
        call::status(LOAD, || {
            // SAFETY: `res` is a null handle to fill, `name` a C string, the stream is live.
            unsafe { sys::mlx_load(&raw mut res, name.as_ptr(), s) }
        })
    });
    // SAFETY: `res` is null or a handle that mlx-c made for us.
    let array = unsafe { Array::from_raw(res) };
    done.map(|()| array)
}

/// An array that is read from a stream, which begins with a header that MLX understands.
pub(super) fn lazy<R>(stream: R, header: &Header, at: &At) -> Result<Array>
where
    R: Read + Seek + Send + 'static,
{
    let reader = Reader::new(at, stream);
    let mut res = sys::mlx_array { ctx: null_mut() };
    let done = reader.run(|raw| {
        on_cpu(at.op, |s| {
            call::status(at.op, || {
                // SAFETY: `res` is a null handle to fill, the reader and the stream are live.
                unsafe { sys::mlx_load_reader(&raw mut res, raw, s) }
            })
        })
    });
    // SAFETY: `res` is null or a handle that mlx-c made for us.
    let array = unsafe { Array::from_raw(res) };
    done?;
    if !header.swapped_complex() {
        return Ok(array);
    }
    // MLX would swap the parts of a complex number too, so it was loaded as pairs of floats.
    let numbers = ops::view(&array, Dtype::Complex64)?;
    if !header.fortran {
        return ops::reshape(&numbers, &header.shape);
    }
    let reversed: Vec<i32> = header.shape.iter().rev().copied().collect();
    ops::transpose(&ops::reshape(&numbers, &reversed)?)
}

/// Saves an array to an npy file, as `mx.save` does; `.npy` is added to another ending.
///
/// # Errors
/// What the evaluation of the array reports, or [`Error::File`](crate::Error::File) if the system
/// refuses. An old file is then as it was.
pub fn save(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    let path = with_ending(path.as_ref(), ".npy");
    let at = At::path(SAVE, &path);
    let write = |temporary: &Path| {
        let name = at.c_path(temporary)?;
        call::evaluation(SAVE, || {
            // SAFETY: `name` is a C string, and the array is live.
            unsafe { sys::mlx_save(name.as_ptr(), array.as_raw()) }
        })
    };
    replace(&path, write, at.refused())
}

/// Writes an array in npy format to a stream.
///
/// # Errors
/// What the evaluation of the array reports, or the stream's own.
pub fn save_to<W: Write>(stream: &mut W, array: &Array) -> Result<()> {
    with_writer(&At::stream(SAVE), stream, |raw| {
        call::evaluation(SAVE, || {
            // SAFETY: the writer and the array are live.
            unsafe { sys::mlx_save_writer(raw, array.as_raw()) }
        })
    })
}
