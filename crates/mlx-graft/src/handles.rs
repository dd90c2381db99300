//! Counting of live handles, which the leak tests read.

use std::sync::atomic::{AtomicIsize, Ordering};

static LIVE: AtomicIsize = AtomicIsize::new(0);

/// How many handles of MLX objects (arrays, vectors, closures, streams, …) this process holds
/// through this crate.
///
/// ```
/// use mlx_graft::{Array, live_handles};
///
/// let before = live_handles();
/// let x = Array::from_slice(&[1_i32], &[1])?;
/// assert_eq!(live_handles(), before + 1);
/// drop(x);
/// assert_eq!(live_handles(), before);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn live_handles() -> isize {
    LIVE.load(Ordering::Relaxed)
}

/// Counts a handle as long as it lives. Every handle type holds one.
#[derive(Debug)]
pub(crate) struct Live(());

impl Live {
    pub(crate) fn new() -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// For a handle that is never dropped, because somebody else owns it.
    pub(crate) fn uncounted() -> Self {
        Self(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}
