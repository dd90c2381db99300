//! Language models on MLX: layers, models, adapters, data, optimizers, the trainer and generation.
#![forbid(unsafe_code)]

pub mod adapter_config;
pub mod adapters;
pub mod args;
pub mod chat_template;
pub mod cli;
pub mod command;
pub mod data;
mod error;
mod floats;
pub mod fsutil;
pub mod generate;
pub mod hub;
pub mod lora;
pub mod metrics;
pub mod models;
pub mod nn;
mod procfs;
pub mod profile;
pub mod progress;
pub mod schedule;
#[cfg(test)]
mod tiny;
pub mod tokenizer;
pub mod trainer;

pub use error::{Error, ErrorKind, Result};
