//! Profiling from a command line.

use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use mlx_graft::profile::Timing;
use mlx_graft::{Array, Dtype, ops, random};

use super::Resolve;
use super::train::{check_tokens, prepare_for_training};
use crate::args::ProfileArgs;
use crate::data::{self, BatchRng, load_datasets};
use crate::fsutil::write_bytes_atomic;
use crate::models::Model;
use crate::profile::{Batch, Options, on_processor, profile};
use crate::progress::Reporter;
use crate::tokenizer::Tokenizer;
use crate::trainer::{Trainer, arrays, training_batches};
use crate::{Error, Result};

/// Profiles a step as the flags say, and writes the tables to `out`.
///
/// # Errors
/// Everything that a user can get wrong, with the file and the remedy.
pub fn run_profile(
    args: &ProfileArgs,
    resolve: Resolve,
    reporter: &mut dyn Reporter,
    out: &mut dyn Write,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<()> {
    if let Some(json) = &args.json {
        check_folder(json)?;
    }
    if !args.random {
        data::check_folder(&args.train.data)?;
    }
    reporter.message("Loading pretrained model");
    let folder = resolve(&args.train.model)?;
    let model = Rc::new(Model::load(&folder)?);
    let batch = if args.random {
        random_batch(args, &model)?
    } else {
        first_batch(args, &folder, &model, reporter)?
    };
    let weights = args.train.resume_adapter_file.as_deref();
    prepare_for_training(&model, &args.train, weights, reporter)?;
    let mut trainer = Trainer::new(Rc::clone(&model), args.train.clone())?;
    let own = if on_processor()? { Timing::Together } else { Timing::Apart };
    let options =
        Options { timing: args.timing.unwrap_or(own), shapes: args.shapes, turns: args.turns };
    reporter.message("Profiling");
    let report = profile(&model, &mut trainer, &batch, options, interrupted)?;
    writeln!(out)
        .and_then(|()| report.write_table(out, args.lines))
        .map_err(Error::io("standard output"))?;
    if let Some(json) = &args.json {
        let text = serde_json::to_vec_pretty(&report)
            .map_err(|e| Error::invalid(json, format!("cannot be written: {e}")))?;
        write_bytes_atomic(json, &text)?;
    }
    Ok(())
}

/// Says that a file cannot be written before anything is measured.
fn check_folder(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if folder.is_dir() && !file.is_dir() {
        return Ok(());
    }
    Err(Error::not_found(file, "--json takes a file in a folder that exists"))
}

fn random_batch(args: &ProfileArgs, model: &Model) -> Result<Batch> {
    let limit = |name: &str, number: usize| {
        i32::try_from(number).map_err(|_| Error::Usage(format!("{name} {number} is too large")))
    };
    let rows = limit("--batch-size", args.train.batch_size)?;
    let length = limit("--max-seq-length", args.train.max_seq_length)?;
    let (low, high) = (Array::scalar(0)?, Array::scalar(model.decoder.vocab_size())?);
    let key = random::key(u64::from(args.train.seed))?;
    let tokens = random::randint(&low, &high, &[rows, length], Dtype::Int32, Some(&key))?;
    // Neither is evaluated before the trainer has seen whether there is memory for the batch.
    let lengths = ops::broadcast_to(&Array::from_slice(&[0, length], &[1, 2])?, &[rows, 2])?;
    Ok(Batch { tokens, lengths, random: true })
}

/// The batch that a training with these options begins with.
fn first_batch(
    args: &ProfileArgs,
    folder: &Path,
    model: &Model,
    reporter: &mut dyn Reporter,
) -> Result<Batch> {
    reporter.message("Loading datasets");
    let tokenizer = Tokenizer::load(folder)?;
    let train = load_datasets(&args.train, &tokenizer)?.train.expect("training is asked for");
    check_tokens(&train, model)?;
    let mut batches = training_batches(&train, &args.train, model)?;
    let batch = batches.next(&train, &mut BatchRng::new(args.train.seed));
    let (tokens, lengths) = arrays(&batch.expect("it repeats for ever"), model, reporter)?;
    Ok(Batch { tokens, lengths, random: false })
}
