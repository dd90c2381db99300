"""Puts the native operations in the place of MLX's, and takes them away again."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_graft.accelerate import _functions

__all__ = ["accelerate"]

_lock = threading.Lock()
_originals: list[tuple[Any, str, Any]] = []
_traced: set[str] = set()


def accelerate(on: bool = True) -> list[str]:
    """Routes CPU operations of MLX programs to the native kernels, or no longer.

    Names that a module has bound before (`from mlx.core import matmul`) and functions that
    `mx.compile` has traced before stay as they are. After `accelerate(False)`, functions that were
    compiled meanwhile keep the kernels until they are compiled again; a warning names them.
    `mx.export_function` and `mx.exporter` trace MLX's own operations.

    Where a GPU is the default device nothing is replaced, and a warning says so.

    Args:
        on: Whether the kernels are in place afterwards.

    Returns:
        The names that are replaced now.

    Example:
        >>> import mlx.core as mx
        >>> import mlx_graft as mg
        >>> "mlx.core.matmul" in mg.accelerate()
        True
        >>> (mx.ones((2, 3)) @ mx.ones((3, 2))).tolist()
        [[3.0, 3.0], [3.0, 3.0]]
        >>> mg.accelerate(False)
        []
    """
    with _lock:
        if on and not _originals:
            _replace()
        elif not on and _originals:
            _restore()
        return sorted(
            f"mlx.core.array.{name}" if owner is mx.array else f"{owner.__name__}.{name}"
            for owner, name, _ in _originals
        )


def _replace() -> None:
    if mx.default_device().type != mx.DeviceType.cpu:
        warnings.warn(
            "mlx_graft.accelerate: the default device is a GPU, so MLX's own operations stay. "
            "Call mx.set_default_device(mx.cpu) first to run on the CPU.",
            stacklevel=3,
        )
        return
    for owner, name, make in _functions.REPLACEMENTS:
        _set(owner, name, make)
    _set(mx, "compile", _recording_compile)
    _set(mx, "export_function", _exporting_originals)
    _set(mx, "exporter", _exporter_of_originals)


def _set(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    replacement = functools.update_wrapper(make(original), original)
    _originals.append((owner, name, original))
    setattr(owner, name, replacement)


def _restore() -> None:
    while _originals:
        owner, name, original = _originals.pop()
        setattr(owner, name, original)
    if _traced:
        names = ", ".join(sorted(_traced))
        _traced.clear()
        warnings.warn(
            f"mlx_graft.accelerate: compiled functions keep the kernels that they were traced "
            f"with, until they are compiled again: {names}",
            stacklevel=3,
        )


def _recording_compile(original: Callable[..., Any]) -> Callable[..., Any]:
    def compile_recorded(fun: Any, *args: Any, **kwargs: Any) -> Any:
        name = getattr(fun, "__qualname__", type(fun).__qualname__)

        # A compiled function calls this one only to trace it.
        @functools.wraps(fun)
        def traced(*args: Any, **kwargs: Any) -> Any:
            if _originals:
                _traced.add(name)
            return fun(*args, **kwargs)

        return original(traced, *args, **kwargs)

    return compile_recorded


def _with_originals(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls another one with MLX's own operations."""

    def plain(*args: Any, **kwargs: Any) -> Any:
        with _functions.paused():
            return fun(*args, **kwargs)

    return plain


def _exporting_originals(original: Callable[..., Any]) -> Callable[..., Any]:
    # The names of what follows are those of the function's inputs, which may be any.
    def export_function(file: Any, fun: Any, /, *args: Any, **kwargs: Any) -> Any:
        return original(file, _with_originals(fun), *args, **kwargs)

    return export_function


def _exporter_of_originals(original: Callable[..., Any]) -> Callable[..., Any]:
    def exporter(file: Any, fun: Any, **kwargs: Any) -> Any:
        return original(file, _with_originals(fun), **kwargs)

    return exporter
