"""Runs the operations of `mlx_graft.core` beside those of `mlx.core` and compares every bit.

`_cases.py` lists the operations and their arguments. Both sides run the same kernels of the same
library, so values, gradients and the types of exceptions must be equal. The tests of the
repository use it, and the self-test of an installed package, which has no pytest and no NumPy.
"""

from __future__ import annotations

import enum
import functools
import importlib
import importlib.util
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import mlx.core as mx

from mlx_graft import core

FLOATING = (mx.float16, mx.bfloat16, mx.float32, mx.float64)
INEXACT = (*FLOATING, mx.complex64)
SIGNED = (mx.int8, mx.int16, mx.int32, mx.int64)
UNSIGNED = (mx.uint8, mx.uint16, mx.uint32, mx.uint64)
DTYPES = (mx.bool_, *UNSIGNED, *SIGNED, *INEXACT)

# How far apart two results may be that ran in another order, as on a GPU: relative, absolute.
_TOLERANCE = {
    mx.float16: (5e-3, 5e-3),
    mx.bfloat16: (4e-2, 4e-2),
    mx.float32: (1e-5, 1e-5),
    mx.float64: (1e-12, 1e-12),
    mx.complex64: (1e-5, 1e-5),
}


class Maker:
    """Makes the arrays of a case, the same ones for the same dtype and seed.

    For gradients it hands out given arrays in the place of the ones that it would make.
    """

    def __init__(
        self, dtype: mx.Dtype, given: Sequence[mx.array] | None = None, seed: int = 7
    ) -> None:
        self.dtype = dtype
        self.given = given
        self.made: list[mx.array] = []
        self.random = random.Random(seed)

    def __call__(self, *shape: int) -> mx.array:
        """An array of the dtype under test."""
        return self._make(shape, self.dtype)

    def t(self, *shape: int) -> mx.array:
        """The same as a transposed view."""
        return mx.transpose(self._make(shape[::-1], self.dtype))

    def f32(self, *shape: int) -> mx.array:
        """An array of float32, whatever the dtype under test."""
        return self._make(shape, mx.float32)

    def fixed(self, *shape: int) -> mx.array:
        """An array of the dtype under test that gets no gradient."""
        return self._values(self.shape(shape), self.dtype)

    def index(self, below: int, *shape: int) -> mx.array:
        """Integers from 0 to before `below`."""
        return self._array(self.shape(shape), mx.int32, lambda: self.random.randrange(below))

    def mask(self, *shape: int) -> mx.array:
        """Booleans."""
        return self._array(self.shape(shape), mx.bool_, lambda: self.random.random() < 0.5)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an array for which a case says `shape`."""
        return shape

    def layout(self, array: mx.array) -> mx.array:
        """The same elements, laid out in memory in another way."""
        return array

    def number(self) -> float:
        """A real number; integers and booleans are made of it."""
        return self.random.gauss(0, 1)

    def _make(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        array = self._values(self.shape(shape), dtype)
        if dtype not in FLOATING:
            return self.layout(array)
        self.made.append(array)
        return self.layout(array if self.given is None else self.given[len(self.made) - 1])

    def _values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        if dtype == mx.bool_:
            return self._array(shape, dtype, lambda: self.number() > 0)
        if dtype in UNSIGNED:
            return self._array(shape, dtype, lambda: int(abs(_finite(self.number()) * 3)) % 128)
        if dtype in SIGNED:
            return self._array(shape, dtype, lambda: int(_finite(self.number()) * 3) % 256 - 128)
        if dtype == mx.complex64:
            return self._array(shape, dtype, lambda: complex(self.number(), self.number()))
        return self._array(shape, dtype, self.number)

    def _array(
        self, shape: tuple[int, ...], dtype: mx.Dtype, element: Callable[[], Any]
    ) -> mx.array:
        size = 1
        for length in shape:
            size *= length
        return mx.array([element() for _ in range(size)], dtype=dtype).reshape(shape)


def _finite(number: float) -> float:
    return number if abs(number) < 1e6 else 0.0


Case: TypeAlias = Callable[[Callable[..., Any], Any], Any]
MakeMaker: TypeAlias = Callable[..., Maker]
Outcome: TypeAlias = list[mx.array] | type[Exception]


@dataclass
class Op:
    """An operation and its cases: functions of it and of a maker of arrays."""

    name: str
    group: str
    cases: list[Case]
    bad: list[Case] = field(default_factory=list)
    numpy: list[Case] = field(default_factory=list)
    grad: bool = True
    #: Whether MLX has no kernel of it for CPUs.
    gpu: bool = False
    #: Further names of the operation.
    aliases: tuple[str, ...] = ()
    #: The C functions between which its arguments choose.
    c: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Adds the cases with arrays and numbers of NumPy, where it is installed."""
        if importlib.util.find_spec("numpy") is not None:
            self.cases = [*self.cases, *self.numpy]

    @property
    def ours(self) -> Callable[..., Any]:
        """The function of `mlx_graft.core`."""
        return _find("mlx_graft.core", self.name)

    @property
    def peer(self) -> Callable[..., Any]:
        """The function of `mlx.core`."""
        return _find("mlx.core", self.name)


