//! What kernels in AVX-512's instructions share.

/// Numbers of 32 bits in a register.
pub(crate) const LANES: usize = 16;

/// The first lanes, at most all of them.
pub(crate) fn mask(lanes: usize) -> u16 {
    if lanes >= LANES { u16::MAX } else { (1 << lanes) - 1 }
}
