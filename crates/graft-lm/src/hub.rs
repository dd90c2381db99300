//! Names of models: folders, and repositories in the cache of `huggingface_hub`.
//!
//! Nothing is downloaded here; the Python package does that, through `huggingface_hub` itself.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result, models};

/// The folder of the model `name`: an existing folder, or the snapshot of the repository
/// `ORG/NAME` in the local cache.
///
/// # Errors
/// [`Error::NotFound`]: for what looks like a path (`./x`, absolute, or more than one `/`), that
/// there is no such folder; for a repository, or files that a download has not brought yet, how to
/// get it.
pub fn resolve_model(name: &str) -> Result<PathBuf> {
    let folder = Path::new(name);
    if folder.is_dir() {
        return Ok(folder.to_path_buf());
    }
    if folder.is_file() {
        return Err(Error::not_found(
            folder,
            "this is a file; a model is the folder of its config.json, weights and tokenizer",
        ));
    }
    if !is_repository(name) {
        return Err(Error::not_found(
            folder,
            "no such folder; a model is a folder with config.json, *.safetensors and \
             tokenizer.json, or the name ORG/NAME of a Hugging Face repository",
        ));
    }
    let cache = Cache::from_env(&|key| env::var(key).ok());
    let snapshot = cache.snapshot(name).ok_or_else(|| cache.missing(name))?;
    match missing_file(&snapshot) {
        None => Ok(snapshot),
        Some(file) => Err(cache.incomplete(name, &file)),
    }
}

fn is_repository(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-', '~'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match name.split_once('/') {
        Some((owner, repository)) => part(owner) && part(repository),
        None => part(name),
    }
}

/// A file that a model needs and that a snapshot lacks: what a download that was stopped leaves is a
/// folder with some files.
fn missing_file(snapshot: &Path) -> Option<PathBuf> {
    let needed = ["config.json", "tokenizer.json"].map(|name| snapshot.join(name));
    if let Some(file) = needed.into_iter().find(|file| !file.is_file()) {
        return Some(file);
    }
    match models::files(snapshot) {
        // Without the index, a shard itself tells how many there are.
        Ok(files) => files.iter().find_map(|file| missing_sibling(file)),
        Err(Error::NotFound { path, .. }) if path != *snapshot => Some(path),
        Err(_) => Some(snapshot.join("model.safetensors")),
    }
}

/// A file that is not beside `file`, if that is a shard such as `model-00001-of-00003.safetensors`.
fn missing_sibling(file: &Path) -> Option<PathBuf> {
    let stem = file.file_name()?.to_str()?.strip_suffix(".safetensors")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let (width, shards) = (number.len(), count.parse::<usize>().ok()?);
    let siblings = 1..=shards.min(100_000);
    siblings
        .map(|i| file.with_file_name(format!("{name}-{i:0width$}-of-{count}.safetensors")))
        .find(|sibling| !sibling.is_file())
}

/// The cache of `huggingface_hub`: its folder, and whether the environment forbids the network.
struct Cache {
    folder: PathBuf,
    offline: bool,
}

impl Cache {
    /// The precedence is that of `huggingface_hub/constants.py`.
    fn from_env(var: &dyn Fn(&str) -> Option<String>) -> Self {
        let home = var("HOME").or_else(|| var("USERPROFILE")).unwrap_or_default();
        let expand = |path: String| match path.strip_prefix("~/") {
            Some(rest) => Path::new(&home).join(rest),
            None => PathBuf::from(path),
        };
        let hub_home = || {
            let caches = || Path::new(&home).join(".cache");
            let default = || var("XDG_CACHE_HOME").map_or_else(caches, expand).join("huggingface");
            var("HF_HOME").map_or_else(default, expand)
        };
        let folder = var("HF_HUB_CACHE")
            .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
            .map_or_else(|| hub_home().join("hub"), expand);
        let truthy =
            |value: String| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        let offline = var("HF_HUB_OFFLINE").or_else(|| var("TRANSFORMERS_OFFLINE"));
        Self { folder, offline: offline.is_some_and(truthy) }
    }

