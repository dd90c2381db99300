//! The typed error of a kernel that failed on a thread of MLX.
//!
//! MLX carries a failure to the evaluation that waits for it as text. The latest failures are kept
//! here, so that such a text is recognized when it comes out of a call from Rust.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::Error;

/// The failure of a kernel: a sentence for the caller of the evaluation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KernelError(Cause);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Cause {
    #[error("{0}")]
    Message(String),
    #[error("index {index} is out of range for a length of {length}")]
    Index { op: &'static str, index: i64, length: i64 },
}

impl KernelError {
    /// A failure with this explanation.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Cause::Message(message.into()))
    }

    /// An index of the operation `op` that is out of range, which the evaluation reports as
    /// [`Error::Index`].
    ///
    /// ```
    /// let error = mlx_graft::primitive::KernelError::index("pick", 7, 3);
    /// assert_eq!(error.to_string(), "index 7 is out of range for a length of 3");
    /// ```
    pub fn index(op: &'static str, index: i64, length: i64) -> Self {
        Self(Cause::Index { op, index, length })
    }
}

/// Failures of several streams may be on their way at once.
const KEPT: usize = 64;

static LATEST: Mutex<VecDeque<(&'static str, KernelError)>> = Mutex::new(VecDeque::new());

fn as_error((op, error): &(&'static str, KernelError)) -> Error {
    match error.0.clone() {
        Cause::Message(message) => Error::Kernel { op: (*op).to_string(), message },
        Cause::Index { op, index, length } => Error::Index { op, index, length },
    }
}

/// Keeps a failure and returns the text under which MLX shall pass it on.
pub(super) fn record(op: &'static str, error: KernelError) -> String {
    let failure = (op, error);
    let text = as_error(&failure).to_string();
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    // One that was there is on its way once more, and must not be the next to go.
    latest.retain(|kept| *kept != failure);
    latest.truncate(KEPT - 1);
    latest.push_front(failure);
    text
}

/// The failure that MLX passed on as `message`, if a kernel is where it came from.
pub(crate) fn kernel_error(message: &str) -> Option<Error> {
    let latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    latest.iter().map(as_error).find(|error| error.to_string() == message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_comes_again_is_not_the_next_to_go() {
        let again = || record("again", KernelError::new("a failure that comes again"));
        let text = again();
        for round in 0..2 * KEPT {
            record("other", KernelError::new(format!("failure {round} of another stream")));
            again();
        }
        assert!(matches!(kernel_error(&text), Some(Error::Kernel { op, .. }) if op == "again"));
    }
}
