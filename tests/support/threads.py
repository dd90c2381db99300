"""Tests with evaluations that fail, on a thread where MLX bears any number of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# One for all tests: MLX keeps the thread of each thread's stream to the end of the process.
OTHER_THREAD = ThreadPoolExecutor(1)


def off_the_main_thread(test: Callable[P, R]) -> Callable[P, R]:
    """Runs a test on another thread than the main one, without the streams of the fixtures.

    After a kernel has failed, MLX raises the error as soon as its main thread hands the stream some
    more work. A task that it announced just before is then never counted as done, and with more
    than ten of these the next evaluation waits for ever. Other threads get the error at the end.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return OTHER_THREAD.submit(test, *args, **kwargs).result()

    return run
