//! What a training step costs outside evaluation, for the model folders given as arguments.
//!
//! The replay of a compiled loss and gradient of the same model is taken in turns with it: what a
//! step costs beyond the one after it is the trainer's own, together with its few operations of the
//! update. Medians of each, and of that difference.
//! Prints one JSON object per model.

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use graft_lm::Result;
use graft_lm::adapters::load_adapters;
use graft_lm::args::TrainArgs;
use graft_lm::models::Model;
use graft_lm::nn::{Context, Module, Param, Swapped};
use graft_lm::trainer::{Step, next_token_loss};
use mlx_graft::transforms::{self, Compiled};
use mlx_graft::{Array, random};

const ROUNDS: usize = 101;
const WARMUP: usize = 10;

/// The compiled loss and gradient of a model, with its trained weights as the first inputs.
fn compile_loss(model: &Rc<Model>, trained: &[Param]) -> Result<Compiled> {
    let (model, params) = (Rc::clone(model), trained.to_vec());
    let argnums: Vec<i32> = (0..params.len() as i32).collect();
    Ok(transforms::compile(
        move |inputs| {
            let (model, params) = (Rc::clone(&model), params.clone());
            let loss = move |inputs: &[Array]| {
                let (values, rest) = inputs.split_at(params.len());
                let _swapped = Swapped::new(&params, values);
                let ctx = Context::train(rest[0].clone());
                let (loss, count) = next_token_loss(&model.decoder, &rest[1], &rest[2], &ctx)?;
                Ok(vec![loss, count])
            };
            let (mut out, grads) = transforms::value_and_grad(loss, &argnums, inputs)?;
            out.extend(grads);
            Ok(out)
        },
        false,
    )?)
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.drain(..WARMUP);
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn measure(folder: &Path) -> Result<()> {
    let model = Rc::new(Model::load(folder)?);
    load_adapters(&model, &folder.join("adapters"))?;
    let params = model.decoder.params();
    let trained: Vec<Param> =
        params.into_iter().map(|(_, param)| param).filter(Param::is_trainable).collect();
    let tokens = Array::from_slice(&[1_i32; 9], &[1, 9])?;
    let lengths = Array::from_slice(&[0, 9], &[1, 2])?;

    let mut step = Step::new(&model, TrainArgs::default().optimizer_options()?, 1, 0)?;
    let replay = compile_loss(&model, &trained)?;
    let mut inputs: Vec<Array> = trained.iter().map(Param::get).collect();
    inputs.extend([random::key(0)?, tokens.clone(), lengths.clone()]);
    transforms::eval(&inputs)?;

    let (mut steps, mut replays) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS + WARMUP {
        let start = Instant::now();
        let out = step.run(&tokens, &lengths, 1e-5)?;
        steps.push(start.elapsed().as_secs_f64());
        let mut pending = step.state();
        pending.extend([out.loss, out.tokens]);
        transforms::eval(&pending)?;
        step.settle(true);

        let start = Instant::now();
        let out = replay.call(&inputs)?;
        replays.push(start.elapsed().as_secs_f64());
        transforms::eval(&out)?;
    }
    let own = median(steps.iter().zip(&replays).map(|(step, replay)| step - replay).collect());
    let (step, replay) = (median(steps), median(replays));
    println!(
        r#"{{"tensors": {}, "step": {step:e}, "replay": {replay:e}, "own": {own:e}}}"#,
        trained.len()
    );
    Ok(())
}

fn main() -> Result<()> {
    // `cargo bench` adds a flag of its own.
    for folder in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        measure(Path::new(&folder))?;
    }
    Ok(())
}
