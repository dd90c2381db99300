//! What a training leaves when it ends early, and what goes on from it.

use std::fs;

use serde_json::json;

use super::*;
use crate::ErrorKind;
use crate::adapter_config::ADAPTER_CONFIG;
use crate::adapters::{ADAPTER_FILE, resume, save_trainable};
use crate::command::training_state;
use crate::metrics::METRICS_FILE;
use crate::nn::Module;
use crate::progress::Silent;
use crate::tiny;

/// Keeps what it is told, and counts iterations.
#[derive(Default)]
struct Log {
    done: Rc<Cell<u64>>,
    said: Vec<String>,
}

impl Reporter for Log {
    fn advance(&mut self) {
        self.done.set(self.done.get() + 1);
    }
    fn message(&mut self, text: &str) {
        self.said.push(text.to_owned());
    }
    fn warning(&mut self, text: &str) {
        self.said.push(text.to_owned());
    }
}

fn args(iters: u64) -> TrainArgs {
    TrainArgs {
        iters,
        batch_size: 2,
        learning_rate: 1e-3,
        steps_per_report: 1,
        ..Default::default()
    }
}

fn trainer_with(args: TrainArgs) -> Trainer {
    Trainer::new(tiny::adapted(0.0), args).unwrap()
}

fn trainer(iters: u64) -> Trainer {
    trainer_with(args(iters))
}

/// Trains with what `folder` has to go on from, until so many iterations are done in this run; says
/// what it told.
fn fit(
    trainer: &mut Trainer,
    folder: &Path,
    resumes: bool,
    until: Option<u64>,
) -> (Result<()>, String) {
    let mut log = Log::default();
    let done = Rc::clone(&log.done);
    let train = tiny::rows(8);
    let resume = if resumes { training_state(folder, &mut log) } else { Ok(None) };
    let resume = match resume {
        Ok(resume) => resume,
        Err(error) => return (Err(error), log.said.join("\n")),
    };
    let ended = trainer.fit(
        &train,
        // A validation asks before the first step.
        (until == Some(0)).then_some(&train),
        Hooks {
            reporter: &mut log,
            interrupted: &mut || until.is_some_and(|until| done.get() >= until),
            folder: Some(folder.to_path_buf()),
            resume,
        },
    );
    (ended, log.said.join("\n"))
}

fn iteration(folder: &Path) -> Option<u64> {
    TrainingState::read(folder).unwrap().map(|state| state.header.position.iteration)
}

fn weights(model: &Model) -> Vec<(String, Vec<f32>)> {
    let trained = model.decoder.params().into_iter().filter(|(_, param)| param.is_trainable());
    let values = trained.map(|(name, param)| {
        let value = ops::astype(&param.get(), mlx_graft::Dtype::Float32).unwrap();
        (name, value.to_vec().unwrap())
    });
    values.collect()
}

/// Tokens of two rows, the first of which is `first`.
fn batch(first: i32) -> (Array, Array) {
    let mut tokens: Vec<i32> = (0..32).collect();
    tokens[0] = first;
    let tokens = Array::from_slice(&tokens, &[2, 16]).unwrap();
    (tokens, Array::from_slice(&[0, 15, 0, 15], &[2, 2]).unwrap())
}

#[test]
fn a_token_outside_the_vocabulary_changes_nothing() {
    let (mut trainer, mut other) = (trainer(1), trainer(1));
    let before = weights(&trainer.model);
    for token in [tiny::VOCAB, -1] {
        let (tokens, lengths) = batch(token);
        let error = trainer.step(&tokens, &lengths).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Index);
        let wanted = format!("token {token} is outside the model's vocabulary of 40");
        assert!(error.to_string().contains(&wanted), "{error}");
    }
    assert_eq!(weights(&trainer.model), before);
    assert_eq!(trainer.reached().batches.get(), 0);
    let (tokens, lengths) = batch(5);
    for trainer in [&mut trainer, &mut other] {
        trainer.step(&tokens, &lengths).unwrap();
    }
    assert_eq!(weights(&trainer.model), weights(&other.model));
    assert_ne!(weights(&trainer.model), before);
}

