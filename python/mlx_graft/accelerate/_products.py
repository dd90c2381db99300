"""Functions that are products of matrices, as such."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_graft import kernels

__all__ = ["Contraction", "addmm", "adds_to_product", "contracted", "factor", "tensordot"]

Shape = Sequence[int]

# Factors of which float32 has all digits.
_SMALLEST, _LARGEST = 2.0**-126, 2.0**127


def adds_to_product(c: Shape, a: Shape, b: Shape) -> bool:
    """Whether an array of shape `c` is added to the product of matrices without enlarging it."""
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        return False
    try:
        shape = (*mx.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
        return tuple(mx.broadcast_shapes(c, shape)) == shape
    except ValueError:
        return False


def factor(value: Any) -> float | None:
    """Returns a factor as a float, or None if MLX is to take it.

    A factor that is 0 in float32 leaves out what it is multiplied with, infinities included.
    """
    if type(value) is not float:
        # float() would read text too.
        if not hasattr(value, "__float__"):
            return None
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError):
            return None
    return value if _SMALLEST <= abs(value) <= _LARGEST else None


def addmm(c: mx.array, a: mx.array, b: mx.array, alpha: float, beta: float) -> mx.array:
    """Computes `alpha * a @ b + beta * c` of floats."""
    dtype = c.dtype
    alike = a.dtype == dtype and b.dtype == dtype
    as_they_are = alike and alpha == beta == 1.0
    if not as_they_are and not (alike and dtype == mx.float32):
        # A product of 16 bits would be rounded, or overflow, before its factor and `c` meet it.
        c, a, b = (x.astype(mx.float32) for x in (c, a, b))
    product = kernels.matmul(a, b)
    if alpha != 1.0:
        product = alpha * product
    result = product + (c if beta == 1.0 else beta * c)
    return result.astype(dtype) if alike and not as_they_are else result


def contracted(a: Shape, b: Shape, axes: Any) -> tuple[list[int], list[int]] | None:
    """Returns the axes of both that `tensordot` sums over, or None if they do not fit."""
    try:
        pair = _axes_of_both(a, b, axes)
    except (IndexError, TypeError):
        return None
    if len(pair) != 2 or len(pair[0]) != len(pair[1]) or not pair[0]:
        return None
    for numbers, shape in zip(pair, (a, b), strict=True):
        if not all(-len(shape) <= axis < len(shape) for axis in numbers):
            return None
        numbers[:] = [axis % len(shape) for axis in numbers]
        if len(set(numbers)) != len(numbers):
            return None
    if any(a[i] != b[j] for i, j in zip(*pair, strict=True)):
        return None
    return pair[0], pair[1]


def _axes_of_both(a: Shape, b: Shape, axes: Any) -> list[list[int]]:
    """Returns what `tensordot` is told to sum over, none if it is more than there is."""
    try:
        count = operator.index(axes)
    except TypeError:
        return [[operator.index(axis) for axis in part] for part in axes]
    if not 0 < count <= min(len(a), len(b)):
        return []
    return [list(range(len(a) - count, len(a))), list(range(count))]


def tensordot(a: mx.array, b: mx.array, a_axes: list[int], b_axes: list[int]) -> mx.array:
    """Sums the products of two arrays over the given axes."""
    a_kept = [i for i in range(a.ndim) if i not in a_axes]
    b_kept = [i for i in range(b.ndim) if i not in b_axes]
    inner = math.prod(a.shape[i] for i in a_axes)
    rows, columns = ([x.shape[i] for i in kept] for x, kept in ((a, a_kept), (b, b_kept)))
    left = a.transpose(*a_kept, *a_axes).reshape(math.prod(rows), inner)
    right = b.transpose(*b_axes, *b_kept).reshape(inner, math.prod(columns))
    # As a list: MLX's process ends at a shape of no arguments.
    return kernels.matmul(left, right).reshape(rows + columns)


@dataclass
class Contraction:
    """An `einsum` of two operands that is a product of matrices."""

    a: str
    b: str
    out: str

    @classmethod
    def of(cls, subscripts: str, a: mx.array, b: mx.array) -> Contraction | None:
        """Returns what the subscripts say, or None if it is not such a product."""
        found = re.fullmatch(
            r"([A-Za-z]+),([A-Za-z]+)(?:->([A-Za-z]*))?", subscripts.replace(" ", "")
        )
        if found is None:
            return None
        left, right, out = found.groups()
        if out is None:
            out = "".join(sorted(x for x in left + right if (left + right).count(x) == 1))
        lengths: dict[str, int] = {}
        for labels, x in ((left, a), (right, b)):
            if len(set(labels)) != len(labels) or len(labels) != x.ndim:
                return None
            for label, length in zip(labels, x.shape, strict=True):
                if lengths.setdefault(label, length) != length:
                    return None
        summed = set(left + right) - set(out)
        in_both = set(left) & set(right)
        if len(set(out)) != len(out) or not set(out) <= set(lengths):
            return None
        return cls(left, right, out) if summed and summed <= in_both else None

    def compute(self, a: mx.array, b: mx.array) -> mx.array:
        """Multiplies the operands."""
        lengths = dict(zip(self.a + self.b, a.shape + b.shape, strict=True))
        batch = [x for x in self.out if x in self.a and x in self.b]
        inner = [x for x in self.a if x in self.b and x not in self.out]
        rows = [x for x in self.a if x not in self.b]
        columns = [x for x in self.b if x not in self.a]

        def size(labels: list[str]) -> int:
            return math.prod(lengths[x] for x in labels)

        def arrange(x: mx.array, labels: str, first: list[str], second: list[str]) -> mx.array:
            order = [labels.index(label) for label in batch + first + second]
            shape = [lengths[label] for label in batch]
            return x.transpose(*order).reshape(*shape, size(first), size(second))

        product = kernels.matmul(
            arrange(a, self.a, rows, inner), arrange(b, self.b, inner, columns)
        )
        labels = batch + rows + columns
        product = product.reshape([lengths[x] for x in labels])
        return product.transpose(*[labels.index(x) for x in self.out])
