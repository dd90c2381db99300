//! The options of a profile.

use std::path::PathBuf;

use mlx_graft::profile::Timing;
use serde_json::{Map, Value};

use super::TrainArgs;
use super::keys::{Keys, Origins};
use crate::Result;

/// Random rows have so many tokens if nothing says how many: as in a batch of data, one more than
/// a multiple of 32, as the first is not predicted.
const RANDOM_LENGTH: usize = 257;

/// The options of a profile: those of training, and its own.
#[derive(Debug, Clone)]
pub struct ProfileArgs {
    /// The options of training.
    pub train: TrainArgs,
    /// Whether the batch is of random tokens, as no data is given.
    pub random: bool,
    /// Where the report is written as JSON.
    pub json: Option<PathBuf>,
    /// Whether operations of the same name are told apart by their shapes.
    pub shapes: bool,
    /// How operations are timed; as the device allows if `None`.
    pub timing: Option<Timing>,
    /// How many steps are taken with the profile, and as many without.
    pub turns: usize,
    /// The most lines of the table of operations.
    pub lines: usize,
}

impl ProfileArgs {
    pub(crate) fn read(mut values: Map<String, Value>, origins: &Origins) -> Result<Self> {
        let own: Map<String, Value> = ["json", "shapes", "apart", "turns", "lines"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), values.shift_remove(key)?)))
            .collect();
        let mut keys = Keys::new(own, "", origins);
        let (json, shapes) = (keys.text("json")?, keys.boolean("shapes", false)?);
        let apart = keys.boolean("apart", false)?;
        let (turns, lines) =
            (keys.integer("turns", 5, 1..=1000)?, keys.integer("lines", 20, 1..=i64::MAX)?);
        keys.finish()?;
        let is_given = |key: &str| values.get(key).is_some_and(|value| !value.is_null());
        let (random, has_length) = (!is_given("data"), is_given("max_seq_length"));
        let mut train = TrainArgs::read(values, origins)?;
        (train.train, train.test) = (true, false);
        // One batch has one update, which belongs to the profile.
        train.grad_accumulation_steps = 1;
        if random && !has_length {
            train.max_seq_length = RANDOM_LENGTH;
        }
        let timing = apart.then_some(Timing::Apart);
        Ok(Self { train, random, json: json.map(PathBuf::from), shapes, timing, turns, lines })
    }
}
