//! Reading and writing arrays: npy, npz, safetensors and gguf files, and streams in their place.
//!
//! Loading is lazy: a header is read and checked at once, the elements when an array is evaluated.
//! What a file says of itself is checked before MLX sees it, so that a file that is cut short or
//! made to harm gives [`Error::File`], which names the file and what is wrong with it.
//!
//! Saving to a path evaluates the arrays, writes a temporary file beside the target, and renames
//! it: whoever reads the path finds the old content or the new, whole. So an array may be saved
//! over the very file that it is loaded from.
//!
//! # Streams
//! Functions that end in `_from` read any `Read + Seek`. The arrays share it and keep it until
//! they are evaluated. MLX reads on threads of its own, and several arrays may be evaluated at
//! once; so the stream is `'static` and `Send`, for it is used and dropped on those threads, but
//! it need not be `Sync`, as a lock lets one thread in at a time. Functions that end in `_to` write
//! to any `Write`. MLX writes on the calling thread, before the call returns, so such a writer may
//! be borrowed, and need not be `Send`.
//!
//! An error or a panic of a stream comes out of the call or of the evaluation that met it as
//! itself.
//!
//! # Errors of the system
//! What the system says is the source of the error:
//!
//! ```
//! use mlx_graft::{Error, io};
//!
//! let Err(Error::File { source: Some(refusal), .. }) = io::load("no such file.npy") else {
//!     panic!("it is there")
//! };
//! assert_eq!(refusal.kind(), std::io::ErrorKind::NotFound);
//! ```

mod gguf;
mod header;
mod npy;
mod npz;
mod replace;
mod safetensors;
mod section;
mod stream;

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Device, Error, ErrorKind, Result, Stream, stream as streams, sys, with_stream};

pub use gguf::{Gguf, GgufValue, load_gguf, save_gguf};
pub use npy::{load, load_from, save, save_to};
pub use npz::{Compression, load_npz, load_npz_from, save_npz, save_npz_to};
pub(crate) use replace::Pending;
pub use replace::replace;
pub use safetensors::{
    Safetensors, load_safetensors, load_safetensors_from, save_safetensors, save_safetensors_to,
};
pub(crate) use stream::parked;

/// How errors call a stream, which has no path.
const STREAM: &str = "the stream";

/// Where a failure belongs: the operation and the name of the file.
#[derive(Clone)]
pub(crate) struct At {
    op: &'static str,
    file: String,
}

impl At {
    pub(crate) fn path(op: &'static str, path: &Path) -> Self {
        Self { op, file: path.display().to_string() }
    }

    fn stream(op: &'static str) -> Self {
        Self { op, file: STREAM.to_string() }
    }

    /// The content of the file is not what it should be.
    pub(crate) fn broken(&self, message: impl Into<String>) -> Error {
        self.error(ErrorKind::Runtime, message)
    }

    /// The content of the file, or what is to be written, is of a kind that MLX has not.
    fn unsupported(&self, message: impl Into<String>) -> Error {
        self.error(ErrorKind::InvalidArgument, message)
    }

    /// The system, or a stream, refused.
    pub(crate) fn refused(&self) -> impl Fn(std::io::Error) -> Error {
        let at = self.clone();
        move |error| match error.downcast::<Error>() {
            Ok(own) => own,
            Err(error) => at.of_system(ErrorKind::Runtime, error),
        }
    }

    pub(crate) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        let (file, message) = (self.file.clone(), message.into());
        Error::File { kind, op: self.op, file, message, source: None }
    }

    fn of_system(&self, kind: ErrorKind, source: std::io::Error) -> Error {
        let (file, message) = (self.file.clone(), source.to_string());
        Error::File { kind, op: self.op, file, message, source: Some(source) }
    }

    /// Opens a regular file; `missing` is the kind of the error if there is none.
    pub(crate) fn open(&self, path: &Path, missing: ErrorKind) -> Result<(File, u64)> {
        // Before opening: that would wait for a writer if this is a pipe.
        let found = fs::metadata(path).map_err(|error| self.of_system(missing, error))?;
        if !found.is_file() {
            let what = if found.is_dir() { "a folder" } else { "no regular file" };
            return Err(self.error(missing, format!("is {what}")));
        }
        let file = File::open(path).map_err(self.refused())?;
        Ok((file, found.len()))
    }

    /// The path as C functions take it.
    pub(crate) fn c_path(&self, path: &Path) -> Result<CString> {
        #[cfg(unix)]
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec();
        #[cfg(not(unix))]
        let bytes = path
            .to_str()
            .ok_or_else(|| self.unsupported("the path is not UTF-8"))?
            .as_bytes()
            .to_vec();
        CString::new(bytes).map_err(|_| self.unsupported("the path contains a zero byte"))
    }

    /// A name or a text as C functions take it.
    pub(crate) fn c_text(&self, text: &str) -> Result<CString> {
        CString::new(text).map_err(|_| {
            self.unsupported(format!(
                "{text:?} contains a zero byte, where MLX's C API ends a text"
            ))
        })
    }
}

/// The path with the ending of its format, which is added where it is missing, as MLX does.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.ends_with(ending.as_bytes()) {
        return path.to_path_buf();
    }
    let mut name = path.as_os_str().to_os_string();
    name.push(ending);
    name.into()
}

/// Runs `f` on the stream in scope, or on the default stream of the CPU if that one is a GPU's:
/// only the CPU reads files.
fn on_cpu<R>(op: &'static str, f: impl FnOnce(sys::mlx_stream) -> Result<R>) -> Result<R> {
    if streams::current_device()? == Device::cpu() {
        return streams::with_current(op, f);
    }
    with_stream(&Stream::default_of(Device::cpu())?, || streams::with_current(op, f))?
}
