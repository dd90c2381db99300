//! Typed errors that keep the kind of the C++ exception.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys;

/// A failure of an MLX call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// MLX refused, with its own words.
    #[error("{}", prefixed(op, message))]
    Mlx {
        /// The type of the C++ exception.
        kind: ErrorKind,
        /// The operation that failed.
        op: &'static str,
        /// The text of the exception.
        message: String,
    },
    /// A function given to a transformation failed; this is its own error.
    #[error(transparent)]
    Closure(Box<dyn std::error::Error + Send + Sync>),
    /// An array has another dtype than the one asked for.
    #[error("[{op}] the array is {found}, not {wanted}: convert it with `ops::astype`")]
    Dtype {
        /// The operation that failed.
        op: &'static str,
        /// The dtype of the array.
        found: crate::Dtype,
        /// The dtype asked for.
        wanted: crate::Dtype,
    },
    /// A file, or a stream in its place, that cannot be read or written as what it should be.
    #[error("[{op}] {file}: {message}")]
    File {
        /// The kind of the failure, by which `mlx.core` chooses the exception.
        kind: ErrorKind,
        /// The operation that failed.
        op: &'static str,
        /// The path of the file, or `the stream`.
        file: String,
        /// What is wrong with it.
        message: String,
        /// What the system or the stream said, if it refused; its `kind()` tells a missing file
        /// from a full disk.
        source: Option<std::io::Error>,
    },
    /// An index selects nothing: it is outside of the axis or count that it belongs to. If this
    /// came out of an evaluation, the array can still be read, but holds what index 0 selects.
    #[error("[{op}] index {index} is out of range for a length of {length}")]
    Index {
        /// The operation that failed.
        op: &'static str,
        /// The index; the largest `i64` if it is larger.
        index: i64,
        /// The length of the axis, or the number of what the index counts.
        length: i64,
    },
    /// A kernel of an operation written in Rust failed while it ran.
    #[error("[{op}] {message}")]
    Kernel {
        /// The operation.
        op: String,
        /// What its kernel said.
        message: String,
    },
    /// MLX cannot evaluate in a forked child: its worker threads exist in the parent only.
    #[error(
        "[{0}] MLX cannot run in a forked child process: its threads stayed in the parent. \
         Start the child with the `spawn` method instead."
    )]
    Forked(&'static str),
}

/// The type of a failure, with the Python exception that `mlx.core` raises for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `std::invalid_argument` and its kin: `ValueError`.
    InvalidArgument,
    /// `std::out_of_range`: `IndexError`.
    OutOfRange,
    /// `std::overflow_error`: `OverflowError`.
    Overflow,
    /// `std::bad_alloc`: `MemoryError`.
    OutOfMemory,
    /// Everything else: `RuntimeError`.
    Runtime,
}

/// MLX begins most of its messages with the operation's name itself.
fn prefixed(op: &str, message: &str) -> String {
    if message.starts_with('[') { message.to_string() } else { format!("[{op}] {message}") }
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The kind of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Mlx { kind, .. } | Self::File { kind, .. } => *kind,
            Self::Dtype { .. } => ErrorKind::InvalidArgument,
            Self::Index { .. } => ErrorKind::OutOfRange,
            Self::Closure(_) | Self::Kernel { .. } | Self::Forked(_) => ErrorKind::Runtime,
        }
    }

    /// A failure of a caller's function, to be returned from it and come out unchanged.
    pub fn closure(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Closure(error.into())
    }

    /// A wrong argument, found before MLX saw it.
    pub fn invalid_argument(op: &'static str, message: impl Into<String>) -> Self {
        Self::Mlx { kind: ErrorKind::InvalidArgument, op, message: message.into() }
    }

    /// A call of something that this machine, or this build of MLX, lacks.
    pub(crate) fn missing_backend(op: &'static str, name: &str) -> Self {
        Self::Mlx { kind: ErrorKind::Runtime, op, message: format!("No {name} back-end.") }
    }

    /// A transformation that an operation written in Rust does not support.
    pub fn unsupported_transform(op: &'static str, transform: &str) -> Self {
        Self::Mlx {
            kind: ErrorKind::Runtime,
            op,
            message: format!("{transform} is not implemented for this operation"),
        }
    }

    /// Takes the failure of the last call on this thread.
    #[cold]
    pub(crate) fn last(op: &'static str) -> Self {
        match PARKED.take().map(|parked| *parked) {
            Some(Parked::Panic(payload)) => {
                clear();
                resume_unwind(payload)
            }
            Some(Parked::Error(error)) => {
                clear();
                return error;
            }
            None => {}
        }
        // SAFETY: the message is a valid C string until the next call on this thread, and it is
        // copied before that.
        let (kind, message) = unsafe {
            let kind = sys::graft_error_last_kind();
            let message = CStr::from_ptr(sys::graft_error_last_message());
            (kind, message.to_string_lossy().into_owned())
        };
        clear();
        let kind = match kind {
            sys::GRAFT_ERROR_INVALID_ARGUMENT => ErrorKind::InvalidArgument,
            sys::GRAFT_ERROR_OUT_OF_RANGE => ErrorKind::OutOfRange,
            sys::GRAFT_ERROR_OVERFLOW => ErrorKind::Overflow,
            sys::GRAFT_ERROR_BAD_ALLOC => ErrorKind::OutOfMemory,
            _ => ErrorKind::Runtime,
        };
        if let Some(error) = crate::primitive::kernel_error(&message) {
            return error;
        }
        match crate::io::parked(&message) {
            Some(Parked::Panic(payload)) => resume_unwind(payload),
            Some(Parked::Error(error)) => return error,
            None => {}
        }
        let message =
            if message.is_empty() { "failed without a message".to_string() } else { message };
        Self::Mlx { kind, op, message }
    }
}

