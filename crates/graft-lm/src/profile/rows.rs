//! The operations of a profile, those of a kind together.

use std::collections::{BTreeMap, BTreeSet};

use mlx_graft::profile::{Operand, Operation};
use serde::Serialize;

use super::cost;
use super::machine::Limits;

/// Operations of one name, or of one name and the same shapes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The name: in lower case this project's operations, the others are MLX's. A name that begins
    /// with `Compiled` is of several elementwise operations that MLX compiled into one.
    pub name: String,
    /// What each read, if shapes are told apart, such as `float32[4, 256]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What each wrote, if shapes are told apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// How many there were.
    pub calls: usize,
    /// How long they took together.
    pub seconds: f64,
    /// That as a share of the step, from 0 to 1.
    pub share: f64,
    /// Multiplications and additions, of products and attention.
    pub flops: Option<u64>,
    /// `flops` in a second.
    pub flops_per_second: Option<f64>,
    /// The bytes that were read and written at least.
    pub bytes: u64,
    /// `bytes` in a second.
    pub bytes_per_second: Option<f64>,
    /// The time that the machine's limits allow as a share of the time taken. More than 1 means
    /// that numbers came from a cache instead of from memory.
    pub of_the_limit: Option<f64>,
}

/// The dtypes of the numbers that are multiplied.
pub fn product_dtypes(operations: &[Operation]) -> BTreeSet<String> {
    let products = operations.iter().filter(|operation| cost::flops(operation).is_some());
    products.filter_map(|operation| Some(operation.inputs.first()?.dtype.to_string())).collect()
}

/// A name, and what is read and written if shapes are told apart.
type Kind<'a> = (&'a str, Vec<String>, Vec<String>);

/// The operations in groups, those that took longest first; `step` is the seconds of all.
pub fn rows(operations: &[Operation], limits: &Limits, step: f64, shapes: bool) -> Vec<Row> {
    let mut groups: BTreeMap<Kind<'_>, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        let describe = |operands: &[Operand]| -> Vec<String> {
            if shapes { operands.iter().map(describe).collect() } else { Vec::new() }
        };
        let key = (&*operation.name, describe(&operation.inputs), describe(&operation.outputs));
        groups.entry(key).or_default().push(operation);
    }
    let mut rows: Vec<Row> = groups
        .into_iter()
        .map(|((name, inputs, outputs), group)| Row {
            inputs,
            outputs,
            ..row(name, &group, limits, step)
        })
        .collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

fn row(name: &str, group: &[&Operation], limits: &Limits, step: f64) -> Row {
    let seconds: f64 = group.iter().map(|operation| operation.elapsed().as_secs_f64()).sum();
    let flops = group.iter().filter_map(|operation| cost::flops(operation)).reduce(|a, b| a + b);
    let bytes = group.iter().map(|operation| cost::bytes(operation)).sum();
    let least = |operation: &&Operation| {
        let dtype = operation.inputs.first().map(|input| input.dtype.to_string());
        let flops = cost::flops(operation).zip(dtype.as_deref());
        limits.least_seconds(flops, cost::bytes(operation))
    };
    let least: f64 = group.iter().map(least).sum();
    let rate = |amount: f64| (amount > 0.0 && seconds > 0.0).then(|| amount / seconds);
    Row {
        name: name.to_owned(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        calls: group.len(),
        seconds,
        share: seconds / step,
        flops,
        flops_per_second: flops.and_then(|flops| rate(flops as f64)),
        bytes,
        bytes_per_second: rate(bytes as f64),
        of_the_limit: rate(least),
    }
}

fn describe(operand: &Operand) -> String {
    format!("{}{:?}", operand.dtype, operand.shape)
}