    fn snapshot(&self, name: &str) -> Option<PathBuf> {
        let repository = self.folder.join(format!("models--{}", name.replace('/', "--")));
        let commit = fs::read_to_string(repository.join("refs").join("main")).ok()?;
        let snapshot = repository.join("snapshots").join(commit.trim());
        snapshot.is_dir().then_some(snapshot)
    }

    fn incomplete(&self, name: &str, file: &Path) -> Error {
        let cause = if self.offline {
            "not in the cache of Hugging Face, which has other files of this model, and \
             HF_HUB_OFFLINE forbids the network; go online once and get it with"
        } else {
            "not in the cache of Hugging Face, which has other files of this model; get it with"
        };
        Error::not_found(file, format!("{cause} `hf download {name}`"))
    }

    fn missing(&self, name: &str) -> Error {
        let cause = if self.offline {
            "neither a folder nor in the local cache of Hugging Face, and HF_HUB_OFFLINE forbids \
             the network; go online once and get it with"
        } else {
            "neither a folder nor in the local cache of Hugging Face; get it with"
        };
        Error::not_found(
            name,
            format!("{cause} `hf download {name}` (the cache is {})", self.folder.display()),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Cache, missing_file, resolve_model};

    fn cache(pairs: &[(&str, &str)]) -> Cache {
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Cache::from_env(&|key| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()))
    }

    #[test]
    fn the_folder_follows_huggingface_hub() {
        let folder = |pairs| cache(pairs).folder;
        assert_eq!(folder(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(
            folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
            Path::new("/x/huggingface/hub")
        );
        assert_eq!(folder(&[("HOME", "/h"), ("HF_HOME", "~/f")]), Path::new("/h/f/hub"));
        assert_eq!(folder(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/f")]), Path::new("/c"));
    }

    #[test]
    fn finds_the_snapshot_of_main() {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("models--org--name");
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::create_dir_all(repository.join("snapshots/abc")).unwrap();
        let cache = Cache { folder: root.path().to_path_buf(), offline: false };
        assert_eq!(cache.snapshot("org/name"), None, "a repository without a reference");
        fs::write(repository.join("refs/main"), "abc").unwrap();
        assert_eq!(cache.snapshot("org/name"), Some(repository.join("snapshots/abc")));
        assert_eq!(cache.snapshot("org/other"), None);
    }

    #[test]
    fn a_snapshot_is_complete_with_all_that_a_model_needs() {
        let root = tempfile::tempdir().unwrap();
        let missing = || {
            let file = missing_file(root.path())?;
            Some(file.file_name().unwrap().to_str().unwrap().to_owned())
        };
        let put = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        assert_eq!(missing().unwrap(), "config.json");
        put("config.json", "{}");
        assert_eq!(missing().unwrap(), "tokenizer.json");
        put("tokenizer.json", "{}");
        assert_eq!(missing().unwrap(), "model.safetensors");
        put("model-00002-of-00003.safetensors", "");
        assert_eq!(missing().unwrap(), "model-00001-of-00003.safetensors");
        put("model-00001-of-00003.safetensors", "");
        let index = r#"{"weight_map": {"a": "model-00003-of-00003.safetensors"}}"#;
        put("model.safetensors.index.json", index);
        assert_eq!(missing().unwrap(), "model-00003-of-00003.safetensors");
        put("model-00003-of-00003.safetensors", "");
        assert_eq!(missing(), None);
    }

    #[test]
    fn a_missing_repository_says_how_to_get_it() {
        let message = cache(&[("HF_HUB_CACHE", "/c")]).missing("org/name").to_string();
        assert_eq!(
            message,
            "org/name: neither a folder nor in the local cache of Hugging Face; get it with \
             `hf download org/name` (the cache is /c)"
        );
        let offline = cache(&[("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "1")]);
        assert!(offline.missing("org/name").to_string().contains("HF_HUB_OFFLINE"));
    }

    #[test]
    fn what_looks_like_a_path_is_a_missing_folder() {
        for name in ["./x", "/no/such", "a/b/c", "../x", "~/x", ""] {
            let message = resolve_model(name).unwrap_err().to_string();
            assert!(message.contains("no such folder"), "{message}");
        }
    }
}