#[test]
fn nothing_is_done_with_what_a_failed_evaluation_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trainer(3);
    trainer.saver().save(folder.path()).unwrap();
    let saved = fs::read(folder.path().join(ADAPTER_FILE)).unwrap();
    let (tokens, lengths) = batch(tiny::VOCAB);
    // The caller was wrong to know that the tokens are in the vocabulary.
    trainer.step_of_known(&tokens, &lengths).unwrap_err();
    let (tokens, lengths) = batch(5);
    let rows = tiny::rows(8);
    let errors = [
        trainer.step(&tokens, &lengths).unwrap_err(),
        trainer.saver().save(folder.path()).unwrap_err(),
        trainer.evaluate(&rows, None, &mut Silent, &mut || false).unwrap_err(),
        fit(&mut trainer, folder.path(), false, None).0.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Broken(_)), "{error}");
        assert_eq!(error.kind(), ErrorKind::Runtime);
        assert!(error.to_string().contains("Load the model again"), "{error}");
    }
    assert_eq!(fs::read(folder.path().join(ADAPTER_FILE)).unwrap(), saved);
}

#[test]
fn a_run_whose_evaluation_fails_keeps_its_last_save() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trainer_with(TrainArgs { save_every: 2, ..args(9) });
    let mut rows = tiny::rows(8).rows().to_vec();
    // In the first place, where only the table of tokens meets it, of a row of the last batch.
    rows[1].tokens[0] = tiny::VOCAB;
    let rows = Dataset::new(rows, "rows");
    let mut log = Log::default();
    let done = Rc::clone(&log.done);
    let hooks = Hooks {
        reporter: &mut log,
        interrupted: &mut || false,
        folder: Some(folder.path().to_path_buf()),
        resume: None,
    };
    let error = trainer.fit(&rows, None, hooks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Index, "{error}");
    assert_eq!(done.get(), 3, "an epoch has four batches");
    assert_eq!(iteration(folder.path()), Some(2));
    let saved = content(folder.path(), ADAPTER_FILE);
    assert!(saved.is_some() && saved == content(folder.path(), "0000002_adapters.safetensors"));
    let said = log.said.join("\n");
    assert!(said.contains("after iteration 3 could not be saved"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_between_steps_leaves_all_that_was_reached() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join(METRICS_FILE)).unwrap();
    let mut stopped = trainer_with(TrainArgs { steps_per_report: 3, ..args(6) });
    let (ended, said) = fit(&mut stopped, folder.path(), false, None);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Os);
    assert!(said.contains("All that was reached is saved as after iteration 3"), "{said}");
    assert_eq!(iteration(folder.path()), Some(3));
    fs::remove_file(folder.path().join(METRICS_FILE)).unwrap();
    let (mut resumed, mut whole) = (trainer(6), trainer(6));
    fit(&mut resumed, folder.path(), true, None).0.unwrap();
    let other = tempfile::tempdir().unwrap();
    fit(&mut whole, other.path(), false, None).0.unwrap();
    assert_eq!(weights(&resumed.model), weights(&whole.model));
}

/// The folder of a training that is done.
fn earlier() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fit(&mut trainer(5), folder.path(), false, None).0.unwrap();
    assert_eq!(iteration(folder.path()), Some(5));
    folder
}

fn content(folder: &Path, name: &str) -> Option<Vec<u8>> {
    fs::read(folder.join(name)).ok()
}

#[test]
fn a_start_that_is_refused_leaves_the_state_its_name() {
    let folder = earlier();
    fs::remove_file(folder.path().join(METRICS_FILE)).unwrap();
    fs::create_dir(folder.path().join(METRICS_FILE)).unwrap();
    let (ended, _) = fit(&mut trainer(3), folder.path(), false, None);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Os);
    assert_eq!(iteration(folder.path()), Some(5));
}

#[test]
fn a_training_that_saved_nothing_leaves_an_earlier_one_as_it_was() {
    let folder = earlier();
    let files = [ADAPTER_FILE, ADAPTER_CONFIG, STATE_FILE];
    let before = files.map(|name| content(folder.path(), name));
    let (ended, said) = fit(&mut trainer(9), folder.path(), false, Some(0));
    assert!(matches!(ended.unwrap_err(), Error::Interrupted(_)));
    assert!(said.contains("the state of an earlier training, and this one begins anew"), "{said}");
    assert!(said.contains("training_state.safetensors is the earlier one's again"), "{said}");
    assert_eq!(files.map(|name| content(folder.path(), name)), before);
    // So that nothing is lost by having forgotten to resume.
    let mut resumed = trainer(6);
    fit(&mut resumed, folder.path(), true, None).0.unwrap();
    assert_eq!(iteration(folder.path()), Some(6));
}

