"""Tests with evaluations that fail, on a thread where MLX bears any number of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import mlx.core as mx

P = ParamSpec("P")
R = TypeVar("R")


def off_the_main_thread(test: Callable[P, R]) -> Callable[P, R]:
    """Runs a test on a thread of its own, and on the CPU.

    After a kernel has failed, MLX raises the error as soon as its main thread hands the stream some
    more work. A task that it announced just before is then never counted as done, and with more
    than ten of these the next evaluation waits for ever. Other threads get the error at the end.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        def on_cpu() -> R:
            with mx.stream(mx.cpu):
                return test(*args, **kwargs)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(on_cpu).result()

    return run
