//! Writing files so that a reader finds either the old content or the new, whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

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
    let path = target(path).map_err(&refused)?;
    let folder = folder_of(&path);
    let suffix = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".graft-").suffix(suffix.as_deref().unwrap_or_default());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As for any new file: the process's mask takes its share away.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.tempfile_in(&folder).map_err(&refused)?.into_temp_path();
    write(&temporary)?;
    sync(&temporary).map_err(&refused)?;
    temporary.persist(&path).map_err(|error| refused(error.error))?;
    // The rename is done and stands; syncing a folder is refused by some file systems.
    let _ = File::open(&folder).and_then(|folder| folder.sync_all());
    Ok(())
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

fn sync(path: &Path) -> io::Result<()> {
    // Opened for writing, as syncing a read-only handle is refused on some systems.
    File::options().write(true).open(path)?.sync_all()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
