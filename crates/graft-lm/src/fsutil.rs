//! Writing files so that a reader finds either the old content or the new, whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Replaces the file at `path` by what `write` puts at the path it is given.
///
/// That path is an empty temporary file in the same folder and with the same extension. After
/// `write` it is synced and renamed to `path`, and the folder is synced, so that a crash leaves
/// the old file or the new one.
///
/// # Errors
/// Those of `write`, and [`Error::Io`] naming `path` when the system refuses (no room, no
/// permission). Then the temporary file is gone and the old file is as it was.
pub fn write_atomic(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = folder_of(path);
    let suffix = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".graft-").suffix(suffix.as_deref().unwrap_or_default());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As for any new file: the process's mask takes its share away.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.tempfile_in(&folder).map_err(Error::io(path))?.into_temp_path();
    write(&temporary)?;
    sync(&temporary).map_err(Error::io(path))?;
    temporary.persist(path).map_err(|refusal| Error::io(path)(refusal.error))?;
    // The rename is done and stands; syncing a folder is refused by some file systems.
    let _ = File::open(&folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Replaces the file at `path` by `bytes`; see [`write_atomic`].
///
/// # Errors
/// As [`write_atomic`].
pub fn write_bytes_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |temporary| {
        let mut file = File::create(temporary).map_err(Error::io(path))?;
        file.write_all(bytes).map_err(Error::io(path))
    })
}

fn sync(path: &Path) -> std::io::Result<()> {
    // Opened for writing, as syncing a read-only handle is refused on some systems.
    File::options().write(true).open(path)?.sync_all()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
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