/// A failure on its way through C++.
pub(crate) enum Parked {
    /// A function's or a stream's own error.
    Error(Error),
    /// What a panic carried.
    Panic(Box<dyn Any + Send>),
}

thread_local! {
    /// What a Rust function called by MLX failed with, until the outer call returns: mlx-c itself
    /// passes on nothing but "non-zero".
    static PARKED: Cell<Option<Box<Parked>>> = const { Cell::new(None) };
}

/// Whether a thread has ever parked a failure: until then nobody needs to look for one.
static EVER_PARKED: AtomicBool = AtomicBool::new(false);

impl Parked {
    /// What the failure says of itself. C++ waits for it, so a text that panics must not unwind.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Error(error) => catch_unwind(AssertUnwindSafe(|| error.to_string()))
                .unwrap_or_else(|_| "an error whose text panicked".to_string()),
            Self::Panic(payload) => panicked(&**payload),
        }
    }
}

/// Runs a function that C++ called, and parks its error or panic. Returns the C status.
pub(crate) fn guarded(f: impl FnOnce() -> Result<()>) -> i32 {
    let (parked, kind) = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => {
            let kind = error.kind();
            (Parked::Error(error), kind)
        }
        Err(payload) => (Parked::Panic(payload), ErrorKind::Runtime),
    };
    record(kind, &parked.text());
    // The first failure is the cause; later ones follow from it.
    let first = PARKED.take().unwrap_or_else(|| Box::new(parked));
    EVER_PARKED.store(true, Ordering::Relaxed);
    PARKED.set(Some(first));
    1
}

/// Leaves the text of a failure for C++, as the caller to whom it goes may not be this crate.
fn record(kind: ErrorKind, text: &str) {
    let kind = match kind {
        ErrorKind::InvalidArgument => sys::GRAFT_ERROR_INVALID_ARGUMENT,
        ErrorKind::OutOfRange => sys::GRAFT_ERROR_OUT_OF_RANGE,
        ErrorKind::Overflow => sys::GRAFT_ERROR_OVERFLOW,
        ErrorKind::OutOfMemory => sys::GRAFT_ERROR_BAD_ALLOC,
        ErrorKind::Runtime => sys::GRAFT_ERROR_RUNTIME,
    };
    let text = CString::new(text.replace('\0', " ")).expect("the zeros are replaced");
    // SAFETY: the text is copied; touches this thread's slot only.
    unsafe { sys::graft_error_set(kind, text.as_ptr()) };
}

/// What a panic says of itself.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> String {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    let text = owned.or_else(|| payload.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without a message"))
}

/// Forgets a failure that was caught on the C++ side, before a new call starts.
#[inline]
pub(crate) fn clear_parked() {
    // What this thread stored itself it sees.
    if EVER_PARKED.load(Ordering::Relaxed) {
        // While a thread ends, its slot may be gone before other values of the thread are.
        let _ = PARKED.try_with(Cell::take);
    }
}

/// Forgets the failure of the last call on this thread.
pub(crate) fn clear() {
    // SAFETY: takes no argument; touches this thread's slot only.
    unsafe { sys::graft_error_clear() };
}

/// Whether a call on this thread has failed and its error was not taken.
pub(crate) fn is_pending() -> bool {
    // SAFETY: takes no argument; reads this thread's slot only.
    unsafe { sys::graft_error_last_kind() != sys::GRAFT_ERROR_NONE }
}
