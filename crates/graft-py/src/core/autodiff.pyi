from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from mlx.core import array

_P = ParamSpec("_P")
_R = TypeVar("_R")

def grad(
    fun: Callable[_P, Any],
    argnums: int | Sequence[int] | None = None,
    argnames: str | Sequence[str] = [],
) -> Callable[_P, Any]:
    """A function that returns the gradient of `fun` with respect to the arguments chosen: by
    default the first.

    `fun` returns a scalar array. A single number gives a tree like that argument, several give a
    tuple; names give a tuple of that and a dict by name.
    """

def value_and_grad(
    fun: Callable[_P, _R],
    argnums: int | Sequence[int] | None = None,
    argnames: str | Sequence[str] = [],
) -> Callable[_P, tuple[_R, Any]]:
    """A function that returns what `fun` returns, and the gradient as `grad` gives it.

    `fun` returns a scalar array, or a tuple that begins with one.
    """

def vjp(
    fun: Callable[..., Any], primals: Sequence[array], cotangents: Sequence[array]
) -> tuple[list[array], list[array]]:
    """What `fun` returns at `primals`, and the products of the cotangents with its Jacobian."""

def jvp(
    fun: Callable[..., Any], primals: Sequence[array], tangents: Sequence[array]
) -> tuple[list[array], list[array]]:
    """What `fun` returns at `primals`, and the products of its Jacobian with the tangents."""
