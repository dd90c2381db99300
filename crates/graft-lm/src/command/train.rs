//! Training and testing from a command line.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use super::{Resolve, check_interrupted, refuse_many_processes};
use crate::adapters::{load_adapters, prepare, resume};
use crate::args::{FineTuneType, TrainArgs};
use crate::chat_template::Time;
use crate::data::{BatchRng, Dataset, check_folder, load_datasets};
use crate::lora::KeySequence;
use crate::models::Model;
use crate::nn::Module;
use crate::progress::Reporter;
use crate::tokenizer::Tokenizer;
use crate::trainer::{
    EARLIER_FILE, Hooks, STATE_FILE, Trainer, TrainingState, evaluate, evaluation_batches,
    limit_memory,
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
    let resumes = args.train && args.resume;
    let state = if resumes { training_state(&args.adapter_path, reporter)? } else { None };
    // For a test too, with which the trainer has nothing to do.
    let _limits = limit_memory(args)?;
    reporter.message("Loading pretrained model");
    let folder = resolve(&args.model)?;
    let mut tokenizer = Tokenizer::load(&folder)?;
    // The rows of a training that goes on are those with which it began, on whatever day.
    let began = state.as_ref().and_then(TrainingState::rendered);
    tokenizer.set_time(began.unwrap_or_else(Time::now));
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
        evaluation_batches(test, args, &model)?;
    }
    check_interrupted(interrupted)?;
    // As in mlx-lm, whose numbers come from one generator, the test goes on from the training's.
    let mut rng = BatchRng::new(args.seed);
    if let Some(train) = &data.train {
        reporter.message("Training");
        let folder = args.adapter_path.clone();
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
/// As [`TrainingState::read`]; [`Error::Usage`] if there is none but that of a training in whose
/// place another one began, as both could be meant.
pub fn training_state(folder: &Path, reporter: &mut dyn Reporter) -> Result<Option<TrainingState>> {
    let state = TrainingState::read(folder)?;
    let file = folder.join(STATE_FILE);
    if state.is_none() && folder.join(EARLIER_FILE).exists() {
        return Err(Error::Usage(format!(
            "{} is not there: the last training in this folder ended before it had saved one. The \
             one before it has left {EARLIER_FILE}: to go on with that, rename it to {STATE_FILE}; \
             if other files begin with earlier_, take that off their names too. To start from the \
             beginning, leave out --resume",
            file.display()
        )));
    }
    if state.is_none() {
        reporter.warning(&format!(
            "{} is not there, so there is nothing to resume: training starts from the beginning",
            file.display()
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

#[cfg(test)]
mod tests {
    use mlx_graft::memory::memory_limit;

    use super::*;
    use crate::progress::Silent;
    use crate::tiny;

    fn data(name: &str, row: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), format!("{row}\n").repeat(4)).unwrap();
        folder
    }

    fn run(args: &TrainArgs, model: &Path, seen: &mut dyn FnMut()) -> Result<()> {
        let mut interrupted = || {
            seen();
            false
        };
        run_train(args, &mut |_| Ok(model.to_path_buf()), &mut Silent, &mut interrupted)
    }

    #[test]
    fn limits_of_memory_hold_while_testing() {
        let (model, data) = (tiny::folder("x"), data("test.jsonl", r#"{"text": "a b a b"}"#));
        let limit = || memory_limit().unwrap() as u64;
        let (before, wanted) = (limit(), 1 << 41);
        let args = TrainArgs {
            test: true,
            batch_size: 2,
            data: data.path().to_string_lossy().into_owned(),
            adapter_path: "".into(),
            memory_limit: Some(wanted),
            ..TrainArgs::default()
        };
        let mut seen = Vec::new();
        run(&args, model.path(), &mut || seen.push(limit())).unwrap();
        // After the last batch of the test.
        assert_eq!(seen.last(), Some(&wanted));
        assert_eq!(limit(), before);
    }

    #[test]
    fn a_training_goes_on_with_rows_of_the_time_when_it_began() {
        // Other digits in every run.
        let model = tiny::folder("{{ strftime_now('%f') | list | join(' ') }}");
        let row = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
        let (data, adapters) = (data("train.jsonl", row), tempfile::tempdir().unwrap());
        let args = |iters: u64| TrainArgs {
            train: true,
            batch_size: 2,
            num_layers: 1,
            iters,
            resume: iters > 1,
            data: data.path().to_string_lossy().into_owned(),
            adapter_path: adapters.path().to_path_buf(),
            ..TrainArgs::default()
        };
        let mut began = None;
        for iters in 1..=3 {
            run(&args(iters), model.path(), &mut || ()).unwrap();
            let state = TrainingState::read(adapters.path()).unwrap().unwrap();
            let rendered = state.rendered();
            assert!(rendered.is_some());
            assert_eq!(*began.get_or_insert(rendered), rendered);
        }
        // A training that begins anew has another time.
        run(&TrainArgs { resume: false, ..args(3) }, model.path(), &mut || ()).unwrap();
        let state = TrainingState::read(adapters.path()).unwrap().unwrap();
        assert_ne!(Some(state.rendered()), began);
    }
}
