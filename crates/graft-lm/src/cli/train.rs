//! `graft-train` and `graft train`: the flags of `mlx_lm.lora`.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{ParseOutcome, finite, given_flags};
use crate::args::keys::Origins;
use crate::args::{TrainArgs, yaml};
use crate::{Error, Result};

/// LoRA, QLoRA and full fine-tuning of a language model.
///
/// Flags win over the YAML file of --config, which wins over the defaults.
#[derive(Parser, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[expect(clippy::doc_markdown, reason = "the help shows no backticks")]
#[command(version, infer_long_args = true, args_override_self = true)]
pub(super) struct TrainFlags {
    /// The folder of the model, or the name of a Hugging Face repository [default:
    /// Qwen/Qwen3-0.6b].
    #[arg(long)]
    model: Option<String>,
    /// Train.
    #[arg(long)]
    train: bool,
    /// The folder with train.jsonl, valid.jsonl and test.jsonl.
    #[arg(long)]
    data: Option<String>,
    /// What is trained [default: lora] [supported: lora, full].
    #[arg(long, value_parser = ["lora", "dora", "full"], hide_possible_values = true)]
    fine_tune_type: Option<String>,
    /// The optimizer [default: adam] [supported: adam, adamw].
    #[arg(long, value_parser = ["adam", "adamw", "muon", "sgd", "adafactor"],
        hide_possible_values = true)]
    optimizer: Option<String>,
    /// Leave the prompt's tokens out of the loss.
    #[arg(long)]
    mask_prompt: bool,
    /// How many layers to train, counted from the last, -1 for all [default: 16].
    #[arg(long, allow_negative_numbers = true)]
    num_layers: Option<i64>,
    /// Rows in a batch [default: 4].
    #[arg(long, allow_negative_numbers = true)]
    batch_size: Option<i64>,
    /// Iterations to train for [default: 1000].
    #[arg(long, allow_negative_numbers = true)]
    iters: Option<i64>,
    /// Batches of a validation, -1 for the whole set [default: 25].
    #[arg(long, allow_negative_numbers = true)]
    val_batches: Option<i64>,
    /// The learning rate [default: 1e-5].
    #[arg(long, allow_negative_numbers = true, value_parser = finite)]
    learning_rate: Option<f64>,
    /// Iterations between reports of the loss [default: 10].
    #[arg(long, allow_negative_numbers = true)]
    steps_per_report: Option<i64>,
    /// Iterations between validations [default: 200].
    #[arg(long, allow_negative_numbers = true)]
    steps_per_eval: Option<i64>,
    /// Batches whose gradients are averaged into one update [default: 1].
    #[arg(long, allow_negative_numbers = true)]
    grad_accumulation_steps: Option<i64>,
    /// An adapter file whose weights a new training begins with.
    #[arg(long)]
    resume_adapter_file: Option<String>,
    /// Go on with the training that was stopped in --adapter-path, as if it had not been; start it
    /// if there is none.
    #[arg(long)]
    resume: bool,
    /// The folder of the adapters [default: adapters].
    #[arg(long)]
    adapter_path: Option<String>,
    /// Iterations between saves [default: 100].
    #[arg(long, allow_negative_numbers = true)]
    save_every: Option<i64>,
    /// Measure the loss on the test set, after training.
    #[arg(long)]
    test: bool,
    /// Batches of the test, -1 for the whole set [default: 500].
    #[arg(long, allow_negative_numbers = true)]
    test_batches: Option<i64>,
    /// Cut longer rows to this many tokens [default: 2048].
    #[arg(long, allow_negative_numbers = true)]
    max_seq_length: Option<i64>,
    /// A YAML file with training options.
    #[arg(short, long)]
    config: Option<String>,
    /// Compute layers again in the backward pass, to use less memory.
    #[arg(long)]
    grad_checkpoint: bool,
    /// Free the allocator's cache between steps when it is larger, such as 2GB. 0 means never, where
    /// mlx-lm frees it at every step [default: 0].
    #[arg(long)]
    clear_cache_threshold: Option<String>,
    /// Make batches of rows of similar lengths: less padding, other batches than mlx-lm's.
    #[arg(long)]
    group_by_length: bool,
    /// The most memory to hold, such as 8GB.
    #[arg(long)]
    memory_limit: Option<String>,
    /// The most memory to keep for reuse, such as 2GB.
    #[arg(long)]
    cache_limit: Option<String>,
    /// Not supported: metrics.jsonl in the adapter folder holds every report.
    #[arg(long)]
    report_to: Option<String>,
    /// Accepted as upstream's, for the services of --report-to.
    #[arg(long)]
    project_name: Option<String>,
    /// The seed of the batch order, the new adapters and dropout [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<i64>,
    /// Not possible: models are built in.
    #[arg(long)]
    trust_remote_code: bool,
}

/// Reads the command line of training; `argv[0]` is the command's name in help and errors.
///
/// Source: `main` of mlx-lm's `lora.py`: a flag wins over the YAML file of `--config`, which wins
/// over the default.
pub fn parse_train(argv: &[OsString]) -> ParseOutcome<TrainArgs> {
    match given_flags::<TrainFlags>(argv) {
        Ok(flags) => merge(flags).and_then(|(values, origins)| read(values, &origins)).into(),
        Err((text, code)) => ParseOutcome::Exit { text, code },
    }
}

/// The flags and what the YAML file of `--config` says beside them.
pub(super) fn merge(flags: Map<String, Value>) -> Result<(Map<String, Value>, Origins)> {
    let mut origins = Origins::default();
    let mut values = match flags.get("config").and_then(Value::as_str) {
        Some(path) => yaml::read_mapping(Path::new(path), &mut origins)?,
        None => Map::new(),
    };
    origins.flags = flags.keys().cloned().collect();
    values.extend(flags);
    Ok((values, origins))
}

fn read(values: Map<String, Value>, origins: &Origins) -> Result<TrainArgs> {
    let args = TrainArgs::read(values, origins)?;
    if !args.train && !args.test {
        return Err(Error::Usage(
            "nothing to do: give --train, --test or both (or `train: true` in the YAML file)"
                .to_owned(),
        ));
    }
    Ok(args)
}
