"""What a call comes to, to be compared with the same call of `mlx.core`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns, or the type of its exception."""
    try:
        return call(*arguments)
    except Exception as error:
        return type(error)
