"""The state of `mx.random`, which Rust goes on from."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

__all__ = ["advance", "current"]


def current() -> mx.array:
    """Returns the key that the next draw of `mx.random` starts from."""
    state: Any = mx.random.state
    return cast(mx.array, state[0])


def advance(draws: int) -> None:
    """Moves the state as that many draws of `mx.random` do.

    MLX has no function that sets the state. A draw without elements moves it and computes nothing.
    """
    for _ in range(draws):
        mx.random.uniform(shape=(0,))