#[test]
fn a_save_that_was_not_planned_keeps_an_earlier_training() {
    let folder = earlier();
    let folder = folder.path();
    let names = [ADAPTER_FILE, ADAPTER_CONFIG, STATE_FILE];
    let before = names.map(|name| content(folder, name));
    let kept = |folder: &Path| names.map(|name| content(folder, &format!("earlier_{name}")));
    let (ended, said) = fit(&mut trainer(9), folder, false, Some(2));
    let message = ended.unwrap_err().to_string();
    assert!(message.starts_with("stopped after iteration 2; all is saved"), "{message}");
    assert!(said.contains("files that begin with earlier_"), "{said}");
    assert_eq!(iteration(folder), Some(2));
    assert_eq!(kept(folder), before);
    // The next stop does not take the first weights for those of the earlier training.
    fit(&mut trainer(9), folder, true, Some(1)).0.unwrap_err();
    assert_eq!(iteration(folder), Some(3));
    assert_eq!(kept(folder), before);
    // A third training would have to write over one of the two.
    let (ended, _) = fit(&mut trainer(9), folder, false, None);
    let message = ended.unwrap_err().to_string();
    assert!(message.contains(EARLIER_FILE) && message.contains("--adapter-path"), "{message}");
    assert_eq!((iteration(folder), kept(folder)), (Some(3), before));
    // One that has ended as planned has taken the place of the earlier one.
    fit(&mut trainer(4), folder, true, None).0.unwrap();
    assert_eq!(iteration(folder), Some(4));
    assert_eq!(kept(folder), [None, None, None]);
}

#[test]
fn a_planned_save_takes_the_place_of_an_earlier_training() {
    let folder = earlier();
    let mut trainer = trainer_with(TrainArgs { save_every: 2, ..args(9) });
    fit(&mut trainer, folder.path(), false, Some(3)).0.unwrap_err();
    assert_eq!(iteration(folder.path()), Some(3));
    assert!(!folder.path().join(EARLIER_FILE).exists());
    assert!(!folder.path().join("earlier_adapters.safetensors").exists());
}

#[test]
fn a_planned_save_that_fails_keeps_an_earlier_training() {
    let folder = earlier();
    let folder = folder.path();
    let names = [ADAPTER_FILE, ADAPTER_CONFIG, STATE_FILE];
    let before = names.map(|name| content(folder, name));
    let mut log = Log::default();
    let hooks = Hooks {
        reporter: &mut log,
        // A folder stands where the state is to go, so that the weights alone can be saved.
        interrupted: &mut || {
            fs::create_dir_all(folder.join(STATE_FILE)).unwrap();
            false
        },
        folder: Some(folder.to_path_buf()),
        resume: None,
    };
    let mut trainer = trainer_with(TrainArgs { save_every: 2, ..args(9) });
    let error = trainer.fit(&tiny::rows(8), None, hooks).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Os, "{error}");
    let said = log.said.join("\n");
    assert!(said.contains("files that begin with earlier_"), "{said}");
    let kept = names.map(|name| content(folder, &format!("earlier_{name}")));
    assert!(kept == before, "the earlier training is whole");
}

