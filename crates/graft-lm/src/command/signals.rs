//! Stopping a command from outside.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::{Error, Result};

/// Has the first Ctrl-C, or SIGTERM, set `stop`, which asks a command to stop, and the second end
/// the process.
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub fn watch_signals(stop: &Arc<AtomicBool>) -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(stop))
            .and_then(|_| flag::register(signal, Arc::clone(stop)))
            .map_err(Error::io("signal handler"))?;
    }
    // A file beyond the size limit shall be an error of the write, not the end of the process.
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        .map_err(Error::io("signal handler"))?;
    Ok(())
}
