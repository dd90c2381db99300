"""A sample: a few calls of the C API, and what the same is in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from support.c_caller import Library
from support.c_frame import Frame

#: What the samples compute with.
X = mx.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])
W = mx.array([2.0, -3.0, 0.5])
ONE = mx.array(1.0)


@dataclass(frozen=True)
class Sample:
    """The calls of C, and a function of a module (`mlx.core` or ours) or the value itself."""

    run: Callable[[Frame], Any]
    expected: Any
    #: Whether it may raise, everywhere or where a device is absent.
    fails: bool = False

    @property
    def name(self) -> str:
        """Its name among the tests."""
        module = self.run.__module__.rsplit(".", 1)[-1]
        return f"{module}.{self.run.__name__}"


SAMPLES: list[Sample] = []


def against(
    expected: Any, *, fails: bool = False
) -> Callable[[Callable[[Frame], Any]], Callable[[Frame], Any]]:
    """Registers a sample.

    What it returns must be equal to `expected`, or, if that is a function, to what it returns for
    `mlx.core` and for `mlx_graft.core`, with the folder in which the sample wrote. With `fails` it
    may raise, the same type of exception on all sides.
    """

    def register(run: Callable[[Frame], Any]) -> Callable[[Frame], Any]:
        SAMPLES.append(Sample(run, expected, fails))
        return run

    return register


def in_c(c: Library, sample: Sample, folder: Path) -> Any:
    """What the calls of C give, or the type of the exception."""
    with Frame(c, folder) as frame:
        try:
            return sample.run(frame)
        except (ValueError, IndexError, OverflowError, MemoryError, RuntimeError) as error:
            return type(error)


def in_python(c: Library, sample: Sample, module: Any, folder: Path) -> Any:
    """What the same is in Python, or the type of the exception."""
    if isinstance(sample.expected, type) or not callable(sample.expected):
        return plain(c, sample.expected)
    try:
        return plain(c, sample.expected(module, folder))
    except Exception as error:
        return type(error)


def plain(c: Library, value: Any) -> Any:
    """The same with dtype, shape and bytes in the place of each array."""
    if isinstance(value, mx.array):
        return c.plain(value)
    if isinstance(value, mx.Dtype):
        return c.dtype(value)
    if isinstance(value, (list, tuple)):
        return [plain(c, item) for item in value]
    if isinstance(value, dict):
        return {key: plain(c, item) for key, item in value.items()}
    return value
