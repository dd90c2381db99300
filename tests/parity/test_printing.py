"""Print options: those of `mlx.core` itself, so that arrays are printed alike."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest

from mlx_graft import core

ARRAYS = {
    "floats": mx.array([1 / 3, 2.5, -1e10, 0.0]),
    "halves": mx.array([1 / 3, 2.5], mx.float16),
    "brain": mx.array([1 / 3, 2.5], mx.bfloat16),
    "complex": mx.array([1 / 3 + 2j / 3]),
    "integers": mx.array([[1, 2], [3, 4]]),
    "booleans": mx.array([True, False]),
    "none": mx.zeros((0, 2)),
}


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    yield
    mx.set_printoptions()


@pytest.mark.parametrize("precision", [-1, 0, 2, 5, 12])
@pytest.mark.parametrize("name", ARRAYS)
def test_repr(name: str, precision: int) -> None:
    array = ARRAYS[name]
    mx.set_printoptions(precision)
    theirs = repr(array), str(array)
    mx.set_printoptions()
    core.set_printoptions(precision=precision)
    assert (repr(array), str(array)) == theirs
    assert core.get_printoptions().precision == mx.get_printoptions().precision == precision


def test_the_default_is_theirs() -> None:
    core.set_printoptions(3)
    core.set_printoptions()
    assert core.get_printoptions().precision == mx.get_printoptions().precision == -1
    assert core.PrintOptions().precision == mx.PrintOptions().precision == -1
    assert core.PrintOptions(precision=4).precision == mx.PrintOptions(precision=4).precision == 4


def test_a_scope_puts_back() -> None:
    x = mx.array(1 / 3)
    core.set_printoptions(5)
    with core.printoptions(2):
        assert str(x) == "array(0.33, dtype=float32)"
        with core.printoptions(precision=1):
            assert str(x) == "array(0.3, dtype=float32)"
        assert str(x) == "array(0.33, dtype=float32)"
    assert core.get_printoptions().precision == 5
    with pytest.raises(KeyError), core.printoptions(0):
        raise KeyError
    assert core.get_printoptions().precision == 5


@pytest.mark.parametrize("wrong", ["3", 2.5, 1 << 40])
def test_a_wrong_precision(wrong: object) -> None:
    for module in (mx, core):
        with pytest.raises((TypeError, OverflowError)):
            module.set_printoptions(wrong)
