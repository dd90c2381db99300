//! Reading ahead of what memory is read for once, in order.
#![allow(unsafe_code)]
#![allow(clippy::inline_always)] // see `lanes`

#[cfg(target_arch = "x86_64")]
use crate::isa::{self, Isa};

/// Bytes between what is read and what is asked for: a page. The processor looks ahead too, but not
/// beyond the page that it reads.
const AHEAD: usize = 4096;

/// Whether rows are read one after the other, rather than several side by side, whose sums share what is
/// read of the other operand. With AMD's AVX-512 that takes half of the time where rows have a few
/// kilobytes, as only what is read in order is fetched ahead (measured on Zen 4).
#[cfg(target_arch = "x86_64")]
pub(crate) fn reads_in_order() -> bool {
    Isa::Avx512.is_supported() && isa::is_amd()
}

/// Asks for the line of the cache that holds `address`, if there is any. A hint: nothing is read.
#[inline(always)]
fn ask<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, which ignores addresses that are none.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The first number of each line of a row.
fn lines<T>(row: &[T]) -> impl Iterator<Item = *const T> {
    /// Bytes of a cache line.
    const LINE: usize = 64;

    row.chunks((LINE / size_of::<T>()).max(1)).map(<[T]>::as_ptr)
}

/// Asks for what lies a page behind `from`.
#[inline(always)]
pub(crate) fn prefetch<T>(from: *const T) {
    ask(from.wrapping_byte_add(AHEAD));
}

/// Asks for what lies a page behind each line of a row.
#[inline(always)]
pub(crate) fn prefetch_row<T>(row: &[T]) {
    lines(row).for_each(prefetch);
}

/// Asks for a row that is read soon, if it lies far from the one that is read now.
#[inline(always)]
pub(crate) fn prefetch_far_row<T>(row: &[T]) {
    lines(row).for_each(ask);
}
