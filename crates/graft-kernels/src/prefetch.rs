//! Reading ahead of what memory is read for once, in order.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // see `lanes`

/// Bytes between what is read and what is asked for: a page. The processor looks ahead too, but not
/// beyond the page that it reads.
const AHEAD: usize = 4096;

/// Asks for what lies a page behind `from`, if there is any. A hint: nothing is read.
#[inline(always)]
pub(crate) fn prefetch<T>(from: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, which ignores addresses that are none.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_byte_add(AHEAD).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// Asks for what lies a page behind each line of a row.
#[inline(always)]
pub(crate) fn prefetch_row<T>(row: &[T]) {
    /// Bytes of a cache line.
    const LINE: usize = 64;

    for line in row.chunks((LINE / size_of::<T>()).max(1)) {
        prefetch(line.as_ptr());
    }
}
