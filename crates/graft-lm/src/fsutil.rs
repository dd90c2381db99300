//! Writing files so that a reader finds either the old content or the new, whole.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::{Error, Result};

/// Replaces the file at `path` by what `write` puts at the path it is given; see
/// [`mlx_graft::io::replace`].
///
/// # Errors
/// Those of `write`, and [`Error::Io`] naming `path` when the system refuses.
pub fn write_atomic(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    mlx_graft::io::replace(path, write, |source| Error::io(path)(source))
}

/// Replaces the file at `path` by `bytes`; see [`write_atomic`].
///
/// # Errors
/// As [`write_atomic`].
pub fn write_bytes_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |temporary| fs::write(temporary, bytes).map_err(Error::io(path)))
}

/// Waits until a file that was written is on the disk.
///
/// # Errors
/// What the system reports, such as that there is no room.
pub fn sync(path: &Path) -> io::Result<()> {
    // Opened for writing, as syncing a read-only handle is refused on some systems.
    File::options().write(true).open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{write_atomic, write_bytes_atomic};
    use crate::Error;

    fn names(folder: &std::path::Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn replaces_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write_bytes_atomic(&path, b"old").unwrap();
        write_atomic(&path, |temporary| {
            assert_eq!(temporary.extension(), path.extension());
            assert_eq!(temporary.parent(), path.parent());
            assert_eq!(fs::read(&path).unwrap(), b"old");
            fs::write(temporary, b"new").map_err(Error::io(temporary))
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.safetensors"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_bytes_atomic(&path, b"old").unwrap();
        let error = write_atomic(&path, |temporary| {
            fs::write(temporary, b"half").unwrap();
            Err(Error::Interrupted("stop".to_owned()))
        });
        assert_eq!(error.unwrap_err().to_string(), "stop");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no").join("a.json");
        let message = write_bytes_atomic(&path, b"x").unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_readable_by_others_as_the_mask_allows() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        fs::write(&plain, b"x").unwrap();
        let path = folder.path().join("atomic");
        write_bytes_atomic(&path, b"x").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }
}
