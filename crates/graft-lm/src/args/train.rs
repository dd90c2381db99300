//! The options of training.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::keys::{Keys, Origins};
use super::optimizer::{OptimizerKind, OptimizerOptions};
use crate::schedule::ScheduleConfig;
use crate::{Error, Result};

/// mlx-lm's default of `data`, a dataset on the Hugging Face hub.
pub(crate) const DEFAULT_DATA: &str = "mlx-community/WikiSQL";

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FineTuneType {
    /// Low-rank adapters beside frozen weights.
    Lora,
    /// All weights of the trained layers.
    Full,
}

/// The options of the adapters, `lora_parameters` in a YAML file and in `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraParameters {
    /// The rank of the update.
    pub rank: usize,
    /// The share of the adapter's inputs that is dropped while training, from 0 to below 1.
    pub dropout: f64,
    /// The factor of the update; mlx-lm's `scale`, not `alpha`.
    pub scale: f64,
    /// The names of the modules within a layer that are adapted; all linear ones when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
}

impl Default for LoraParameters {
    fn default() -> Self {
        Self { rank: 8, dropout: 0.0, scale: 20.0, keys: None }
    }
}

impl LoraParameters {
    pub(crate) fn read(values: Map<String, Value>, origins: &Origins) -> Result<Self> {
        let mut keys = Keys::new(values, "lora_parameters", origins);
        let parameters = Self::take(&mut keys)?;
        keys.finish()?;
        Ok(parameters)
    }

    /// Those of adapters that were made: `rank` and `scale` must be there, as in mlx-lm, and keys
    /// that it does not know mean nothing to it.
    pub(crate) fn read_made(values: Map<String, Value>, origins: &Origins) -> Result<Self> {
        let has = |key: &str| values.get(key).is_some_and(|value| !value.is_null());
        let missing = ["rank", "scale"].into_iter().find(|key| !has(key));
        let mut keys = Keys::new(values, "lora_parameters", origins);
        let parameters = Self::take(&mut keys)?;
        match missing {
            Some(key) => Err(keys.error(
                key,
                "missing; the adapters mean something else with another, so write the one that \
                 they were trained with",
            )),
            None => Ok(parameters),
        }
    }

    fn take(keys: &mut Keys) -> Result<Self> {
        let defaults = Self::default();
        // Beside a scale it means nothing, as in mlx-lm.
        if keys.ignore("alpha") && !keys.has("scale") {
            return Err(keys.error(
                "alpha",
                "mlx-lm's adapters use `scale`, the factor of the update, not `alpha`; \
                 with another framework's alpha and rank r, write scale: alpha / r",
            ));
        }
        let parameters = Self {
            rank: keys.integer("rank", defaults.rank, 1..=i64::MAX)?,
            dropout: keys.number(
                "dropout",
                defaults.dropout,
                "a number from 0 to below 1",
                |d| (0.0..1.0).contains(&d),
            )?,
            scale: keys.number("scale", defaults.scale, "a number", |_| true)?,
            keys: keys.texts("keys")?,
        };
        if parameters.keys.as_ref().is_some_and(Vec::is_empty) {
            return Err(keys.error("keys", "an empty list adapts nothing; leave it out for all"));
        }
        Ok(parameters)
    }
}

