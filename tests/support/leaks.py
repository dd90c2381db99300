"""Rounds that must leave nothing behind."""

from __future__ import annotations

import gc
from collections.abc import Callable

import mlx.core as mx

from mlx_graft import _core

WARM_UP = 10


def counters() -> tuple[int, int]:
    """Live handles of Rust, and active bytes of MLX."""
    mx.synchronize()
    gc.collect()
    return _core.live_handles(), mx.get_active_memory()


def repeat(
    run: Callable[[], object], times: int, counters: Callable[[], object] = counters
) -> None:
    """Runs a round so often, after some repetitions for what is made once."""
    for _ in range(WARM_UP):
        run()
    before = counters()
    for _ in range(times):
        run()
    after = counters()
    assert after == before, f"{after} instead of {before}"
