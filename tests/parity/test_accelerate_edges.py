"""Arguments that are seldom passed give with `accelerate()` what MLX gives without: values, dtypes,
errors and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_graft import kernels
from support.accelerated import TOLERANCE, accelerated, numbers

INF, NAN = float("inf"), float("nan")


def outcome(call: Callable[[], mx.array]) -> mx.array | tuple[type, str]:
    try:
        found = call()
        mx.eval(found)
    except Exception as error:
        # What was passed follows, by its place or by its name.
        return type(error), str(error).partition("\n")[0]
    return found


def assert_same(call: Callable[[], mx.array], wanted: Callable[[], mx.array] | None = None) -> None:
    """Asserts that a call does what it, or another, does without the native operations."""
    theirs = outcome(wanted or call)
    like = outcome(call)
    with accelerated():
        ours = outcome(call)
    if isinstance(like, tuple):
        assert ours == like
        return
    assert isinstance(ours, mx.array), ours
    assert (ours.dtype, ours.shape) == (like.dtype, like.shape)
    tolerance = TOLERANCE[ours.dtype]
    x, y = (np.array(z.astype(mx.float32)) for z in (ours, theirs))
    np.testing.assert_allclose(x, y, tolerance, tolerance)


# Sums and products

A, B, C = numbers(1, 4, 5), numbers(2, 5, 6), numbers(3, 6)
HALVES = [x.astype(mx.float16) for x in (C, A, B)]
NARROW = [x.astype(mx.bfloat16) for x in (C, A, B)]
WHOLE = mx.ones((2, 2), mx.int32)
ADDMM: dict[str, Callable[[], mx.array]] = {
    "of a dtype that is promoted": lambda: mx.addmm(
        mx.zeros((1, 1)),
        mx.array([[1, 1]], mx.bfloat16),
        mx.array([[1], [2**-8]], mx.bfloat16),
    ),
    "of three dtypes": lambda: mx.addmm(HALVES[0], NARROW[1], B, alpha=0.5),
    "of halves, and a float": lambda: mx.addmm(C, *HALVES[1:]),
    "of whole numbers": lambda: mx.addmm(mx.ones((2, 2)), WHOLE, WHOLE),
    "of nothing but whole numbers": lambda: mx.addmm(WHOLE, WHOLE, WHOLE),
    "of whole numbers and halves": lambda: mx.addmm(
        mx.array(3), mx.ones((2, 2), mx.float16), mx.ones((2, 2), mx.float16), beta=0.5
    ),
    "beyond halves": lambda: mx.addmm(
        mx.zeros((1, 1, 1), mx.float16),
        mx.full((1, 1, 16), 100, mx.float16),
        mx.full((1, 16, 1), 100, mx.float16),
        alpha=0.01,
    ),
    "without c": lambda: mx.addmm(mx.array([[NAN]]), mx.ones((1, 4)), mx.ones((4, 1)), beta=0),
    "without the product": lambda: mx.addmm(
        mx.ones((1, 1)), mx.array([[INF, 1]]), mx.ones((2, 1)), alpha=0
    ),
    "without either": lambda: mx.addmm(C, A, B, alpha=0, beta=0),
    "of nothing": lambda: mx.addmm(C, A[:, :0], B[:0], alpha=2, beta=3),
}
FACTORS = [
    np.float64(0.5),
    np.float32(0.5),
    np.int64(2),
    True,
    3,
    -2.5,
    mx.array(0.5),
    1e-50,
    1e300,
    NAN,
    10**400,
    "2",
    b"2",
    None,
]


@pytest.mark.parametrize("name", ADDMM)
def test_addmm(name: str) -> None:
    assert_same(ADDMM[name])


@pytest.mark.parametrize(
    "factor", FACTORS, ids=lambda factor: f"{type(factor).__name__}-{factor}"[:20]
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_factors_of_addmm(dtype: mx.Dtype, factor: Any) -> None:
    c, a, b = (x.astype(dtype) for x in (C, A, B))
    assert_same(lambda: mx.addmm(c, a, b, factor))
    assert_same(lambda: mx.addmm(c, a, b, beta=factor))


@pytest.mark.parametrize("dtypes", [(mx.float32,) * 3, (mx.float32, mx.bfloat16, mx.float16)])
@pytest.mark.parametrize("argument", range(3))
def test_gradients_of_addmm(argument: int, dtypes: tuple[mx.Dtype, ...]) -> None:
    arrays = [x.astype(dtype) for x, dtype in zip((C, A, B), dtypes, strict=True)]

    def loss(*arrays: mx.array) -> mx.array:
        c, a, b = arrays
        return mx.addmm(c, a, b, alpha=np.float64(0.5), beta=2).square().sum()

    wide = [x.astype(mx.float32) for x in arrays]
    assert_same(
        lambda: mx.grad(loss, argument)(*arrays),
        lambda: mx.grad(loss, argument)(*wide),
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_layer_with_a_bias_is_native(dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    native, seen = kernels.matmul, []
    monkeypatch.setattr(
        kernels, "matmul", lambda a, b: seen.append((a.dtype, b.dtype)) or native(a, b)
    )
    layer = nn.Linear(5, 6)
    layer.set_dtype(dtype)
    with accelerated():
        layer(A.astype(dtype))
    assert seen == [(dtype, dtype)]


# Numbers of NumPy

AXES = [
    np.int64(-1),
    np.int32(0),
    np.array(1),
    np.array([1]),
    [np.int64(1)],
    (np.int64(0), 1),
    True,
    1.0,
    [1.0],
    "a",
    [],
    mx.array(1),
    mx.array([1]),
]
OF_AXES = {
    "softmax": mx.softmax,
    "logsumexp": mx.logsumexp,
    "method": lambda x, axis: x.logsumexp(axis),
}


@pytest.mark.parametrize("axis", AXES, ids=repr)
@pytest.mark.parametrize("name", OF_AXES)
def test_axes(name: str, axis: Any) -> None:
    def call() -> mx.array:
        function = {**OF_AXES, "softmax": mx.softmax, "logsumexp": mx.logsumexp}[name]
        return function(A, axis)

    assert_same(call)


SUMMED = [
    np.int64(1),
    np.array(1),
    [[np.int64(-1)], [np.int64(0)]],
    np.array([[1], [0]]),
    True,
    1.0,
    [[1.0], [0]],
    [1, 0],
    "ab",
    None,
    mx.array(1),
    mx.array([[1], [0]]),
]


@pytest.mark.parametrize("axes", SUMMED, ids=repr)
def test_summed_axes(axes: Any) -> None:
    assert_same(lambda: mx.tensordot(A, B, axes))


def test_numbers_of_numpy_as_axes_are_native(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in ("softmax", "logsumexp", "matmul"):
        native = getattr(kernels, name)
        monkeypatch.setattr(
            kernels,
            name,
            lambda *x, name=name, native=native, **rest: called.append(name) or native(*x, **rest),
        )
    with accelerated():
        mx.softmax(A, axis=np.int64(-1))
        mx.logsumexp(A, axis=[np.int64(1)])
        mx.tensordot(A, B, np.int64(1))
    assert called == ["softmax", "logsumexp", "matmul"]


# Derivatives


@mx.custom_function
def rounded(x: mx.array) -> mx.array:
    """The nearest whole numbers, whose derivative is taken to be that of `x`, in float32."""
    return mx.round(x)


@rounded.vjp
def _(_x: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
    return mx.array(1.0) * cotangent


@mx.custom_function
def widely(x: mx.array) -> mx.array:
    """`x`, whose tangent is of float32."""
    return x * 1


@widely.jvp
def _(_x: mx.array, tangent: mx.array) -> mx.array:
    return mx.array(1.0) * tangent


Q = numbers(4, 1, 2, 3, 8, dtype=mx.bfloat16)
WEIGHT = mx.ones(8, mx.bfloat16)
EXPERTS = numbers(5, 2, 8, 3)
PACKED = [
    x if x.dtype == mx.uint32 else x.astype(mx.bfloat16) for x in mx.quantize(numbers(6, 5, 64))
]
NATIVE: dict[str, tuple[Callable[[mx.array], mx.array], mx.array]] = {
    "matmul": (lambda x: x @ mx.ones((8, 3), x.dtype), Q[0, 0]),
    "matmul, other": (lambda x: mx.ones((2, 3), x.dtype) @ x, Q[0, 0]),
    "gather_mm": (
        lambda x: mx.gather_mm(
            x[0, :, None], EXPERTS.astype(x.dtype), rhs_indices=mx.array([[0, 1, 1], [1, 0, 0]])
        ),
        Q,
    ),
    "quantized_matmul": (
        lambda x: mx.quantized_matmul(x, *PACKED),
        numbers(7, 3, 64, dtype=mx.bfloat16),
    ),
    "attention": (lambda x: mx.fast.scaled_dot_product_attention(x, x, x, scale=0.3), Q),
    "softmax": (lambda x: mx.softmax(x, axis=-1), Q),
    "logsumexp": (lambda x: mx.logsumexp(x, axis=-1), Q),
    "rms_norm": (lambda x: mx.fast.rms_norm(x, WEIGHT.astype(x.dtype), 1e-5), Q),
    "layer_norm": (lambda x: mx.fast.layer_norm(x, WEIGHT.astype(x.dtype), None, 1e-5), Q),
    "rope": (
        lambda x: mx.fast.rope(x, 8, traditional=False, base=1e4, scale=1.0, offset=2),
        Q,
    ),
}


def close(found: mx.array, wanted: mx.array, tolerance: float) -> None:
    x, y = (np.array(z.astype(mx.float32)) for z in (found, wanted))
    np.testing.assert_allclose(x, y, tolerance, tolerance)


@pytest.mark.parametrize("name", NATIVE)
def test_derivatives_of_another_dtype(name: str) -> None:
    """A custom derivative may be wider than what it belongs to, which MLX hands on as it is."""
    function, x = NATIVE[name]

    def backwards(x: mx.array) -> mx.array:
        return mx.grad(lambda x: rounded(3 * function(x)).sum())(x)

    def forwards(x: mx.array) -> mx.array:
        return mx.jvp(lambda x: function(widely(x)), [x], [mx.ones_like(x)])[1][0]

    # MLX has no tangents of its `gather_mm`.
    derivatives = [backwards] if name == "gather_mm" else [backwards, forwards]
    # The normalisations of MLX refuse a cotangent of another dtype, so the peer is one of float32.
    wanted = [derivative(x.astype(mx.float32)) for derivative in derivatives]
    mx.eval(wanted)
    with accelerated():
        found = [derivative(x) for derivative in derivatives]
        mx.eval(found)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == mx.bfloat16
        close(ours, theirs, 6e-2)


def test_gradient_of_frequencies() -> None:
    x, freqs = numbers(1, 2, 3, 5, 10), mx.array([1.0, 3.0, 10.0, 100.0])

    def rotated(x: mx.array, freqs: mx.array, traditional: bool) -> mx.array:
        return mx.fast.rope(
            x, 8, traditional=traditional, base=None, scale=0.5, offset=3, freqs=freqs
        )

    def run() -> list[mx.array]:
        results = []
        for traditional in (False, True):

            def once(x: mx.array, freqs: mx.array, traditional: bool = traditional) -> mx.array:
                return rotated(x, freqs, traditional)

            def loss(x: mx.array, freqs: mx.array, once: Any = once) -> mx.array:
                return (once(x, freqs) * numbers(2, *x.shape)).square().sum()

            def slope(x: mx.array, freqs: mx.array, loss: Any = loss) -> mx.array:
                return sum(y.square().sum() for y in mx.grad(loss, (0, 1))(x, freqs))

            results += mx.grad(loss, (0, 1))(x, freqs)
            results += mx.grad(slope, (0, 1))(x, freqs)
            results += mx.jvp(once, [x, freqs], [x, freqs])[1]
            results += mx.jvp(lambda freqs, once=once: once(x, freqs), [freqs], [freqs])[1]
            stack = mx.stack([freqs, 2 * freqs, 5 * freqs])
            results.append(mx.vmap(once, (None, 0))(x, stack))
            results.append(mx.vmap(once, (2, 0))(mx.stack([x, -x, 2 * x], 2), stack))
            results.append(
                mx.vmap(lambda y, z, loss=loss: mx.grad(loss, 1)(y, z), (None, 0))(x, stack)
            )
        mx.eval(results)
        return results

    wanted = run()
    with accelerated():
        found = run()
    for i, (x, y) in enumerate(zip(found, wanted, strict=True)):
        assert x.shape == y.shape, i
        scale = max(1.0, mx.abs(y).max().item())
        close(x / scale, y / scale, 1e-4)


# Cross-entropy

LOGITS: list[tuple[list[list[float]], list[int]]] = [
    ([[0, 1, 2], [0, 1, 2], [3, 1, 0]], [-1, -3, 1]),
    ([[0, INF, 2]], [0]),
    ([[0, INF, 2]], [1]),
    ([[INF, INF, 0]], [2]),
    ([[-INF, -INF]], [0]),
    ([[-INF, 0]], [0]),
    ([[-INF, 0]], [1]),
    ([[NAN, 1, 2]], [1]),
    ([[INF, NAN, 2]], [2]),
]


@pytest.mark.parametrize(("logits", "targets"), LOGITS, ids=str)
def test_cross_entropy(logits: list[list[float]], targets: list[int]) -> None:
    x, t = mx.array(logits, mx.float32), mx.array(targets)
    assert_same(lambda: mx.fast.cross_entropy(x, t))
    assert_same(lambda: mx.grad(lambda x: mx.fast.cross_entropy(x, t).sum())(x))


# Views of bytes


def bytes_at(offset: int, x: np.ndarray) -> mx.array:
    """The bytes of numbers, `offset` bytes behind the beginning of a buffer."""
    return mx.array(np.frombuffer(b"\0" * offset + x.tobytes(), np.uint8))[offset:]


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
def test_numbers_that_start_anywhere(dtype: mx.Dtype, offset: int) -> None:
    values = np.arange(24).astype(np.float32 if dtype == mx.float32 else np.float16)
    w = bytes_at(offset, values).view(dtype).reshape(4, 6)
    one = mx.ones((6, 2), dtype)
    assert_same(lambda: w @ one)
    # By strides: transposed, reversed, broadcast and with gaps.
    assert_same(lambda: w.T @ one[:4])
    assert_same(lambda: w[::-1, ::-2] @ one[:3])
    assert_same(lambda: mx.broadcast_to(w, (3, 4, 6)) @ one)
    assert_same(lambda: w[:, 1] @ one[:4])
    assert_same(lambda: mx.softmax(w / 8, axis=-1))
    assert_same(lambda: mx.fast.rms_norm(w, w[0], 1e-5))


def test_packed_words_that_start_anywhere() -> None:
    w, *rest = mx.quantize(numbers(1, 8, 64))
    raw = bytes_at(1, np.array(w))
    words = raw.view(mx.uint32).reshape(w.shape)
    x = numbers(2, 3, 64)
    assert_same(lambda: mx.quantized_matmul(x, words, *rest))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
def test_derivatives_of_attention_to_nothing(dtype: mx.Dtype) -> None:
    """The second query sees no key, as in a row of padding."""
    q, k, v = (
        x.astype(dtype) for x in (numbers(1, 1, 2, 4), numbers(2, 1, 2, 4), numbers(3, 1, 2, 4))
    )
    q, k, v = (x[None] for x in (q, k, v))
    mask = mx.array([[True, True], [False, False]])

    def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5, mask=mask)

    def square(*inputs: mx.array) -> mx.array:
        return (attend(*inputs).astype(mx.float32) ** 2).sum()

    def slope(v: mx.array) -> mx.array:
        return mx.grad(square, argnums=1)(q, k, v).astype(mx.float32).sum()

    assert_same(lambda: mx.jvp(attend, [q, k, v], [k, v, q])[1][0])
    assert_same(lambda: mx.grad(slope)(v))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_gradients_of_broadcast_factors_are_summed_in_float32(dtype: mx.Dtype) -> None:
    """MLX sums them in 16 bits, which stop to grow."""
    a, matrix = mx.ones((4096, 1, 1), dtype), mx.ones((1, 1, 1), dtype)
    packed = mx.quantize(mx.ones((1, 32, 32), dtype), group_size=32, bits=8)
    x = mx.ones((1, 1, 32), dtype)
    stacks = [mx.repeat(part, 128, axis=0) for part in packed]

    def product(x: mx.array) -> mx.array:
        return mx.quantized_matmul(x, *stacks, group_size=32, bits=8).sum()

    with accelerated():
        assert mx.grad(lambda b: mx.matmul(a, b).sum())(matrix).item() == 4096
        assert (
            mx.grad(lambda a: mx.matmul(a, mx.ones((4096, 1, 1), dtype)).sum())(matrix).item()
            == 4096
        )
        assert mx.grad(product)(x).tolist() == [[[4096.0] * 32]]


@pytest.mark.parametrize("offset", [2**31, -(2**31) - 1, True])
def test_offsets_that_are_rare(offset: int) -> None:
    assert_same(
        lambda: mx.fast.rope(A[None], 4, traditional=False, base=1e4, scale=1.0, offset=offset)
    )
