//! Where the memory of a step goes.

use std::collections::{BTreeMap, HashMap};

use mlx_graft::profile::Operation;
use serde::Serialize;

use super::cost::is_view;
use crate::procfs;

/// The memory of a step, in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// Weights that are not trained.
    pub frozen: u64,
    /// Weights that are trained: adapters, or layers.
    pub trained: u64,
    /// The running averages of the optimizer.
    pub optimizer: u64,
    /// Other arrays that were there before the step, such as the batch.
    pub other: u64,
    /// What the step added at its fullest: activations, gradients, new weights and what operations
    /// need for a while.
    pub step: u64,
    /// The most that arrays took: the sum of those above.
    pub peak: u64,
    /// By what operation the memory was made that the step held at its fullest, as the order of
    /// the operations and their last uses say.
    pub made_by: Vec<Made>,
    /// What the system counts for the process: now, and at most since its start. `None` where the
    /// system does not tell.
    pub resident: Option<u64>,
    /// See `resident`.
    pub most_resident: Option<u64>,
}

/// Memory of one kind of operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The name of the operation.
    pub name: String,
    /// How many pieces of memory.
    pub pieces: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A piece of memory: made by an operation, and read for the last time by another.
struct Piece {
    bytes: u64,
    made: usize,
    last: usize,
}

/// What was held when most was held, by the operations that made it, the largest first.
pub fn fullest(operations: &[Operation]) -> Vec<Made> {
    let pieces = pieces(operations);
    let mut change = vec![0_i64; operations.len() + 2];
    for piece in &pieces {
        change[piece.made] += piece.bytes as i64;
        change[piece.last + 1] -= piece.bytes as i64;
    }
    let (mut held, mut most, mut at) = (0, 0, 0);
    for (i, change) in change.iter().enumerate() {
        held += change;
        if held > most {
            (most, at) = (held, i);
        }
    }
    let mut found: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for piece in pieces.iter().filter(|piece| piece.made <= at && at <= piece.last) {
        let sum = found.entry(&operations[piece.made].name).or_default();
        *sum = (sum.0 + 1, sum.1 + piece.bytes);
    }
    let mut made: Vec<Made> = found
        .into_iter()
        .map(|(name, (pieces, bytes))| Made { name: name.to_owned(), pieces, bytes })
        .collect();
    made.sort_by_key(|made| std::cmp::Reverse(made.bytes));
    made
}

fn pieces(operations: &[Operation]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    // Identities come back, so each is the piece that had it latest.
    let mut current: HashMap<usize, usize> = HashMap::new();
    let mut kept = Vec::new();
    for (i, operation) in operations.iter().enumerate() {
        for input in &operation.inputs {
            if let Some(&piece) = current.get(&input.buffer) {
                pieces[piece].last = i;
            }
        }
        if is_view(operation) {
            continue;
        }
        for output in operation.outputs.iter().filter(|output| output.buffer != 0) {
            // A result may be written over an input, which ends there.
            let over = operation.inputs.iter().any(|input| input.buffer == output.buffer);
            if let Some(&old) = current.get(&output.buffer).filter(|_| over) {
                let piece = &mut pieces[old];
                piece.last = piece.made.max(i.saturating_sub(1));
            }
            current.insert(output.buffer, pieces.len());
            pieces.push(Piece { bytes: output.buffer_bytes as u64, made: i, last: i });
            if output.kept {
                kept.push(output.buffer);
            }
        }
    }
    for buffer in kept {
        if let Some(&piece) = current.get(&buffer) {
            pieces[piece].last = operations.len();
        }
    }
    pieces
}

/// What the system counts for this process: now, and the most so far.
pub fn resident() -> (Option<u64>, Option<u64>) {
    let field = |name: &str| procfs::bytes("/proc/self/status", name);
    (field("VmRSS:"), field("VmHWM:"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mlx_graft::Dtype;
    use mlx_graft::profile::Operand;

    use super::*;

    fn operand(buffer: usize, kept: bool) -> Operand {
        let bytes = 1 << buffer;
        Operand {
            shape: vec![bytes as i32],
            dtype: Dtype::Uint8,
            buffer,
            buffer_bytes: bytes,
            bytes,
            kept,
        }
    }

    fn operation(name: &str, inputs: &[usize], outputs: &[usize], kept: bool) -> Operation {
        Operation {
            name: name.to_owned(),
            inputs: inputs.iter().map(|&buffer| operand(buffer, false)).collect(),
            outputs: outputs.iter().map(|&buffer| operand(buffer, kept)).collect(),
            start: Duration::ZERO,
            end: Duration::ZERO,
        }
    }

    fn made(name: &str, pieces: usize, bytes: u64) -> Made {
        Made { name: name.to_owned(), pieces, bytes }
    }

    #[test]
    fn memory_lives_until_its_last_use() {
        // 1 is there before. 3 and 4 are alive together, then 5 comes when only 4 is left.
        let operations = [
            operation("A", &[1], &[3], false),
            operation("B", &[3], &[4], false),
            operation("A", &[4], &[5], false),
            operation("C", &[5], &[2], true),
        ];
        assert_eq!(fullest(&operations), [made("A", 1, 32), made("B", 1, 16)]);
    }

    #[test]
    fn views_make_memory_live_longer() {
        let operations = [
            operation("A", &[1], &[3], false),
            operation("Reshape", &[3], &[3], false),
            operation("B", &[1], &[4], false),
            operation("C", &[3, 4], &[2], true),
        ];
        let wanted = [made("B", 1, 16), made("A", 1, 8), made("C", 1, 4)];
        assert_eq!(fullest(&operations), wanted);
    }

    #[test]
    fn what_is_written_over_counts_once_and_what_was_asked_for_stays() {
        let operations = [
            operation("A", &[1], &[3], true),
            operation("B", &[1], &[4], false),
            operation("C", &[4], &[4], false),
            operation("D", &[4], &[2], false),
        ];
        assert_eq!(fullest(&operations), [made("C", 1, 16), made("A", 1, 8), made("D", 1, 4)]);
    }
}