/// The options of training: the keys of `mlx_lm.lora`'s configuration, and four of our own.
///
/// Source: `CONFIG_DEFAULTS` and `build_parser` of mlx-lm's `lora.py`.
#[derive(Debug, Clone, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the keys are mlx-lm's")]
pub struct TrainArgs {
    /// A model folder, or the name of a Hugging Face repository in the local cache.
    pub model: String,
    /// Whether to train.
    pub train: bool,
    /// What is trained.
    pub fine_tune_type: FineTuneType,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// Options by optimizer; [`TrainArgs::optimizer_options`] reads the chosen one's.
    pub optimizer_config: Map<String, Value>,
    /// The folder of `train.jsonl`, `valid.jsonl` and `test.jsonl`.
    pub data: String,
    /// The seed of the batch order, the new adapters and dropout.
    pub seed: u32,
    /// How many layers are trained, counted from the last; 0 and -1 mean all, as upstream.
    pub num_layers: i64,
    /// Rows in a batch.
    pub batch_size: usize,
    /// Iterations, one batch each.
    pub iters: u64,
    /// Batches of a validation, -1 for the whole set, 0 for none.
    pub val_batches: i64,
    /// The learning rate when there is no `lr_schedule`.
    pub learning_rate: f64,
    /// Iterations between reports of the training loss.
    pub steps_per_report: u64,
    /// Iterations between validations.
    pub steps_per_eval: u64,
    /// An adapter file to go on from.
    pub resume_adapter_file: Option<PathBuf>,
    /// The folder of the adapters, written when training and read when testing.
    pub adapter_path: PathBuf,
    /// Iterations between saves.
    pub save_every: u64,
    /// Whether to measure the loss on the test set, after training if both are asked for.
    pub test: bool,
    /// Batches of the test, -1 for the whole set.
    pub test_batches: i64,
    /// Longer rows are cut to this many tokens.
    pub max_seq_length: usize,
    /// The YAML file that was read.
    pub config: Option<String>,
    /// Whether layers are computed again in the backward pass instead of being remembered.
    pub grad_checkpoint: bool,
    /// Batches whose gradients are averaged into one update.
    pub grad_accumulation_steps: u64,
    /// Free the allocator's cache between steps when it is larger than this many bytes; 0 means
    /// never, where upstream frees it at every step.
    pub clear_cache_threshold: u64,
    /// A schedule of the learning rate.
    pub lr_schedule: Option<ScheduleConfig>,
    /// The options of the adapters.
    pub lora_parameters: LoraParameters,
    /// Whether the loss leaves out the prompt's tokens.
    pub mask_prompt: bool,
    /// Kept as given; reporting services are not built, so nothing reads it.
    pub project_name: Option<String>,
    /// The key of the prompt in a row, `prompt` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_feature: Option<String>,
    /// The key of the completion in a row, `completion` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_feature: Option<String>,
    /// The key of the text in a row, `text` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_feature: Option<String>,
    /// The key of the chat in a row, `messages` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_feature: Option<String>,
    /// Our own: whether to go on with the training that was stopped in `adapter_path`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resume: bool,
    /// Our own: whether batches are made of rows of similar lengths, so that less is padding.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub group_by_length: bool,
    /// Our own: the most memory MLX may hold, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// Our own: the most memory MLX may keep for reuse, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_limit: Option<u64>,
}

impl TrainArgs {
    /// The options in `values`, keyed as in a YAML file; what is absent gets its default.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown key (naming the nearest), a wrong type or a value out of
    /// range; [`Error::Unsupported`] for what mlx-lm has and this crate has not.
    pub fn from_map(values: Map<String, Value>) -> Result<Self> {
        Self::read(values, &Origins::default())
    }

    /// The options of the chosen optimizer.
    ///
    /// # Errors
    /// As [`TrainArgs::from_map`], if `optimizer_config` was changed since.
    pub fn optimizer_options(&self) -> Result<OptimizerOptions> {
        OptimizerOptions::read(self.optimizer, &self.optimizer_config, &Origins::default())
    }

