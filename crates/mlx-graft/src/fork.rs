//! Knows whether this process is a forked child, in which MLX would hang.
#![allow(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

static WATCH: Once = Once::new();
static FORKED: AtomicBool = AtomicBool::new(false);

extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
}

/// Starts watching for forks. MLX's worker threads exist from the first evaluation on.
pub(crate) fn watch() {
    WATCH.call_once(|| {
        // SAFETY: `in_child` is async-signal-safe: it stores to an atomic.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// Fails in a forked child.
#[inline]
pub(crate) fn check(op: &'static str) -> Result<()> {
    if FORKED.load(Ordering::Relaxed) { Err(Error::Forked(op)) } else { Ok(()) }
}
