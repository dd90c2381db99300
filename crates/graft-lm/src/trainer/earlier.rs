//! What an earlier training has left in the folder in which a new one begins.
//!
//! The new one puts the state of the earlier one aside, as `--resume` would go on from it in the
//! place of the new one. With its first planned save that is whole it takes the earlier one's
//! place. Before, nothing of the earlier one is lost: a new training that ends without having saved
//! anything gives the state its name back, and the first save puts the earlier weights aside.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::state::STATE_FILE;
use crate::adapter_config::ADAPTER_CONFIG;
use crate::adapters::ADAPTER_FILE;
use crate::{Error, Result};

/// The name of the state of an earlier training, as long as a new one in its folder has no planned
/// save.
pub const EARLIER_FILE: &str = "earlier_training_state.safetensors";

/// The weights and the state of a training, with the names under which they are put aside.
const WEIGHTS: [(&str, &str); 2] = [
    (ADAPTER_CONFIG, "earlier_adapter_config.json"),
    (ADAPTER_FILE, "earlier_adapters.safetensors"),
];
const STATE: (&str, &str) = (STATE_FILE, EARLIER_FILE);

/// Whether `folder` has the state of a training that was put aside.
pub(super) fn is_in(folder: &Path) -> bool {
    folder.join(EARLIER_FILE).exists()
}

/// Renames the state that an earlier training left in `folder`, if there is one.
///
/// # Errors
/// [`Error::Usage`] if there is one that was put aside already, which would be lost; [`Error::Io`]
/// when the system refuses.
pub(super) fn put_aside(folder: &Path) -> Result<()> {
    let file = folder.join(STATE_FILE);
    if file.exists() && is_in(folder) {
        return Err(Error::Usage(format!(
            "{}: found beside {EARLIER_FILE}, which is of the training before; a third one would \
             write over one of them. Go on with the last one with --resume, give another folder \
             with --adapter-path, or remove the file that is not needed",
            file.display()
        )));
    }
    let (name, aside) = STATE;
    rename(folder, name, aside).map(drop)
}

/// Puts the weights of an earlier training and their configuration aside as well.
///
/// # Errors
/// [`Error::Io`] when the system refuses.
pub(super) fn put_weights_aside(folder: &Path) -> Result<()> {
    for (name, aside) in WEIGHTS {
        rename(folder, name, aside)?;
    }
    Ok(())
}

/// Gives what was put aside its names back; whether there was a state.
///
/// # Errors
/// [`Error::Io`] when the system refuses.
pub(super) fn bring_back(folder: &Path) -> Result<bool> {
    let [(config, config_aside), (weights, weights_aside)] = WEIGHTS;
    let is_there = |name: &str| folder.join(name).exists();
    if is_there(config_aside) && is_there(weights_aside) && !is_there(weights) {
        // Left of a save that was killed, and not the configuration of these weights.
        let config = folder.join(config);
        done(fs::remove_file(&config), &config)?;
    }
    for (name, aside) in WEIGHTS {
        rename(folder, aside, name)?;
    }
    let (name, aside) = STATE;
    rename(folder, aside, name)
}

/// Removes what was put aside.
///
/// # Errors
/// [`Error::Io`] when the system refuses.
pub(super) fn remove(folder: &Path) -> Result<()> {
    for (_, aside) in WEIGHTS.into_iter().chain([STATE]) {
        let file = folder.join(aside);
        done(fs::remove_file(&file), &file)?;
    }
    Ok(())
}

/// Renames a file that is there, unless another has the new name; whether it did.
fn rename(folder: &Path, from: &str, to: &str) -> Result<bool> {
    let (from, to) = (folder.join(from), folder.join(to));
    if to.exists() {
        return Ok(false);
    }
    done(fs::rename(&from, to), &from)
}

/// Whether something was done to `file`; if it is not there, that is no failure.
fn done(result: std::io::Result<()>, file: &Path) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(file)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a folder, in their order, and the content of each.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn write(folder: &Path, text: &str) {
        for name in [ADAPTER_CONFIG, ADAPTER_FILE, STATE_FILE] {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn what_was_put_aside_comes_back_or_goes() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        put_aside(folder).unwrap();
        assert!(!is_in(folder) && !bring_back(folder).unwrap());
        remove(folder).unwrap();
        write(folder, "first");
        let before = files(folder);
        put_aside(folder).unwrap();
        assert!(is_in(folder) && !folder.join(STATE_FILE).exists());
        put_weights_aside(folder).unwrap();
        assert!(files(folder).iter().all(|(name, _)| name.starts_with("earlier_")));
        assert!(bring_back(folder).unwrap());
        assert_eq!(files(folder), before);

        put_aside(folder).unwrap();
        put_weights_aside(folder).unwrap();
        // As when a run was killed before its weights were there.
        fs::write(folder.join(ADAPTER_CONFIG), "second").unwrap();
        assert!(bring_back(folder).unwrap());
        assert_eq!(files(folder), before);

        put_aside(folder).unwrap();
        put_weights_aside(folder).unwrap();
        write(folder, "second");
        // As when a run was killed between its weights and its state, and another saves.
        put_weights_aside(folder).unwrap();
        let first =
            |(name, text): &(String, String)| name.starts_with("earlier_") == (text == "first");
        assert!(files(folder).iter().all(first), "{:?}", files(folder));
        assert_eq!(files(folder).len(), 6);
        remove(folder).unwrap();
        assert_eq!(files(folder).len(), 3);
        assert!(files(folder).iter().all(|(_, text)| text == "second"));
    }

    #[test]
    fn a_third_training_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        write(folder, "first");
        put_aside(folder).unwrap();
        write(folder, "second");
        let before = files(folder);
        let message = put_aside(folder).unwrap_err().to_string();
        let wanted = format!("{}: found beside {EARLIER_FILE}", folder.join(STATE_FILE).display());
        assert!(message.starts_with(&wanted), "{message}");
        assert_eq!(files(folder), before);
    }
}
