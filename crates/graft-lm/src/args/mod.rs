//! What the user asks for: the options of training and of generation, checked.
//!
//! Names, defaults and the order of precedence (flag, then YAML file, then default) are those of
//! `mlx_lm.lora` and `mlx_lm.generate`.

mod generate;
pub(crate) mod keys;
mod optimizer;
mod profile;
mod size;
mod train;
pub(crate) mod yaml;

pub use generate::GenerateArgs;
pub use optimizer::{OptimizerKind, OptimizerOptions};
pub use profile::ProfileArgs;
pub use size::parse_size;
pub(crate) use train::DEFAULT_DATA;
pub use train::{FineTuneType, LoraParameters, TrainArgs};