class Verdict(enum.Enum):
    """How two results compare."""

    EQUAL = "equal"
    CLOSE = "within tolerance"
    FAILED = "failed"


@dataclass(frozen=True)
class Comparison:
    """One case, run on both sides."""

    where: str
    verdict: Verdict
    #: Whether `mlx.core` gave a result; otherwise both raised the same type of exception.
    worked: bool


def values(op: Op, case: Case, make: Callable[[], Maker], where: str) -> Comparison:
    """The results of a case."""
    expected = outcome(lambda: case(op.peer, make()))
    found = outcome(lambda: case(op.ours, make()))
    return comparison(where, expected, found)


def gradient(op: Op, case: Case, make: MakeMaker, where: str) -> Comparison | None:
    """The gradient through a case with respect to all its arrays; `None` if it has none."""
    maker = make()
    if isinstance(outcome(lambda: case(op.peer, maker)), type) or not maker.made:
        return None
    argnums = list(range(len(maker.made)))
    loss = functools.partial(_loss, case, make)
    expected, found = (
        outcome(lambda f=f: mx.grad(functools.partial(loss, f), argnums)(*maker.made))  # type: ignore[misc]
        for f in (op.peer, op.ours)
    )
    return comparison(where, expected, found)


def all_values(op: Op, dtypes: Sequence[mx.Dtype], seed: int = 7) -> Iterator[Comparison]:
    """Each case for each dtype."""
    for number, case in enumerate(op.cases):
        for dtype in dtypes:
            where = f"{op.name}, case {number}, {dtype}"
            yield values(op, case, functools.partial(Maker, dtype, seed=seed), where)


def all_gradients(op: Op, dtypes: Sequence[mx.Dtype], seed: int = 7) -> Iterator[Comparison]:
    """The gradient of each case for each dtype."""
    for number, case in enumerate(op.cases if op.grad else []):
        for dtype in dtypes:
            where = f"gradient of {op.name}, case {number}, {dtype}"
            found = gradient(op, case, functools.partial(Maker, dtype, seed=seed), where)
            if found is not None:
                yield found


def all_errors(op: Op, seed: int = 7) -> Iterator[Comparison]:
    """Wrong arguments, for which `mlx.core` raises."""
    for number, case in enumerate(op.bad):
        where = f"{op.name}, wrong case {number}"
        yield values(op, case, functools.partial(Maker, mx.float32, seed=seed), where)


def outcome(run: Callable[[], Any]) -> Outcome:
    """The arrays of a result, evaluated, or the type of the exception."""
    try:
        arrays = flat(run())
        # Hundreds of failures in `mx.eval` end in one that waits for ever.
        core.eval(arrays)
    except Exception as error:
        return type(error)
    return arrays


def compare(expected: Sequence[mx.array], found: Sequence[mx.array]) -> Verdict:
    """Compares arrays: dtypes, shapes, then every bit."""
    if [(a.dtype, a.shape) for a in expected] != [(a.dtype, a.shape) for a in found]:
        return Verdict.FAILED
    verdict = Verdict.EQUAL
    for left, right in zip(expected, found, strict=True):
        if raw(left) == raw(right):
            continue
        if left.dtype not in INEXACT:
            return Verdict.FAILED
        rtol, atol = _TOLERANCE[left.dtype]
        if not mx.allclose(left, right, rtol=rtol, atol=atol, equal_nan=True):
            return Verdict.FAILED
        verdict = Verdict.CLOSE
    return verdict


def comparison(where: str, expected: Outcome, found: Outcome) -> Comparison:
    """Compares two outcomes; equal are also two exceptions of one type."""
    if isinstance(expected, type) or isinstance(found, type):
        verdict = Verdict.EQUAL if expected == found else Verdict.FAILED
    else:
        verdict = compare(expected, found)
    if verdict is Verdict.FAILED:
        where = f"{where}: {found} instead of {expected}"
    return Comparison(where, verdict, worked=not isinstance(expected, type))


def raw(array: mx.array) -> bytes:
    """The elements of an array as bytes, in row-major order."""
    if array.size == 0:
        return b""
    return bytes(memoryview(mx.view(mx.contiguous(array).reshape(-1), mx.uint8)))  # type: ignore[arg-type]


def flat(result: Any) -> list[mx.array]:
    """The arrays of a result."""
    if result is None:
        return []
    return [result] if isinstance(result, mx.array) else list(result)


def _loss(case: Case, make: MakeMaker, f: Callable[..., Any], *inputs: mx.array) -> mx.array:
    """A weighted sum of the floating-point outputs, so that no two elements are alike."""
    total = mx.array(0.0)
    for output in flat(case(f, make(given=inputs))):
        if output.dtype in FLOATING:
            weights = mx.cos(mx.arange(output.size).reshape(output.shape))
            total = total + mx.sum(output.astype(mx.float32) * weights)
    return total


def _find(module: str, name: str) -> Callable[..., Any]:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]
