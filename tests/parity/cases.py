"""Runs the operations of `mlx_graft.core` beside those of `mlx.core` and compares every bit.

`test_ops_generated.py` lists the operations and their arguments. Both sides run the same kernels
of the same library, so values, gradients and the types of exceptions must be equal.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

DTYPES = [mx.bool_, mx.uint8, mx.int32, mx.float16, mx.bfloat16, mx.float32, mx.complex64]
FLOATING = (mx.float16, mx.bfloat16, mx.float32)
NUMPY = {mx.bool_: np.bool_, mx.uint8: np.uint8, mx.int32: np.int32, mx.complex64: np.complex64}


class Maker:
    """Makes the arrays of a case, the same ones for the same dtype.

    For gradients it hands out given arrays in the place of the ones that it would make.
    """

    def __init__(self, dtype: mx.Dtype, given: list[mx.array] | None = None) -> None:
        self.dtype = dtype
        self.given = given
        self.made: list[mx.array] = []
        self.rng = np.random.default_rng(7)

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
        return self._values(shape, self.dtype)

    def index(self, below: int, *shape: int) -> mx.array:
        """Integers from 0 to before `below`."""
        return mx.array(self.rng.integers(0, below, shape), dtype=mx.int32)

    def mask(self, *shape: int) -> mx.array:
        """Booleans."""
        return mx.array(self.rng.integers(0, 2, shape).astype(bool))

    def _make(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        array = self._values(shape, dtype)
        if dtype not in FLOATING:
            return array
        self.made.append(array)
        return array if self.given is None else self.given[len(self.made) - 1]

    def _values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        values = self.rng.normal(size=shape)
        if dtype == mx.complex64:
            values = values + 1j * self.rng.normal(size=shape)
        elif dtype == mx.bool_:
            values = values > 0
        elif dtype == mx.uint8:
            values = np.abs(values * 3)
        elif dtype not in FLOATING:
            values = values * 3
        return mx.array(np.asarray(values, NUMPY.get(dtype, np.float32))).astype(dtype)


Case = Callable[[Callable[..., Any], Any], Any]


@dataclass
class Op:
    """An operation and its cases: functions of it and of a maker of arrays."""

    name: str
    cases: list[Case]
    bad: list[Case] = field(default_factory=list)
    grad: bool = True

    @property
    def ours(self) -> Callable[..., Any]:
        """The function of `mlx_graft.core`."""
        return _find("mlx_graft.core", self.name)

    @property
    def peer(self) -> Callable[..., Any]:
        """The function of `mlx.core`."""
        return _find("mlx.core", self.name)


def check_values(op: Op) -> None:
    """Each case gives the same bits, or the same type of exception, for each dtype."""
    peer, ours = op.peer, op.ours
    for number, case in enumerate(op.cases):
        worked = 0
        for dtype in DTYPES:
            expected = _outcome(lambda: case(peer, Maker(dtype)))  # noqa: B023
            found = _outcome(lambda: case(ours, Maker(dtype)))  # noqa: B023
            where = f"{op.name}, case {number}, {dtype}: {found} instead of {expected}"
            assert found == expected, where
            worked += not isinstance(expected, type)
        assert worked, f"{op.name}, case {number} works for no dtype"


def check_gradients(op: Op) -> None:
    """The gradient through each case has the same bits, for float32 and bfloat16."""
    peer, ours = op.peer, op.ours
    compared = 0
    for number, case in enumerate(op.cases):
        for dtype in (mx.float32, mx.bfloat16):
            maker = Maker(dtype)
            if isinstance(_outcome(lambda: case(peer, maker)), type):  # noqa: B023
                continue
            inputs = maker.made
            if not inputs:
                continue
            loss = functools.partial(_loss, case, dtype)
            argnums = list(range(len(inputs)))
            expected, found = (
                _outcome(lambda: mx.grad(functools.partial(loss, f), argnums)(*inputs))  # noqa: B023
                for f in (peer, ours)
            )
            assert found == expected, f"gradient of {op.name}, case {number}, {dtype}"
            compared += not isinstance(expected, type)
    assert compared, f"{op.name} has no gradient in any case"


def check_errors(op: Op) -> None:
    """Wrong arguments raise what `mlx.core` raises."""
    peer, ours = op.peer, op.ours
    for number, case in enumerate(op.bad):
        expected = _outcome(lambda: case(peer, Maker(mx.float32)))  # noqa: B023
        found = _outcome(lambda: case(ours, Maker(mx.float32)))  # noqa: B023
        assert isinstance(expected, type), f"{op.name}, wrong case {number}: mlx.core accepts it"
        assert found == expected, f"{op.name}, wrong case {number}"


def _loss(case: Case, dtype: mx.Dtype, f: Callable[..., Any], *inputs: mx.array) -> mx.array:
    """A weighted sum of the floating-point outputs, so that no two elements are alike."""
    total = mx.array(0.0)
    for output in _flat(case(f, Maker(dtype, list(inputs)))):
        if output.dtype in FLOATING:
            weights = mx.cos(mx.arange(output.size).reshape(output.shape))
            total = total + mx.sum(output.astype(mx.float32) * weights)
    return total


def _outcome(run: Callable[[], Any]) -> Any:
    """Dtype, shape and bytes of each output, or the type of the exception."""
    try:
        outputs = _flat(run())
        mx.eval(outputs)
    except Exception as error:
        return type(error)
    return [(str(a.dtype), a.shape, bytes(memoryview(_bytes(a)))) for a in outputs]


def _bytes(array: mx.array) -> Any:
    if array.size == 0:
        return b""
    return np.asarray(mx.view(mx.contiguous(array).reshape(-1), mx.uint8))


def _flat(result: Any) -> list[mx.array]:
    if result is None:
        return []
    if isinstance(result, mx.array):
        return [result]
    return list(result)


def _find(module: str, name: str) -> Callable[..., Any]:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
