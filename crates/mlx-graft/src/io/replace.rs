//! Writing files so that a reader finds either the old content or the new, whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

/// Replaces the file at `path` by what `write` puts at the path it is given.
///
/// That path is an empty temporary file in the same folder and with the same extension. After
/// `write` it is synced and renamed to `path`, and the folder is synced, so that a crash leaves
/// the old file or the new one. A link is followed: what it points to is replaced.
///
/// # Errors
/// Those of `write`, and what `refused` makes of the system's (no room, no permission, `path` is a
/// folder). Then the temporary file is gone and the old file is as it was.
///
/// ```
/// use mlx_graft::io::replace;
///
/// let path = std::env::temp_dir().join("mlx-graft-doc-replace.txt");
/// replace(&path, |temporary| std::fs::write(temporary, "whole"), |error| error)?;
/// assert_eq!(std::fs::read(&path)?, b"whole");
/// # std::fs::remove_file(path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn replace<E>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
    refused: impl Fn(io::Error) -> E,
) -> Result<(), E> {
    let pending = Pending::new(path).map_err(&refused)?;
    write(pending.path())?;
    pending.commit().map_err(&refused)
}

/// A temporary file that becomes another when it is whole, and is removed when dropped before.
pub(crate) struct Pending {
    temporary: TempPath,
    target: PathBuf,
}

impl Pending {
    /// An empty file beside `path` with the same extension.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let target = target(path)?;
        let suffix =
            target.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".graft-").suffix(suffix.as_deref().unwrap_or_default());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As for any new file: the process's mask takes its share away.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(folder_of(&target))?.into_temp_path();
        Ok(Self { temporary, target })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the file in the place of the other.
    pub(crate) fn commit(self) -> io::Result<()> {
        // Opened for writing, as syncing a read-only handle is refused on some systems.
        File::options().write(true).open(&self.temporary)?.sync_all()?;
        self.temporary.persist(&self.target).map_err(|error| error.error)?;
        // The rename is done and stands; syncing a folder is refused by some file systems.
        let _ = File::open(folder_of(&self.target)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// What a path leads to, which must be a file if it is there.
fn target(path: &Path) -> io::Result<PathBuf> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        Ok(found) if !found.is_file() => Err(io::Error::other("is no regular file")),
        Ok(_) => fs::canonicalize(path),
        Err(_) => Ok(path.to_path_buf()),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
