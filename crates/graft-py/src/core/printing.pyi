from contextlib import AbstractContextManager
from typing import final

@final
class PrintOptions:
    """How arrays are printed."""

    precision: int
    """The number of decimal places; -1 for as many as MLX sees fit."""

    def __new__(cls, precision: int = -1) -> PrintOptions: ...

def get_printoptions() -> PrintOptions:
    """The options in force, also for the arrays of `mlx.core`."""

def set_printoptions(precision: int = -1) -> None:
    """Sets the number of decimal places of printed numbers, also for the arrays of `mlx.core`."""

def printoptions(precision: int = -1) -> AbstractContextManager[object]:
    """A context manager in which numbers are printed with so many decimal places."""
