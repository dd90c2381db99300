"""Every operation of the table beside `mlx.core`: values, gradients and errors, bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import mlx.core as mx
import pytest

from mlx_graft import core
from mlx_graft.core._cases import OPS
from mlx_graft.core._parity import Op, Verdict, all_errors, all_gradients, all_values

DTYPES = [mx.bool_, mx.uint8, mx.int32, mx.float16, mx.bfloat16, mx.float32, mx.complex64]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_values(op: Op) -> None:
    worked = dict.fromkeys(range(len(op.cases)), 0)
    for position, found in enumerate(all_values(op, DTYPES)):
        assert found.verdict is Verdict.EQUAL, found.where
        worked[position // len(DTYPES)] += found.worked
    assert op.gpu or all(worked.values()), f"{op.name}: a case works for no dtype: {worked}"


@pytest.mark.parametrize("op", [op for op in OPS if op.aliases], ids=lambda op: op.name)
def test_aliases(op: Op) -> None:
    for alias in op.aliases:
        other = dataclasses.replace(op, name=alias)
        assert other.ours is op.ours
        assert all(found.verdict is Verdict.EQUAL for found in all_values(other, [mx.float32]))


@pytest.mark.parametrize("op", [op for op in OPS if op.grad], ids=lambda op: op.name)
def test_gradients(op: Op) -> None:
    found = list(all_gradients(op, [mx.float32, mx.bfloat16]))
    assert [gradient.where for gradient in found if gradient.verdict is not Verdict.EQUAL] == []
    assert any(gradient.worked for gradient in found), f"{op.name} has no gradient in any case"


@pytest.mark.parametrize("part", [0, 1], ids=["quotient", "remainder"])
def test_gradients_of_divmod(part: int) -> None:
    """Equal but for the signs of zeros, which are no part of MLX's answer."""
    a, b = mx.array([7.5, -7.5, 6.0, -0.25]), mx.array([2.0, 2.0, -4.0, 3.0])

    def gradients(op: Callable[..., Sequence[mx.array]]) -> list[mx.array]:
        return mx.grad(lambda a, b: op(a, b)[part].sum(), argnums=(0, 1))(a, b)

    for ours, theirs in zip(gradients(core.divmod), gradients(mx.divmod), strict=True):
        assert mx.array_equal(ours, theirs)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_errors(op: Op) -> None:
    for found in all_errors(op):
        assert not found.worked, f"{found.where}: mlx.core accepts it"
        assert found.verdict is Verdict.EQUAL, found.where
