//! The error type of the crate, and what each kind means to a caller.

use std::path::{Path, PathBuf};

/// A failure of loading, training or generating.
///
/// Every message says what is wrong, where, and how to mend it. [`Error::kind`] maps each
/// failure to the Python exception that fits it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A flag, a configuration key or an argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// A file or folder that must exist does not.
    #[error("{}: {message}", path.display())]
    NotFound {
        /// The missing file or folder.
        path: PathBuf,
        /// What was looked for, and how to mend it.
        message: String,
    },
    /// A file was read, and what it holds is wrong.
    #[error("{}{}: {message}", path.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, in files that have lines.
        line: Option<usize>,
        /// What is wrong, and how to mend it.
        message: String,
    },
    /// The operating system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Something that exists upstream and is not built yet.
    #[error("{0}")]
    Unsupported(String),
    /// MLX refused.
    #[error("{0}")]
    Mlx(mlx_graft::Error),
    /// The loss or a gradient became NaN or infinite, so that going on would destroy the weights.
    #[error("{0}")]
    NonFiniteLoss(String),
    /// An earlier failure left something that must not be used any more.
    #[error("{0}")]
    Broken(String),
    /// There is not enough memory for what was asked.
    #[error("{0}")]
    OutOfMemory(String),
    /// The user asked to stop; what was reached is saved.
    #[error("{0}")]
    Interrupted(String),
}

/// The kinds of failure, each with the Python exception it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `ValueError`.
    Value,
    /// `IndexError`.
    Index,
    /// `OverflowError`.
    Overflow,
    /// `FileNotFoundError`.
    FileNotFound,
    /// `OSError`.
    Os,
    /// `MemoryError`.
    Memory,
    /// `NotImplementedError`.
    NotImplemented,
    /// `FloatingPointError`.
    FloatingPoint,
    /// `KeyboardInterrupt`.
    Interrupt,
    /// `RuntimeError`.
    Runtime,
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The kind of failure, for choosing an exception or an exit code.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage(_) | Self::Invalid { .. } => ErrorKind::Value,
            Self::NotFound { .. } => ErrorKind::FileNotFound,
            Self::Io { .. } => ErrorKind::Os,
            Self::Unsupported(_) => ErrorKind::NotImplemented,
            Self::Mlx(e) => match e.kind() {
                mlx_graft::ErrorKind::InvalidArgument => ErrorKind::Value,
                mlx_graft::ErrorKind::OutOfRange => ErrorKind::Index,
                mlx_graft::ErrorKind::Overflow => ErrorKind::Overflow,
                mlx_graft::ErrorKind::OutOfMemory => ErrorKind::Memory,
                _ => ErrorKind::Runtime,
            },
            Self::NonFiniteLoss(_) => ErrorKind::FloatingPoint,
            Self::Broken(_) => ErrorKind::Runtime,
            Self::OutOfMemory(_) => ErrorKind::Memory,
            Self::Interrupted(_) => ErrorKind::Interrupt,
        }
    }

    /// A wrong content of `path`.
    pub fn invalid(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Invalid { path: path.as_ref().to_path_buf(), line: None, message: message.into() }
    }

    /// A missing file or folder.
    pub fn not_found(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::NotFound { path: path.as_ref().to_path_buf(), message: message.into() }
    }

    /// A refusal of the operating system, for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// An error that passed through MLX as a closure's own comes out as itself.
impl From<mlx_graft::Error> for Error {
    fn from(error: mlx_graft::Error) -> Self {
        match error {
            mlx_graft::Error::Closure(inner) => match inner.downcast::<Self>() {
                Ok(own) => *own,
                Err(other) => Self::Mlx(mlx_graft::Error::Closure(other)),
            },
            other => Self::Mlx(other),
        }
    }
}

impl From<Error> for mlx_graft::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Mlx(inner) => inner,
            other => Self::closure(other),
        }
    }
}
