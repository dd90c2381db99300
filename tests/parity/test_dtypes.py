"""Rules between dtypes and shapes, and limits of dtypes, beside `mlx.core`."""

from __future__ import annotations

import itertools
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft.core as mc
from mlx_graft.core._parity import DTYPES
from support.outcome import outcome

CATEGORIES = list(mx.DtypeCategory)
KINDS = [
    "bool",
    "signed integer",
    "unsigned integer",
    "integral",
    "real floating",
    "complex floating",
    "numeric",
]


def both(name: str, *arguments: Any) -> list[Any]:
    """What `mlx.core` and `mlx_graft.core` return, or the types of their exceptions."""
    return [outcome(getattr(module, name), *arguments) for module in (mx, mc)]


def test_promotion_of_each_pair() -> None:
    for a, b in itertools.product(DTYPES, DTYPES):
        assert mc.result_type(a, b) == mx.result_type(a, b), (a, b)
        assert mc.can_cast(a, b) is mx.can_cast(a, b), (a, b)
    some = (mx.ones(2, dtype=mx.int8), mx.uint8, mx.array(1.0, dtype=mx.float16))
    assert mc.result_type(*some) == mx.result_type(*some)
    assert mc.can_cast(some[0], mx.int32)


def test_categories_of_each_pair() -> None:
    for a, b in itertools.product([*DTYPES, *CATEGORIES], repeat=2):
        assert mc.issubdtype(a, b) is mx.issubdtype(a, b), (a, b)


def test_kinds_of_each_dtype() -> None:
    for dtype in DTYPES:
        for kind in [*KINDS, mx.int8, (mx.int8, "bool"), ()]:
            assert mc.isdtype(dtype, kind) is mx.isdtype(dtype, kind), (dtype, kind)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_limits(dtype: mx.Dtype) -> None:
    for name in ("finfo", "iinfo"):
        expected, found = both(name, dtype)
        if isinstance(expected, type):
            assert found is expected
            continue
        assert repr(found) == repr(expected)
        for attribute in ("bits", "min", "max", "eps", "smallest_normal", "dtype"):
            assert getattr(found, attribute, None) == getattr(expected, attribute, None), attribute


@pytest.mark.parametrize(
    "shapes",
    [
        [()],
        [(2, 3)],
        [(2, 1), (3,)],
        [(1,), (0,)],
        [(5, 1, 4), (3, 1), (1, 4), ()],
        [[2, 1], (1, 3)],
        [(2,), (3,)],
        [(2, 0), (2, 3)],
        [],
        [(2,), 5],
        [(2,), "text"],
    ],
)
def test_broadcast_shapes(shapes: list[Any]) -> None:
    expected, found = both("broadcast_shapes", *shapes)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("result_type", ()),
        ("result_type", (3,)),
        ("can_cast", (3, mx.int8)),
        ("can_cast", (mx.int8, 3)),
        ("issubdtype", (3, mx.int8)),
        ("issubdtype", (mx.int8, "int8")),
        ("isdtype", (mx.int8, "text")),
        ("isdtype", (mx.int8, 3)),
        ("isdtype", (3, "bool")),
        ("finfo", (3,)),
        ("iinfo", ("int8",)),
    ],
)
def test_errors(name: str, arguments: tuple[Any, ...]) -> None:
    expected, found = both(name, *arguments)
    assert isinstance(expected, type)
    assert found is expected


def test_shared_names_are_those_of_mlx() -> None:
    for name in ("array", "Dtype", "DtypeCategory", "Device", "Stream", "float32", "pi", "newaxis"):
        assert getattr(mc, name) is getattr(mx, name)
    assert mc.asarray([1, 2]).tolist() == [1, 2]
    assert mc.from_dlpack(mx.array([1.5])).tolist() == [1.5]