    pub(crate) fn read(values: Map<String, Value>, origins: &Origins) -> Result<Self> {
        let mut keys = Keys::new(values, "", origins);
        refuse_unsupported(&mut keys)?;
        let optimizer = optimizer(&mut keys)?;
        let optimizer_config = match keys.mapping("optimizer_config")? {
            Some(config) => config,
            None => default_optimizer_config(),
        };
        OptimizerOptions::read(optimizer, &optimizer_config, origins)?;
        let lora_parameters = match keys.mapping("lora_parameters")? {
            Some(parameters) => LoraParameters::read(parameters, origins)?,
            None => LoraParameters::default(),
        };
        let lr_schedule = match keys.mapping("lr_schedule")? {
            Some(schedule) => Some(ScheduleConfig::read(schedule, origins)?),
            None => None,
        };
        let args = Self {
            model: keys.text("model")?.unwrap_or_else(|| "Qwen/Qwen3-0.6b".to_owned()),
            train: keys.boolean("train", false)?,
            fine_tune_type: fine_tune_type(&mut keys)?,
            optimizer,
            optimizer_config,
            data: keys.text("data")?.unwrap_or_else(|| DEFAULT_DATA.to_owned()),
            seed: keys.integer("seed", 0, 0..=i64::from(u32::MAX))?,
            num_layers: keys.integer("num_layers", 16, -1..=i64::MAX)?,
            batch_size: keys.integer("batch_size", 4, 1..=i64::MAX)?,
            iters: keys.integer("iters", 1000, 0..=i64::MAX)?,
            val_batches: keys.integer("val_batches", 25, -1..=i64::MAX)?,
            learning_rate: keys.number(
                "learning_rate",
                1e-5,
                "a number of at least 0",
                |rate| rate >= 0.0,
            )?,
            steps_per_report: keys.integer("steps_per_report", 10, 1..=i64::MAX)?,
            steps_per_eval: keys.integer("steps_per_eval", 200, 1..=i64::MAX)?,
            resume_adapter_file: keys.text("resume_adapter_file")?.map(PathBuf::from),
            adapter_path: keys.text("adapter_path")?.unwrap_or_else(|| "adapters".into()).into(),
            save_every: keys.integer("save_every", 100, 1..=i64::MAX)?,
            test: keys.boolean("test", false)?,
            test_batches: keys.integer("test_batches", 500, -1..=i64::MAX)?,
            max_seq_length: keys.integer("max_seq_length", 2048, 2..=i64::from(i32::MAX))?,
            config: keys.text("config")?,
            grad_checkpoint: keys.boolean("grad_checkpoint", false)?,
            grad_accumulation_steps: keys.integer("grad_accumulation_steps", 1, 1..=i64::MAX)?,
            clear_cache_threshold: keys.size("clear_cache_threshold")?.unwrap_or(0),
            lr_schedule,
            lora_parameters,
            mask_prompt: keys.boolean("mask_prompt", false)?,
            project_name: keys.text("project_name")?,
            prompt_feature: keys.text("prompt_feature")?,
            completion_feature: keys.text("completion_feature")?,
            text_feature: keys.text("text_feature")?,
            chat_feature: keys.text("chat_feature")?,
            resume: keys.boolean("resume", false)?,
            group_by_length: keys.boolean("group_by_length", false)?,
            memory_limit: keys.size("memory_limit")?,
            cache_limit: keys.size("cache_limit")?,
        };
        if args.test_batches == 0 {
            return Err(keys.error("test_batches", "found 0; wanted -1 for all, or at least 1"));
        }
        keys.finish()?;
        Ok(args)
    }
}

impl Default for TrainArgs {
    fn default() -> Self {
        Self::from_map(Map::new()).expect("the defaults are within their own ranges")
    }
}

fn default_optimizer_config() -> Map<String, Value> {
    ["adam", "adamw", "muon", "sgd", "adafactor"]
        .into_iter()
        .map(|name| (name.to_owned(), Value::Object(Map::new())))
        .collect()
}

fn fine_tune_type(keys: &mut Keys) -> Result<FineTuneType> {
    let choices =
        [("lora", Some(FineTuneType::Lora)), ("full", Some(FineTuneType::Full)), ("dora", None)];
    keys.choice("fine_tune_type", Some(FineTuneType::Lora), &choices)?.ok_or_else(|| {
        Error::Unsupported("fine_tune_type dora is not built here; lora and full are".to_owned())
    })
}

fn optimizer(keys: &mut Keys) -> Result<OptimizerKind> {
    let Some(name) = keys.text("optimizer")? else { return Ok(OptimizerKind::Adam) };
    match name.to_lowercase().as_str() {
        "adam" => Ok(OptimizerKind::Adam),
        "adamw" => Ok(OptimizerKind::AdamW),
        "muon" | "sgd" | "adafactor" => Err(Error::Unsupported(format!(
            "the optimizer {name} is not built here; adam and adamw are"
        ))),
        _ => Err(keys.error("optimizer", &format!("found {name:?}, wanted adam or adamw"))),
    }
}

fn refuse_unsupported(keys: &mut Keys) -> Result<()> {
    if keys.take("report_to").is_some() {
        return Err(Error::Unsupported(
            "report_to is not built here; every report is a line of metrics.jsonl in the \
             adapter folder"
                .to_owned(),
        ));
    }
    if keys.boolean("trust_remote_code", false)? {
        return Err(Error::Unsupported(
            "trust_remote_code is not possible: models are built in and run no Python of a \
             model repository"
                .to_owned(),
        ));
    }
    if keys.take("hf_dataset").is_some() {
        return Err(Error::Unsupported(
            "hf_dataset is not built here; write the dataset to a folder as train.jsonl, \
             valid.jsonl and test.jsonl, and give the folder as data"
                .to_owned(),
        ));
    }
    Ok(())
}
