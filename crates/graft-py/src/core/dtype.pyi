from collections.abc import Sequence
from typing import final

from mlx.core import Dtype, DtypeCategory, array

@final
class finfo:
    """The limits of a floating-point dtype; those of the parts for a complex one.

    Raises: The dtype is no floating-point one.
    """

    def __new__(cls, dtype: Dtype, /) -> finfo: ...
    @property
    def bits(self) -> int:
        """The bits of a number."""
    @property
    def min(self) -> float:
        """The smallest number."""
    @property
    def max(self) -> float:
        """The largest number."""
    @property
    def eps(self) -> float:
        """The distance from 1 to the next larger number."""
    @property
    def smallest_normal(self) -> float:
        """The smallest positive number of full precision."""
    @property
    def dtype(self) -> Dtype:
        """The dtype of the numbers: float32 for complex64."""

@final
class iinfo:
    """The limits of an integer dtype.

    Raises: The dtype is no integer one.
    """

    def __new__(cls, dtype: Dtype, /) -> iinfo: ...
    @property
    def min(self) -> int:
        """The smallest number."""
    @property
    def max(self) -> int:
        """The largest number."""
    @property
    def dtype(self) -> Dtype:
        """The dtype of the numbers."""

def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape to which arrays of the given shapes broadcast.

    Raises: Two lengths differ and neither is 1, or there is no shape.
    """

def can_cast(from_: array | Dtype, to: Dtype) -> bool:
    """Whether promoting both dtypes gives `to`."""

def isdtype(dtype: Dtype, kind: Dtype | str | tuple[Dtype | str, ...]) -> bool:
    """Whether a dtype is of a kind: another dtype, a name of the array API, or one of a tuple.

    The names are `bool`, `signed integer`, `unsigned integer`, `integral`, `real floating`,
    `complex floating` and `numeric`.

    Raises: The name is unknown.
    """

def issubdtype(arg1: Dtype | DtypeCategory, arg2: Dtype | DtypeCategory, /) -> bool:
    """Whether a dtype or category is part of another."""

def result_type(*arrays_and_dtypes: array | Dtype) -> Dtype:
    """The dtype to which all arguments are promoted.

    Raises: There is no argument, or one is neither an array nor a dtype.
    """
