"""`kernels.gather_mm` and `gather_qmm` against products of gathered matrices in float64."""

from __future__ import annotations

import inspect
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_graft as mg
from mlx_graft import core, kernels

FORMATS = [
    ("affine", 64, 4),
    ("affine", 32, 3),
    ("mxfp4", 32, 4),
    ("mxfp8", 32, 8),
    ("nvfp4", 16, 4),
]
# How far results may be off, relative to the largest number wanted.
TOLERANCE = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 2e-2}


def numbers(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return mx.array(values).astype(dtype)


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), dtype=np.float64)


def picks(seed: int, shape: tuple[int, ...], count: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).integers(0, count, shape).astype(np.uint32))


def assert_close(found: mx.array, wanted: np.ndarray, tolerance: float) -> None:
    assert found.shape == wanted.shape
    assert abs(wide(found) - wanted).max() <= tolerance * max(1.0, abs(wanted).max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 6, 70])
def test_values_and_gradients(tokens: int, dtype: mx.Dtype) -> None:
    x, w = numbers(1, tokens, 1, 1, 65, dtype=dtype), numbers(2, 5, 33, 65, dtype=dtype)
    experts = picks(3, (tokens, 2), 5)
    g = numbers(4, tokens, 2, 1, 33, dtype=dtype)

    def product(x: mx.array, w: mx.array) -> mx.array:
        return kernels.gather_mm(x, w.swapaxes(-1, -2), rhs_indices=experts)

    (y,), (dx, dw) = mx.vjp(product, [x, w], [g])
    assert y.dtype == dx.dtype == dw.dtype == dtype
    picked = wide(w)[np.array(experts)]
    assert_close(y, wide(x) @ picked.swapaxes(-1, -2), TOLERANCE[dtype])
    assert_close(dx, (wide(g) @ picked).sum(1, keepdims=True), TOLERANCE[dtype])
    wanted = np.zeros(w.shape)
    np.add.at(wanted, np.array(experts), wide(g).swapaxes(-1, -2) @ wide(x))
    assert_close(dw, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("mode", "group_size", "bits"), FORMATS)
def test_packed(mode: str, group_size: int, bits: int, dtype: mx.Dtype, transpose: bool) -> None:
    options: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": mode}
    packed = mx.quantize(numbers(1, 4, 72, 128), **options)
    w = wide(mx.dequantize(*packed, **options, dtype=mx.float32))
    if transpose:
        w = w.swapaxes(-1, -2)
    for tokens in (1, 50):
        experts = picks(3, (tokens, 2), 4)
        x = numbers(2, tokens, 1, 1, w.shape[1], dtype=dtype)

        def product(x: mx.array, experts: mx.array = experts) -> mx.array:
            return kernels.gather_qmm(
                x, *packed, rhs_indices=experts, transpose=transpose, **options
            )

        (y,), (dx,) = mx.vjp(product, [x], [product(x)])
        assert dx.dtype == dtype
        picked = w[np.array(experts)]
        assert_close(y, wide(x) @ picked, TOLERANCE[dtype])
        wanted = (wide(y) @ picked.swapaxes(-1, -2)).sum(1, keepdims=True)
        assert_close(dx, wanted, TOLERANCE[dtype])


def test_the_rest_of_mlx_traces_through() -> None:
    x, w, experts = numbers(1, 6, 1, 64), numbers(2, 3, 64, 40), picks(3, (6,), 3)
    packed = mx.quantize(w.swapaxes(-1, -2), group_size=32)

    def dense(x: mx.array, experts: mx.array) -> mx.array:
        return kernels.gather_mm(x, w, rhs_indices=experts)

    def quantized(x: mx.array, experts: mx.array) -> mx.array:
        return kernels.gather_qmm(x, *packed, rhs_indices=experts, group_size=32, stream=mx.cpu)

    for product in (dense, quantized):
        wanted = product(x, experts)
        doubled = mx.compile(lambda x, experts, f=product: 2 * f(x, experts))
        assert mx.array_equal(doubled(x, experts), 2 * wanted)
        mapped = mx.vmap(product)(mx.stack([x, -x]), mx.stack([experts, experts]))
        assert mx.allclose(mapped, mx.stack([wanted, -wanted]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gather_mm", "gather_qmm"])
def test_arguments_are_those_of_mlx(name: str) -> None:
    assert inspect.signature(getattr(kernels, name)) == inspect.signature(getattr(core, name))


def test_an_index_out_of_range_is_an_error() -> None:
    x, w = numbers(1, 2, 1, 64), numbers(2, 3, 8, 64)
    packed = mx.quantize(w)
    for wrong in (mx.array([0, 3]), mx.array([-1, 0])):
        with pytest.raises(RuntimeError, match="out of range"):
            mx.eval(kernels.gather_mm(x, w.swapaxes(1, 2), rhs_indices=wrong))
        with pytest.raises(RuntimeError, match="out of range"):
            mx.eval(kernels.gather_qmm(x, *packed, rhs_indices=wrong))


@pytest.mark.parametrize("bits", [None, 4], ids=["float32", "4-bit"])
@pytest.mark.parametrize("tokens", [3, 40])
def test_a_layer_of_mlx_lm(tokens: int, bits: int | None) -> None:
    """Experts of mlx-lm, sorted and not, values and gradients, with `accelerate()`."""
    layers = pytest.importorskip("mlx_lm.models.switch_layers")
    mx.random.seed(0)
    layer = layers.SwitchGLU(64, 96, 5)
    x, experts = numbers(1, 1, tokens, 64), picks(2, (1, tokens, 2), 5)
    packed = {}
    for name in ("gate_proj", "up_proj", "down_proj") if bits is not None else ():
        packed[name] = layer[name].to_quantized(group_size=32, bits=bits)
        arrays = packed[name].weight, packed[name].scales, packed[name].biases
        layer[name].weight = mx.dequantize(*arrays, 32, bits)

    def loss(x: mx.array) -> mx.array:
        return layer(x, experts).square().sum()

    wanted = mx.value_and_grad(loss)(x)
    mx.eval(wanted)
    layer.update_modules(packed)
    mg.accelerate()
    try:
        found = mx.value_and_grad(loss)(x)
        mx.eval(found)
    finally:
        mg.accelerate(False)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, wide(b), 1e-4)
