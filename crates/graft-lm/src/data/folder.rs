//! The folder of a training's data.

use std::path::Path;

use super::rows::{Dataset, DatasetOptions};
use crate::args::TrainArgs;
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
/// [`Error::NotFound`] without the folder or a file that is needed; [`Error::Unsupported`] if
/// `args.data` looks like the name of a dataset on the Hugging Face hub; and those of
/// [`Dataset::load`].
pub fn load_datasets(args: &TrainArgs, tokenizer: &Tokenizer) -> Result<Datasets> {
    let folder = Path::new(&args.data);
    if !folder.is_dir() {
        return Err(no_folder(&args.data));
    }
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

fn no_folder(data: &str) -> Error {
    let wanted = "--data takes a folder with train.jsonl, valid.jsonl and test.jsonl";
    let hub_name = !data.starts_with(['.', '/', '~']) && data.matches('/').count() == 1;
    if hub_name {
        Error::Unsupported(format!(
            "{data}: no such folder, and datasets of the Hugging Face hub are not loaded here; \
             {wanted}"
        ))
    } else {
        Error::not_found(data, format!("no such folder; {wanted}"))
    }
}
