//! Writing files so that a reader finds either the old content or the new, whole.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

/// How the names of temporary files begin; [`RANDOM`] letters and digits follow.
const PREFIX: &str = ".graft-";
const RANDOM: usize = 6;

/// Replaces the file at `path` by what `write` puts at the path it is given.
///
/// That path is an empty temporary file in the same folder and with the same extension. After
/// `write` it is synced and renamed to `path`, and the folder is synced, so that a crash leaves
/// the old file or the new one. A link is followed: what it points to is replaced. On Unix the new
/// file has the permissions of the old, and while it is written no others may read it. What a process
/// that was killed has left, the next one removes that replaces a file in the folder.
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
    /// Locked as long as its writer lives, where the system has locks.
    temporary: NamedTempFile,
    target: PathBuf,
    /// Those of the file that is replaced, if there is one.
    permissions: Option<fs::Permissions>,
}

impl Pending {
    /// An empty file beside `path` with the same extension.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let (target, permissions) = target(path)?;
        let folder = folder_of(&target);
        remove_left_behind(folder);
        let suffix =
            target.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).rand_bytes(RANDOM).suffix(suffix.as_deref().unwrap_or_default());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Those of any new file, or those of the old one and what writing needs; of both, the
            // process's mask takes its share away.
            let mode = permissions.as_ref().map_or(0o666, |old| old.mode() | 0o600);
            builder.permissions(fs::Permissions::from_mode(mode));
        }
        loop {
            let temporary = builder.tempfile_in(folder)?;
            // Until it is locked, another process may take it for left behind. Where the system has
            // no locks, none does.
            let taken = lock(temporary.as_file())
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if !taken && temporary.path().exists() {
                return Ok(Self { temporary, target, permissions });
            }
        }
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts the file in the place of the other.
    pub(crate) fn commit(self) -> io::Result<()> {
        // Opened for writing, as syncing a read-only handle is refused on some systems.
        let file = File::options().write(true).open(self.path())?;
        if let Some(permissions) = self.permissions {
            // Where the system refuses, they are as narrow as they were when the file was made.
            let _ = file.set_permissions(permissions);
        }
        file.sync_all()?;
        self.temporary.persist(&self.target).map_err(|error| error.error)?;
        // The rename is done and stands; syncing a folder is refused by some file systems.
        let _ = File::open(folder_of(&self.target)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// Removes the temporary files in `folder` whose writers were killed, once for each folder: later
/// ones are for the next process. Nothing depends on it, so that no failure matters.
fn remove_left_behind(folder: &Path) {
    static SEEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let Ok(folder) = fs::canonicalize(folder) else { return };
    if !SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone()) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !is_temporary(&entry.file_name()) {
            continue;
        }
        // The system takes the lock of a process that ends, however it ends.
        let file = File::options().write(true).open(entry.path());
        if file.is_ok_and(|file| lock(&file).is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Locks a file if nobody else has; elsewhere than on Unix a lock would keep `write` out too.
fn lock(file: &File) -> io::Result<()> {
    if cfg!(unix) {
        file.try_lock().map_err(io::Error::from)
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Whether a name is that of a temporary file.
fn is_temporary(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).map(str::as_bytes);
    random.and_then(|name| name.split_at_checked(RANDOM)).is_some_and(|(random, rest)| {
        random.iter().all(u8::is_ascii_alphanumeric) && matches!(rest.first(), None | Some(b'.'))
    })
}

/// What a path leads to, which must be a file if it is there, and its permissions.
fn target(path: &Path) -> io::Result<(PathBuf, Option<fs::Permissions>)> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        Ok(found) if !found.is_file() => Err(io::Error::other("is no regular file")),
        Ok(found) => Ok((fs::canonicalize(path)?, Some(permissions(&found)))),
        Err(_) => Ok((path.to_path_buf(), None)),
    }
}

/// Who may read, write and run a file, but not as whom it runs: that was said of the old content.
fn permissions(found: &fs::Metadata) -> fs::Permissions {
    let permissions = found.permissions();
    #[cfg(unix)]
    let permissions = {
        use std::os::unix::fs::PermissionsExt;
        fs::Permissions::from_mode(permissions.mode() & 0o777)
    };
    permissions
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::env;
    use std::fs::{self, File};
    use std::io;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{self, Command};

    use super::replace;

    /// Where the process writes that is to be killed.
    const KILLED: &str = "MLX_GRAFT_TEST_KILLED_WRITER";

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let die = |temporary: &Path| -> io::Result<()> {
            fs::write(temporary, "half")?;
            process::exit(9);
        };
        if let Some(path) = env::var_os(KILLED) {
            replace(Path::new(&path), die, |error| error).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let mut killed = Command::new(env::current_exe().unwrap());
        killed.arg("what_a_killed_process_left").env(KILLED, &path);
        assert!(!killed.output().unwrap().status.success());
        let [left] = &names(folder.path())[..] else { panic!("one file is left") };
        assert!(super::is_temporary(left.as_ref()), "{left}");
        replace(&path, |path| fs::write(path, "x"), |error| error).unwrap();
        assert_eq!(names(folder.path()), ["x.npy"]);
    }

    #[test]
    fn permissions_stay() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        fs::write(&path, "old").unwrap();
        let of_new_files = mode(&path);
        for wanted in [0o600, 0o400, 0o640, 0o666, 0o755, 0o4700] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
            let write = |temporary: &Path| {
                assert_eq!(
                    mode(temporary) & !(wanted | 0o600),
                    0,
                    "{wanted:o} while it is written"
                );
                fs::write(temporary, "new")
            };
            replace(&link, write, |error| error).unwrap();
            assert_eq!(mode(&path), wanted & 0o777, "{wanted:o}");
        }
        let other = folder.path().join("y");
        replace(&other, |path| fs::write(path, "new"), |error| error).unwrap();
        assert_eq!(mode(&other), of_new_files);
    }

    #[test]
    fn nothing_else_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let others = [".graft-ab", ".graft-abc12", ".graft-abc-12.npy", ".graft-abc1234", "a.npy"];
        for name in [".graft-abc123.safetensors", ".graft-XYZ789"].iter().chain(&others) {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        let outside = folder.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        std::os::unix::fs::symlink(&outside, folder.path().join(".graft-link12.npy")).unwrap();
        fs::create_dir(folder.path().join(".graft-folder")).unwrap();
        let other = File::create(folder.path().join(".graft-living.npy")).unwrap();
        other.lock().unwrap();
        replace(&folder.path().join("x"), |path| fs::write(path, "x"), |error| error).unwrap();
        let mut wanted = others.to_vec();
        wanted.extend([".graft-folder", ".graft-link12.npy", ".graft-living.npy", "outside", "x"]);
        wanted.sort_unstable();
        assert_eq!(names(folder.path()), wanted);
        assert_eq!(fs::read(&outside).unwrap(), b"kept");
    }

    #[test]
    fn a_file_that_is_being_written_is_not_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let write = |temporary: &Path| -> io::Result<()> {
            // As another process would find it, also after the writer has begun anew.
            fs::write(temporary, "whole")?;
            let found = File::options().write(true).open(temporary)?;
            assert!(matches!(found.try_lock(), Err(fs::TryLockError::WouldBlock)));
            Ok(())
        };
        replace(&path, write, |error| error).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        File::open(&path).unwrap().try_lock().unwrap();
    }
}
