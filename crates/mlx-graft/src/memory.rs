//! Memory: what is used, and limits.
#![allow(unsafe_code)]

use std::ffi::c_int;

use crate::{Result, call, sys};

fn read(op: &'static str, f: unsafe extern "C" fn(*mut usize) -> c_int) -> Result<usize> {
    let mut res = 0;
    // SAFETY: every function given here writes one `size_t`.
    call::status(op, || unsafe { f(&raw mut res) })?;
    Ok(res)
}

fn limit(
    op: &'static str,
    bytes: usize,
    f: unsafe extern "C" fn(*mut usize, usize) -> c_int,
) -> Result<usize> {
    let mut previous = 0;
    // SAFETY: every function given here writes one `size_t`.
    call::status(op, || unsafe { f(&raw mut previous, bytes) })?;
    Ok(previous)
}

/// Bytes in use by arrays.
///
/// # Errors
/// What MLX reports, as for all functions of this module.
///
/// ```
/// use mlx_graft::{Array, memory};
///
/// let before = memory::active()?;
/// let x = Array::from_slice(&[0.0_f32; 1024], &[1024])?;
/// assert!(memory::active()? >= before + x.nbytes());
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn active() -> Result<usize> {
    read("get_active_memory", sys::mlx_get_active_memory)
}

/// The most bytes in use by arrays since the start or since [`reset_peak`].
pub fn peak() -> Result<usize> {
    read("get_peak_memory", sys::mlx_get_peak_memory)
}

/// Bytes kept for reuse.
pub fn cache() -> Result<usize> {
    read("get_cache_memory", sys::mlx_get_cache_memory)
}

/// Lets the process keep freed memory for the next allocations instead of returning it to the system;
/// whether that is possible here.
///
/// MLX's CPU allocator is the system's. Glibc's returns large blocks at once and takes zeroed pages
/// for the next, which costs a tenth of a training step. What the process holds afterwards is what it
/// held at most, and threads share a few arenas: one for each would keep what others could use, and in
/// a single one they wait for each other, for a tenth of a token of generation. The setting is for the
/// whole process and cannot be taken back; threads that have allocated before keep an arena of their
/// own, so it belongs to the start of a program. Source: mallopt(3), `M_MMAP_MAX`, `M_TRIM_THRESHOLD`
/// and `M_ARENA_MAX`.
///
/// ```
/// let kept = mlx_graft::memory::keep_freed();
/// assert_eq!(kept, cfg!(all(target_os = "linux", target_env = "gnu")));
/// ```
pub fn keep_freed() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// For the thread that builds graphs, that of a stream, and those of kernels.
        const ARENAS: libc::c_int = 4;

        let settings =
            [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1), (libc::M_ARENA_MAX, ARENAS)];
        // SAFETY: the function changes settings of the allocator under its own lock.
        settings.iter().all(|&(name, value)| unsafe { libc::mallopt(name, value) } == 1)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        false
    }
}

/// Has the next allocations of so many bytes together lie in huge pages, which are read faster where
/// memory sets the pace; whether the system was asked for that.
///
/// A block of this size is taken from the allocator, its pages are marked, and it is given back. No
/// page of it is touched, so nothing is in use before it is needed. Only where the process keeps freed
/// memory ([`keep_freed`]) do allocations get that block, or parts of it. Source: madvise(2),
/// `MADV_HUGEPAGE`.
///
/// ```
/// use mlx_graft::memory;
///
/// memory::keep_freed();
/// // Not every system has huge pages, and none has so much memory.
/// let asked = memory::reserve_huge_pages(64 << 20);
/// assert!(!memory::reserve_huge_pages(usize::MAX / 4));
/// # let _ = asked;
/// ```
pub fn reserve_huge_pages(bytes: usize) -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the function reads a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Ok(page @ 1..) = usize::try_from(page) else { return false };
        // SAFETY: any size may be asked for.
        let block = unsafe { libc::malloc(bytes) };
        if block.is_null() {
            return false;
        }
        let first = block.addr().next_multiple_of(page);
        let pages = (block.addr() + bytes).saturating_sub(first) / page;
        // SAFETY: the pages lie in the block, and what they hold stays as it is.
        let asked = unsafe {
            libc::madvise(block.with_addr(first), pages * page, libc::MADV_HUGEPAGE) == 0
        };
        // SAFETY: the block is that from above, and nobody has its address.
        unsafe { libc::free(block) };
        asked && pages > 0
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        let _ = bytes;
        false
    }
}

