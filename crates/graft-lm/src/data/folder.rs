//! The folder of a training's data.

use std::path::Path;

use super::rows::{Dataset, DatasetOptions};
use crate::args::{DEFAULT_DATA, TrainArgs};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The datasets that a training or a test needs.
#[derive(Debug)]
pub struct Datasets {
    /// `train.jsonl`, when training.
    pub train: Option<Dataset>,
    /// `valid.jsonl`, when training and if it has rows.
    pub valid: Option<Dataset>,
    /// `test.jsonl`, when testing.
    pub test: Option<Dataset>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Loads the files in `args.data` that `args` needs.
///
/// Source: `load_dataset` of mlx-lm's `tuner/datasets.py`.
///
/// # Errors
/// [`Error::NotFound`] without a file that is needed; those of [`check_folder`] and of
/// [`Dataset::load`].
pub fn load_datasets(args: &TrainArgs, tokenizer: &Tokenizer) -> Result<Datasets> {
    check_folder(&args.data)?;
    let folder = Path::new(&args.data);
    let options = DatasetOptions::from(args);
    let load = |name: &str| Dataset::load(&folder.join(name), tokenizer, &options);
    let mut datasets = Datasets { train: None, valid: None, test: None, warnings: Vec::new() };
    if args.train {
        datasets.train = Some(load("train.jsonl")?);
        let path = folder.join("valid.jsonl");
        if path.metadata().is_ok_and(|file| file.len() > 0) {
            datasets.valid = Some(load("valid.jsonl")?);
        } else {
            datasets.warnings.push(format!(
                "{}: not found or empty; training proceeds without validation.",
                path.display()
            ));
        }
    }
    if args.test {
        datasets.test = Some(load("test.jsonl")?);
    }
    Ok(datasets)
}

/// Fails if `data` is no folder, which can be told before a model is loaded.
///
/// # Errors
/// [`Error::NotFound`] without the folder; [`Error::Unsupported`] if `data` looks like the name of a
/// dataset on the Hugging Face hub, as the default is.
pub fn check_folder(data: &str) -> Result<()> {
    if Path::new(data).is_dir() {
        return Ok(());
    }
    let files = "a folder with train.jsonl, valid.jsonl and test.jsonl";
    let no_hub = "datasets of the Hugging Face hub are not loaded here";
    let hub_name = !data.starts_with(['.', '/', '~']) && data.matches('/').count() == 1;
    Err(if data == DEFAULT_DATA {
        Error::Unsupported(format!(
            "no data: give --data FOLDER (or `data: FOLDER` in the YAML file), {files}; {data}, \
             mlx-lm's default, is on the hub, and {no_hub}"
        ))
    } else if hub_name {
        Error::Unsupported(format!("{data}: no such folder, and {no_hub}; --data takes {files}"))
    } else {
        Error::not_found(data, format!("no such folder; --data takes {files}"))
    })
}
