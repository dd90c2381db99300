"""Tests with evaluations that fail, on a thread where MLX bears any number of them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_TASKS: SimpleQueue[Callable[[], Any]] = SimpleQueue()


def _work() -> None:
    while True:
        _TASKS.get()()


@functools.cache
def _other_thread() -> None:
    """Starts one thread for all tests: MLX keeps that of each thread's stream to the end.

    It never ends. What `mlx.core` has for each thread asks for the interpreter when the thread
    ends, and if that is on its way out, the process aborts.
    """
    threading.Thread(target=_work, daemon=True).start()


def off_the_main_thread(test: Callable[P, R]) -> Callable[P, R]:
    """Runs a test on another thread than the main one, without the streams of the fixtures.

    After a kernel has failed, MLX raises the error as soon as its main thread hands the stream some
    more work. A task that it announced just before is then never counted as done, and with more
    than ten of these the next evaluation waits for ever. Other threads get the error at the end.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _other_thread()
        done: Future[R] = Future()

        def task() -> None:
            try:
                done.set_result(test(*args, **kwargs))
            except BaseException as error:
                done.set_exception(error)

        _TASKS.put(task)
        return done.result()

    return run
