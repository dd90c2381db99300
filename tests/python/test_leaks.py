"""From Python too, handles and bytes return to their start.

`LEAK_REPETITIONS` says how often each round runs; `make leakcheck` sets 100,000.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import mlx.core as mx
import pytest

import mlx_graft.core as mc
from mlx_graft import _core, kernels

REPETITIONS = int(os.environ.get("LEAK_REPETITIONS", "1000"))
WARM_UP = 10

X = mx.arange(256, dtype=mx.float32).reshape(16, 16)


class PlannedError(Exception):
    """What the failing functions raise."""


def square_sum(x: mx.array) -> mx.array:
    return mc.sum(mc.square(x))


def failing(x: mx.array) -> mx.array:
    mc.square(x)
    raise PlannedError


def operations() -> None:
    parts = mc.split(mc.concatenate([X, X]), 4)
    mx.eval(mc.matmul(mc.softmax(parts[0], axis=-1), X), mc.where(X > 1, X, 0.0))


def random_numbers() -> None:
    key, other = mc.random.split(mc.random.key(7))
    mx.eval(mc.random.normal((8,), key=key), mc.random.uniform(shape=(8,), key=other))


def wrong_arguments() -> None:
    with pytest.raises(ValueError):
        mc.reshape(X, (7,))
    with pytest.raises(ValueError):
        mc.add(X, "text")
    with pytest.raises(ValueError):
        mc.concatenate([X, mx.zeros((3, 3))], axis=1)


def grad() -> None:
    mx.eval(mx.value_and_grad(square_sum)(X))


def vjp_and_jvp() -> None:
    mx.eval(mx.vjp(square_sum, [X], [mx.array(1.0)]), mx.jvp(square_sum, [X], [X]))


def vmap() -> None:
    mx.eval(mx.vmap(square_sum)(X))


def compiled() -> None:
    mx.eval(mx.compile(lambda x: mc.sum(mc.square(x)))(X))


def checkpoint() -> None:
    mx.eval(mx.grad(mx.checkpoint(square_sum))(X))


def exceptions() -> None:
    for transform in (mx.grad, mx.vmap, mx.compile, mx.checkpoint):
        with pytest.raises(PlannedError):
            transform(failing)(X)


def native_kernel() -> None:
    mx.eval(kernels.matmul(X, X), mx.grad(lambda x: kernels.matmul(x, X).sum())(X))


ROUNDS = [
    operations,
    random_numbers,
    wrong_arguments,
    grad,
    vjp_and_jvp,
    vmap,
    compiled,
    checkpoint,
    exceptions,
    native_kernel,
]


@pytest.mark.parametrize("run", ROUNDS, ids=lambda run: run.__name__)
def test_nothing_is_left(run: Callable[[], None]) -> None:
    for _ in range(WARM_UP):
        run()
    before = counters()
    for _ in range(REPETITIONS):
        run()
    assert counters() == before


def counters() -> tuple[int, int]:
    """Live handles of Rust, and active bytes of MLX."""
    gc.collect()
    mx.synchronize()
    return _core.live_handles(), mx.get_active_memory()
