"""Programs of MLX with the native operations in the place of MLX's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import numpy as np

import mlx_graft as mg

# How far results may be off, relative to the largest number of the wanted result.
TOLERANCE = {mx.float32: 1e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}


@contextmanager
def accelerated() -> Iterator[None]:
    mg.accelerate()
    try:
        yield
    finally:
        mg.accelerate(False)


def numbers(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    values = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    return mx.array(values).astype(dtype)