#[test]
fn what_only_an_earlier_training_has_left_is_not_gone_on_from_unasked() {
    let folder = earlier();
    let folder = folder.path();
    let before = content(folder, ADAPTER_FILE);
    let diverging = || trainer_with(TrainArgs { learning_rate: 1e30, ..args(9) });
    let (ended, said) = fit(&mut diverging(), folder, false, None);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::FloatingPoint);
    assert!(said.contains("The weights are saved as after iteration"), "{said}");
    // The weights before the step are there, and those of the earlier training beside them.
    assert_eq!(content(folder, "earlier_adapters.safetensors"), before);
    assert!(content(folder, ADAPTER_FILE).is_some());
    assert_eq!(iteration(folder), None);
    let message = fit(&mut trainer(9), folder, true, None).0.unwrap_err().to_string();
    let file = folder.join(STATE_FILE);
    assert!(message.starts_with(&format!("{} is not there", file.display())), "{message}");
    for way in ["rename it to training_state.safetensors", "leave out --resume"] {
        assert!(message.contains(way), "{message}");
    }
    fs::rename(folder.join(EARLIER_FILE), &file).unwrap();
    fit(&mut trainer(6), folder, true, None).0.unwrap();
    assert_eq!(iteration(folder), Some(6));
    assert_eq!(content(folder, "earlier_adapters.safetensors"), None);
}

#[test]
fn a_training_that_began_with_weights_of_another_dtype_goes_on() {
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("half.safetensors");
    let begun = tiny::adapted(0.0);
    for (_, param) in begun.decoder.params().into_iter().filter(|(_, p)| p.is_trainable()) {
        param.set(ops::astype(&param.get(), mlx_graft::Dtype::Bfloat16).unwrap());
    }
    save_trainable(&begun.decoder, &file).unwrap();
    let half = || {
        let model = tiny::adapted(0.0);
        resume(&model.decoder, &file).unwrap();
        model
    };
    // Between two updates.
    let args = |iters| TrainArgs { grad_accumulation_steps: 2, ..args(iters) };
    let (parts, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = Trainer::new(half(), args(6)).unwrap();
    fit(&mut first, parts.path(), false, Some(3)).0.unwrap_err();
    // As the command prepares it: the state has what training has made of the file's weights.
    let mut resumed = trainer_with(args(6));
    fit(&mut resumed, parts.path(), true, None).0.unwrap();
    let mut other = Trainer::new(half(), args(6)).unwrap();
    fit(&mut other, whole.path(), false, None).0.unwrap();
    assert_eq!(weights(&resumed.model), weights(&other.model));
    for (name, param) in
        resumed.model.decoder.params().into_iter().filter(|(n, _)| n.contains("lora"))
    {
        assert_eq!(param.get().dtype(), mlx_graft::Dtype::Bfloat16, "{name}");
    }
    let states = [&parts, &whole].map(|folder| content(folder.path(), STATE_FILE).unwrap());
    assert!(states[0] == states[1], "the states are the same");
}

#[test]
fn widths_that_matter_are_those_of_mlx_lm() {
    let row = |length| crate::data::Row { tokens: vec![3; length], offset: 0, sort_key: 1 };
    let rows = Dataset::new([257, 260, 270, 280].map(row).to_vec(), "rows");
    let dynamic = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
    for (changes, width) in [(json!({}), 1 + 320), (dynamic, 1 + 288)] {
        let model = tiny::model_with(changes);
        let mut rng = BatchRng::new(0);
        for mut batches in [
            training_batches(&rows, &args(1), &model).unwrap(),
            evaluation_batches(&rows, &args(1), &model).unwrap(),
        ] {
            assert_eq!(batches.next(&rows, &mut rng).unwrap().width, width);
        }
    }
}

#[test]
fn blocks_that_are_computed_again_drop_what_others_do() {
    let (tokens, lengths) = batch(5);
    let losses = |dropout: f64, checkpoints: bool| {
        let model = tiny::adapted(dropout);
        // They start as zero, and would do nothing.
        for (name, param) in model.decoder.params() {
            if name.ends_with(".lora_b") {
                param.set(ops::add(&param.get(), &Array::scalar(0.1_f32).unwrap()).unwrap());
            }
        }
        let args = TrainArgs { grad_checkpoint: checkpoints, ..args(3) };
        let mut trainer = Trainer::new(model, args).unwrap();
        [(); 3].map(|()| trainer.step(&tokens, &lengths).unwrap().0.item::<f32>().unwrap())
    };
    let (plain, again, none) = (losses(0.3, false), losses(0.3, true), losses(0.0, false));
    for (a, b) in plain.iter().zip(&again) {
        assert!((a - b).abs() < 1e-4 * a.abs(), "{plain:?} {again:?}");
    }
    assert!((plain[0] - none[0]).abs() > 1e-3 * none[0], "{plain:?} {none:?}");
}
