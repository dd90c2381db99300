//! Refuses batches that cannot fit into memory.
//!
//! MLX's CPU allocator does not check what the system gives it: a step that is too large ends the
//! process with a segmentation fault. So what a step needs at the very least is compared with what
//! there is, before it runs. A GPU's allocator reports by itself.

use std::collections::HashSet;
use std::fs;

use mlx_graft::{Array, memory};
use rustix::process::{Resource, getrlimit};

use super::loss;
use crate::models::Decoder;
use crate::{Error, Result, procfs};

/// Remembers the shapes of batches that have been checked.
#[derive(Debug, Default)]
pub(super) struct MemoryCheck {
    seen: HashSet<Vec<i32>>,
}

impl MemoryCheck {
    /// Checks a batch of `tokens`, int32 `(B, T)`, the first time that its shape comes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] naming the shape, the bytes wanted and the bytes there are.
    pub(super) fn check(
        &mut self,
        model: &Decoder,
        tokens: &Array,
        limit: Option<u64>,
        backward: bool,
    ) -> Result<()> {
        if !graft_kernels::is_active()? || self.seen.contains(tokens.shape()) {
            return Ok(());
        }
        let (batch, length) = (tokens.dim(0)?, tokens.dim(1)?);
        let rows = loss::rows_at_once(&model.head(), batch * length, model.vocab_size());
        let needed = model.least_bytes(batch, length, rows, backward);
        let available = [available_bytes(), limit].into_iter().flatten().min();
        if let Some(available) = available.filter(|available| needed > *available) {
            return Err(Error::OutOfMemory(format!(
                "out of memory: a batch of shape {:?} needs at least {:.1} GB, and {:.1} GB are \
                 available. Lower --batch-size or --max-seq-length, or use --grad-checkpoint.",
                tokens.shape(),
                needed as f64 / 1e9,
                available as f64 / 1e9
            )));
        }
        self.seen.insert(tokens.shape().to_vec());
        Ok(())
    }
}

/// The bytes that this process can still get, as far as the system tells.
pub(crate) fn available_bytes() -> Option<u64> {
    let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let system = procfs::bytes("/proc/meminfo", "MemAvailable:");
    let group = number("/sys/fs/cgroup/memory.max").and_then(|max| {
        // File pages count as used, but the system gives them up for a process that asks.
        let used = number("/sys/fs/cgroup/memory.current")?;
        let text = fs::read_to_string("/sys/fs/cgroup/memory.stat").ok()?;
        let file = text.lines().find_map(|line| line.strip_prefix("file "))?.parse::<u64>().ok()?;
        Some(max.saturating_sub(used.saturating_sub(file)))
    });
    let size = || procfs::bytes("/proc/self/status", "VmSize:").unwrap_or(0);
    let address = getrlimit(Resource::As).current.map(|limit| limit.saturating_sub(size()));
    // What earlier steps freed is still the process's own, and counts as taken for the system.
    let free = memory::free_of_process().map_or(0, |bytes| bytes as u64);
    [system, group, address].into_iter().flatten().min().map(|bytes| bytes.saturating_add(free))
}
