//! Training and testing from a command line.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use super::{Resolve, check_interrupted, refuse_many_processes};
use crate::adapters::{load_adapters, prepare, resume};
use crate::args::{FineTuneType, TrainArgs};
use crate::data::{BatchRng, Dataset, check_folder, load_datasets};
use crate::lora::KeySequence;
use crate::models::Model;
use crate::nn::Module;
use crate::progress::Reporter;
use crate::tokenizer::Tokenizer;
use crate::trainer::{
    EARLIER_FILE, Hooks, STATE_FILE, Trainer, TrainingState, evaluate, evaluation_batches,
};
use crate::{Error, Result};

/// Does what the flags say: train, test, or both.
///
/// Nothing is written before the model, the data and the adapters have been read and checked.
///
/// # Errors
/// Everything that a user can get wrong, with the file and the remedy.
pub fn run_train(
    args: &TrainArgs,
    resolve: Resolve,
    reporter: &mut dyn Reporter,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<()> {
    if !args.train && !args.test {
        return Err(Error::Usage("say what to do: --train, --test, or both".into()));
    }
    refuse_many_processes()?;
    check_folder(&args.data)?;
    reporter.message("Loading pretrained model");
    let folder = resolve(&args.model)?;
    let tokenizer = Tokenizer::load(&folder)?;
    let model = Rc::new(Model::load(&folder)?);
    check_interrupted(interrupted)?;
    reporter.message("Loading datasets");
    let data = load_datasets(args, &tokenizer)?;
    for warning in &data.warnings {
        reporter.warning(warning);
    }
    for set in [&data.train, &data.valid, &data.test].into_iter().flatten() {
        check_tokens(set, &model)?;
    }
    if let Some(test) = &data.test {
        evaluation_batches(test, args)?;
    }
    check_interrupted(interrupted)?;
    // As in mlx-lm, whose numbers come from one generator, the test goes on from the training's.
    let mut rng = BatchRng::new(args.seed);
    if let Some(train) = &data.train {
        reporter.message("Training");
        let folder = args.adapter_path.clone();
        let state = if args.resume { training_state(&folder, reporter)? } else { None };
        // The state has the weights that training has made of those of the file.
        let weights = args.resume_adapter_file.as_deref().filter(|_| state.is_none());
        prepare_for_training(&model, args, weights, reporter)?;
        let mut trainer = Trainer::new(Rc::clone(&model), args.clone())?;
        trainer.check(train, data.valid.as_ref(), state.as_ref())?;
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let hooks = Hooks { reporter, interrupted, folder: Some(folder), resume: state };
        trainer.fit(train, data.valid.as_ref(), hooks)?;
        rng = trainer.into_rng();
    } else if !args.adapter_path.as_os_str().is_empty() {
        // As in mlx-lm, an empty adapter path tests the model as it is.
        load_adapters(&model, &args.adapter_path)?;
    }
    if let Some(test) = &data.test {
        reporter.message("Testing");
        let limit = u64::try_from(args.test_batches).ok();
        let loss = evaluate(&model, args, test, limit, &mut rng, reporter, interrupted)?;
        reporter.message(&format!("Test loss {loss:.3}, Test ppl {:.3}.", loss.exp()));
    }
    Ok(())
}

/// The state of the training to go on with, if a run has left one in `folder`; else says that there
/// is none, so that one and the same command can start a training and go on with it.
///
/// # Errors
/// As [`TrainingState::read`].
pub fn training_state(folder: &Path, reporter: &mut dyn Reporter) -> Result<Option<TrainingState>> {
    let state = TrainingState::read(folder)?;
    if state.is_none() {
        let file = folder.join(STATE_FILE);
        reporter.warning(&format!(
            "{} is not there, so there is nothing to resume: training starts from the beginning{}",
            file.display(),
            if folder.join(EARLIER_FILE).exists() {
                format!("; {EARLIER_FILE} is of the training before, and goes at the first save")
            } else {
                String::new()
            }
        ));
    }
    Ok(state)
}

/// Adds new adapters or unfreezes layers, and loads `weights` into them.
pub(super) fn prepare_for_training(
    model: &Model,
    args: &TrainArgs,
    weights: Option<&Path>,
    reporter: &mut dyn Reporter,
) -> Result<()> {
    let mut keys = KeySequence::new(u64::from(args.seed))?;
    let (kind, parameters) = (args.fine_tune_type, &args.lora_parameters);
    if kind == FineTuneType::Full {
        refuse_packed(model)?;
    }
    prepare(model, kind, parameters, args.num_layers, &mut keys)?;
    if let Some(file) = weights {
        reporter.message(&format!("Loading fine-tuned weights from {}", file.display()));
        resume(&model.decoder, file)?;
    }
    reporter.message(&trainable_parameters(model));
    Ok(())
}

/// Fails if a weight is packed: it has no gradient, and scales without it are no full fine-tuning.
fn refuse_packed(model: &Model) -> Result<()> {
    let params = model.decoder.params();
    let packed = params.iter().find_map(|(name, _)| name.strip_suffix(".scales"));
    match packed {
        Some(layer) => Err(Error::Usage(format!(
            "fine_tune_type: full trains weights, and {layer} is quantized. Use \
             --fine-tune-type lora, or a model that is not quantized"
        ))),
        None => Ok(()),
    }
}

/// Fails if a data set has a token that the model does not know: it would read beyond a table.
///
/// # Errors
/// [`Error::Invalid`] naming the row.
pub fn check_tokens(data: &Dataset, model: &Model) -> Result<()> {
    let vocab = model.decoder.vocab_size();
    for (i, row) in data.rows().iter().enumerate() {
        if let Some(token) = row.tokens.iter().find(|&&token| token < 0 || token >= vocab) {
            return Err(Error::Invalid {
                path: data.source().to_path_buf(),
                line: Some(i + 1),
                message: format!(
                    "token {token} is outside the model's vocabulary of {vocab}; is the tokenizer \
                     of this model?"
                ),
            });
        }
    }
    Ok(())
}

fn trainable_parameters(model: &Model) -> String {
    let (mut total, mut trained) = (0, 0);
    for (name, param) in model.decoder.params() {
        let value = param.get();
        trained += if param.is_trainable() { value.size() } else { 0 };
        // As in mlx-lm, a quantized weight counts as what it stands for, without its scales, and
        // the model without its adapters: they lie in layers that are no leaves.
        if [".scales", ".biases", ".lora_a", ".lora_b"].iter().any(|end| name.ends_with(end)) {
            continue;
        }
        let packed = value.dtype() == mlx_graft::Dtype::Uint32;
        total += if packed { model.decoder.unpacked_size(&name) } else { value.size() };
    }
    let (total, trained) = (total as f64 / 1e6, trained as f64 / 1e6);
    let share = trained * 100.0 / total;
    format!("Trainable parameters: {share:.3}% ({trained:.3}M/{total:.3}M)")
}