/// The bytes that the process holds and that are free for its next allocations, as far as the
/// allocator tells: what [`keep_freed`] keeps counts here, and elsewhere as taken.
///
/// ```
/// let free = mlx_graft::memory::free_of_process();
/// assert_eq!(free.is_some(), cfg!(all(target_os = "linux", target_env = "gnu")));
/// ```
pub fn free_of_process() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the function reads statistics of the allocator under its own locks.
        Some(unsafe { libc::mallinfo2() }.fordblks)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        None
    }
}

/// The memory limit in bytes.
pub fn memory_limit() -> Result<usize> {
    read("get_memory_limit", sys::mlx_get_memory_limit)
}

/// Sets the memory limit in bytes, a guideline for the allocator; returns the previous one.
pub fn set_memory_limit(bytes: usize) -> Result<usize> {
    limit("set_memory_limit", bytes, sys::mlx_set_memory_limit)
}

/// Sets how many bytes are kept for reuse at most; returns the previous limit.
pub fn set_cache_limit(bytes: usize) -> Result<usize> {
    limit("set_cache_limit", bytes, sys::mlx_set_cache_limit)
}

/// Sets how many bytes stay resident on a GPU at most; returns the previous limit.
pub fn set_wired_limit(bytes: usize) -> Result<usize> {
    limit("set_wired_limit", bytes, sys::mlx_set_wired_limit)
}

/// Gives the memory kept for reuse back to the system.
pub fn clear_cache() -> Result<()> {
    // SAFETY: takes no argument.
    call::status("clear_cache", || unsafe { sys::mlx_clear_cache() })
}

/// Starts the peak anew.
pub fn reset_peak() -> Result<()> {
    // SAFETY: takes no argument.
    call::status("reset_peak_memory", || unsafe { sys::mlx_reset_peak_memory() })
}

/// Limits in bytes; one that is `None` is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The memory limit, see [`set_memory_limit`].
    pub memory: Option<usize>,
    /// The limit of the cache, see [`set_cache_limit`].
    pub cache: Option<usize>,
    /// The limit of what stays resident on a GPU, see [`set_wired_limit`].
    pub wired: Option<usize>,
}

/// Limits that are put back when the guard is dropped.
///
/// ```
/// use mlx_graft::memory::{self, LimitGuard, Limits};
///
/// let before = memory::memory_limit()?;
/// {
///     let _limits = LimitGuard::new(Limits { memory: Some(1 << 30), ..Limits::default() })?;
///     assert_eq!(memory::memory_limit()?, 1 << 30);
/// }
/// assert_eq!(memory::memory_limit()?, before);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the limits are put back as soon as the guard is dropped"]
pub struct LimitGuard {
    former: Limits,
}

impl LimitGuard {
    /// Sets the limits that are given. If one of them fails, the others are put back at once.
    pub fn new(limits: Limits) -> Result<Self> {
        let mut guard = Self { former: Limits::default() };
        guard.former.memory = limits.memory.map(set_memory_limit).transpose()?;
        guard.former.cache = limits.cache.map(set_cache_limit).transpose()?;
        guard.former.wired = limits.wired.map(set_wired_limit).transpose()?;
        Ok(guard)
    }
}

impl Drop for LimitGuard {
    fn drop(&mut self) {
        // Putting back a limit that was in force cannot fail; a drop must not panic.
        let _ = self.former.memory.map(set_memory_limit);
        let _ = self.former.cache.map(set_cache_limit);
        let _ = self.former.wired.map(set_wired_limit);
    }
}
