//! What kernels in AVX-512's instructions share.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_shuffle_f32x4,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};
use std::array::from_fn;

/// Numbers of 32 bits in a register.
pub(crate) const LANES: usize = 16;

/// The first lanes, at most all of them.
pub(crate) fn mask(lanes: usize) -> u16 {
    if lanes >= LANES { u16::MAX } else { (1 << lanes) - 1 }
}

/// The sum of the lanes of each register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn sums_of(x: &[__m512; LANES]) -> __m512 {
    // Each step adds halves of two registers side by side, so that one holds parts of both.
    let x: [__m512; 8] = from_fn(|i| {
        let (a, b) = (x[2 * i], x[2 * i + 1]);
        _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
    });
    let x: [__m512; 4] = from_fn(|i| {
        let (a, b) = (_mm512_castps_pd(x[2 * i]), _mm512_castps_pd(x[2 * i + 1]));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
    });
    let added = |a: __m512, b: __m512| {
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
    };
    added(added(x[0], x[1]), added(x[2], x[3]))
}
