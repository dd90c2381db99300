//! The typed error of a kernel that failed on a thread of MLX.
//!
//! MLX carries a failure to the evaluation that waits for it as text. The latest failures are kept
//! here, so that such a text is recognized when it comes out of a call from Rust.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::KernelError;
use crate::Error;

/// Failures of several streams may be on their way at once.
const KEPT: usize = 16;

static LATEST: Mutex<VecDeque<(&'static str, KernelError)>> = Mutex::new(VecDeque::new());

fn as_error((op, error): &(&'static str, KernelError)) -> Error {
    Error::Kernel { op: (*op).to_string(), message: error.to_string() }
}

/// Keeps a failure and returns the text under which MLX shall pass it on.
pub(super) fn record(op: &'static str, error: KernelError) -> String {
    let failure = (op, error);
    let text = as_error(&failure).to_string();
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    if !latest.contains(&failure) {
        latest.truncate(KEPT - 1);
        latest.push_front(failure);
    }
    text
}

/// The failure that MLX passed on as `message`, if a kernel is where it came from.
pub(crate) fn kernel_error(message: &str) -> Option<Error> {
    let latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    latest.iter().map(as_error).find(|error| error.to_string() == message)
}
