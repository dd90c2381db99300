//! Training data: rows of JSON, tokenized, and batches of them.

mod batches;
mod folder;
mod packed;
mod rng;
mod rows;

pub use batches::{Batch, BatchPosition, Batches, Widths};
pub use folder::{Datasets, check_folder, load_datasets};
pub use packed::PackedBatch;
pub use rng::{BatchRng, RngPosition};
pub use rows::{Dataset, DatasetOptions, Row};

#[cfg(test)]
mod tests;
