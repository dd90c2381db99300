"""`convolve` and `einsum_path`, which mlx-c lacks, beside `mlx.core`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_graft.core as mc

RNG = np.random.default_rng(7)


def gradient(f: Any, a: mx.array, v: mx.array, mode: str) -> Any:
    """The gradient, or the type of the exception: MLX's fails for even filters and `same`."""
    try:
        return mx.grad(lambda a: f(a, v, mode).square().sum())(a).tolist()
    except ValueError as error:
        return type(error)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize(("n", "m"), [(7, 3), (7, 4), (3, 7), (1, 1), (5, 5), (6, 1), (2, 9)])
def test_convolve(n: int, m: int, mode: str) -> None:
    a, v = (mx.array(RNG.normal(size=size).astype(np.float32)) for size in (n, m))
    found = mc.convolve(a, v, mode)
    assert found.tolist() == mx.convolve(a, v, mode).tolist()
    expected = np.convolve(np.array(a), np.array(v), mode)
    # For an even filter MLX puts the middle part elsewhere than NumPy.
    if mode != "same" or min(n, m) % 2:
        np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-6)
    gradients = [gradient(f, a, v, mode) for f in (mx.convolve, mc.convolve)]
    assert gradients[0] == gradients[1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((mx.ones((2, 2)), mx.ones(2)), ValueError),
        ((mx.ones(0), mx.ones(2)), ValueError),
        ((mx.ones(2), mx.ones(2), "text"), ValueError),
        ((mx.ones(2), 1.0), TypeError),
    ],
)
def test_convolve_errors(arguments: Any, error: type[Exception]) -> None:
    for f in (mx.convolve, mc.convolve):
        with pytest.raises(error):
            f(*arguments)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij,jk", [(2, 3), (3, 4)]),
        ("ij,jk,kl->il", [(2, 30), (30, 4), (4, 50)]),
        ("ijk,ilm,njm,nlk,abc->", [(3, 4, 5), (3, 6, 7), (2, 4, 7), (2, 6, 5), (2, 2, 2)]),
        ("ii->i", [(3, 3)]),
        ("...ij,...jk", [(5, 2, 3), (5, 3, 4)]),
    ],
)
def test_einsum_path(subscripts: str, shapes: list[tuple[int, ...]]) -> None:
    operands = [mx.ones(shape) for shape in shapes]
    try:
        expected: Any = mx.einsum_path(subscripts, *operands)
    except ValueError:
        with pytest.raises(ValueError, match="einsum"):
            mc.einsum_path(subscripts, *operands)
        return
    assert mc.einsum_path(subscripts, *operands) == expected


def test_einsum_path_errors() -> None:
    with pytest.raises(ValueError, match="einsum"):
        mc.einsum_path("ij,jk", mx.ones((2, 3)))
    with pytest.raises(RuntimeError):
        mc.einsum_path("ij", 3)  # type: ignore[arg-type]
