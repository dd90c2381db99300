"""`kernels.quantized_matmul` against products with what `mx.dequantize` unpacks, in float64."""

from __future__ import annotations

import inspect
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_graft import core, kernels

FORMATS = [
    *(("affine", size, bits) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)),
    ("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4),
]  # fmt: skip
UNITS = {mx.float32: 2**-23, mx.bfloat16: 2**-8, mx.float16: 2**-11}


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), dtype=np.float64)


class Packed:
    """A quantized matrix, and as float64: its numbers, and how far codes and biases reach."""

    def __init__(self, mode: str, group_size: int, bits: int, shape: tuple[int, int]) -> None:
        self.options: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": mode}
        w = mx.random.normal(shape, key=mx.random.key(1))
        self.arrays = mx.quantize(w, **self.options)
        unpack = {**self.options, "dtype": mx.float32}
        self.numbers = wide(mx.dequantize(*self.arrays, **unpack))
        codes, *scales = self.arrays
        if mode == "affine":
            scales = [mx.abs(x) for x in scales]
        self.reach = abs(wide(mx.dequantize(codes, *scales, **unpack)))

    def __call__(self, x: mx.array, transpose: bool) -> mx.array:
        return kernels.quantized_matmul(x, *self.arrays, transpose=transpose, **self.options)


def check(found: mx.array, x: mx.array, numbers: np.ndarray, reach: np.ndarray) -> None:
    """Within K roundings of float32, relative to what is added, and one of the dtype.

    Numbers of 16 bits may be taken as multiples of 2⁻¹³ of the largest around them.
    """
    wanted, magnitudes = wide(x) @ numbers, abs(wide(x))
    bound = (x.shape[-1] + 2) * 2**-23 * (magnitudes @ reach) + UNITS[found.dtype] * abs(wanted)
    if found.dtype != mx.float32:
        bound += 2**-14 * magnitudes.max(-1, keepdims=True) * reach.sum(0)
    assert found.shape == wanted.shape
    assert (abs(wide(found) - wanted) <= bound).all()


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize(("mode", "group_size", "bits"), FORMATS)
def test_values_and_gradients(
    mode: str, group_size: int, bits: int, dtype: mx.Dtype, transpose: bool
) -> None:
    packed = Packed(mode, group_size, bits, (72, 384))
    if mode == "affine":
        packed.arrays = (packed.arrays[0], *(x.astype(mx.float32) for x in packed.arrays[1:]))
    numbers, reach = packed.numbers, packed.reach
    if transpose:
        numbers, reach = numbers.T, reach.T
    for rows in (1, 3, 17):
        x = mx.random.normal((rows, len(numbers)), key=mx.random.key(2)).astype(dtype)
        y, gradients = mx.vjp(lambda x: packed(x, transpose), [x], [packed(x, transpose)])
        by_mlx = mx.quantized_matmul(x, *packed.arrays, transpose=transpose, **packed.options)
        assert y[0].dtype == by_mlx.dtype
        check(y[0], x, numbers, reach)
        assert gradients[0].dtype == x.dtype
        check(gradients[0], y[0], numbers.T, reach.T)


def test_the_rest_of_mlx_traces_through() -> None:
    packed = Packed("affine", 64, 4, (40, 128))
    x = mx.random.normal((6, 5, 128), key=mx.random.key(3))
    expected = packed(x, True)
    compiled = mx.compile(lambda x: packed(x, True) * 2)
    assert mx.array_equal(compiled(x), expected * 2)
    for axis in (0, 1):
        found = mx.vmap(lambda x: packed(x, True), in_axes=axis, out_axes=axis)(x)
        assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert mx.array_equal(kernels.quantized_matmul(x, *packed.arrays, stream=mx.cpu), expected)


def test_arguments_and_errors_are_those_of_mlx() -> None:
    ours = inspect.signature(kernels.quantized_matmul)
    assert ours == inspect.signature(core.quantized_matmul)
    w, scales, biases = mx.quantize(mx.ones((8, 64)))
    for arguments in (
        (mx.ones((3, 65)), w, scales, biases),
        (mx.ones((3, 64)), w, scales),
        (mx.ones((3, 64)), w, scales, biases, False),
        (mx.ones((3, 64)), w, scales, biases, True, 32),
        (mx.ones((3, 64)), w, scales, biases, True, 64, 4, "mxfp4"),
        (mx.ones((3, 64)), w.astype(mx.int32), scales, biases),
    ):
        with pytest.raises(ValueError) as wanted:
            mx.quantized_matmul(*arguments)
        with pytest.raises(ValueError) as found:
            kernels.quantized_matmul(*arguments)
        assert str(found.value) == str(wanted.value)
