"""Results with `accelerate()` are those without: values, gradients, models and a step of training.

The peer is MLX's own operation on the same numbers in float32, so that 16-bit results are held
against better ones than MLX's.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

import mlx_graft as mg
from mlx_graft import kernels
from support.accelerated import TOLERANCE, accelerated, numbers

Function = Callable[..., mx.array]

DTYPES = [pytest.param(dtype, id=str(dtype).removeprefix("mlx.core.")) for dtype in TOLERANCE]


def assert_close(found: mx.array, wanted: mx.array, tolerance: float, what: str = "") -> None:
    assert found.shape == wanted.shape, what
    found, wanted = found.astype(mx.float32), wanted.astype(mx.float32)
    if wanted.size == 0:
        return
    # Where terms cancel, what is left is their rounding: the terms are of the size of the inputs.
    bound = tolerance * max(1e-3, mx.abs(wanted).max().item())
    error = mx.abs(found - wanted).max().item()
    assert error <= bound, f"{what}: off by {error}, allowed are {bound}"


@dataclass
class Case:
    """A call of a replaced name; those of the arrays that are no floats have no gradient."""

    function: Function
    shapes: list[tuple[int, ...]]
    native: str
    fixed: tuple[mx.array, ...] = ()


def attention(**options: Any) -> Function:
    return lambda q, k, v, *mask: mx.fast.scaled_dot_product_attention(
        q, k, v, scale=0.3, **({"mask": mask[0]} if mask else {}), **options
    )


def rope(**options: Any) -> Function:
    known = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 0}
    return lambda x, *freqs: mx.fast.rope(
        x, 6, freqs=freqs[0] if freqs else None, **{**known, **options}
    )


QKV = [(2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6)]
VISIBLE = mx.arange(35).reshape(5, 7) % 3 != 1
EXPERTS = mx.array([[0, 1], [3, 1], [2, 2], [1, 0], [1, 3], [1, 2]])
PACKED = mx.quantize(numbers(9, 4, 8, 64), group_size=64, bits=4)
ATTENTION, ROPE = "scaled_dot_product_attention", "rope"
CASES: dict[str, Case] = {
    "matmul of matrices": Case(lambda a, b: mx.matmul(a, b), [(7, 13), (13, 5)], "matmul"),
    "matmul of vectors": Case(lambda a, b: mx.matmul(a, b), [(13,), (13,)], "matmul"),
    "matmul of stacks": Case(lambda a, b: mx.matmul(a, b), [(2, 1, 3, 5), (4, 5, 6)], "matmul"),
    "matmul of transposed": Case(lambda a, b: mx.matmul(a.T, b.T), [(5, 7), (3, 5)], "matmul"),
    "matmul of nothing": Case(lambda a, b: mx.matmul(a, b), [(3, 0), (0, 4)], "matmul"),
    "@": Case(lambda a, b: a @ b, [(33, 65), (65, 17)], "matmul"),
    "addmm": Case(lambda c, a, b: mx.addmm(c, a, b), [(6,), (4, 5), (5, 6)], "matmul"),
    "addmm with factors": Case(
        lambda c, a, b: mx.addmm(c, a, b, alpha=0.5, beta=-2.0),
        [(3, 1, 6), (3, 4, 5), (5, 6)],
        "matmul",
    ),
    "inner": Case(lambda a, b: mx.inner(a, b), [(2, 3, 5), (4, 5)], "matmul"),
    "tensordot": Case(lambda a, b: mx.tensordot(a, b, 2), [(2, 3, 4), (3, 4, 5)], "matmul"),
    "tensordot of axes": Case(
        lambda a, b: mx.tensordot(a, b, [[0, -1], [2, 0]]), [(3, 2, 4), (4, 5, 3)], "matmul"
    ),
    "einsum": Case(
        lambda a, b: mx.einsum("bthd,bshd->bhts", a, b), [(2, 3, 4, 5), (2, 6, 4, 5)], "matmul"
    ),
    "einsum without an arrow": Case(
        lambda a, b: mx.einsum("ij, jk", a, b), [(3, 4), (4, 5)], "matmul"
    ),
    "gather_mm": Case(
        lambda x, w, experts: mx.gather_mm(x, w.swapaxes(-1, -2), rhs_indices=experts),
        [(6, 1, 1, 13), (4, 5, 13)],
        "gather_mm",
        (EXPERTS,),
    ),
    "gather_mm of both": Case(
        lambda x, w, experts: mx.gather_mm(x, w, experts, experts[:, :1] % 3),
        [(4, 3, 13), (3, 13, 5)],
        "gather_mm",
        (EXPERTS,),
    ),
    "gather_qmm": Case(
        lambda x, experts, *packed: mx.gather_qmm(x, *packed, rhs_indices=experts),
        [(6, 1, 1, 64)],
        "gather_qmm",
        (EXPERTS, *PACKED),
    ),
    "gather_qmm, not transposed": Case(
        lambda x, experts, *packed: mx.gather_qmm(x, *packed, None, experts, False),
        [(6, 1, 3, 8)],
        "gather_qmm",
        (EXPERTS, *PACKED),
    ),
    "softmax": Case(lambda x: mx.softmax(x, axis=-1), [(3, 4, 37)], "softmax"),
    "softmax, precise": Case(
        lambda x: mx.softmax(x, axis=[1], precise=True), [(5, 300)], "softmax"
    ),
    "logsumexp": Case(lambda x: mx.logsumexp(x, axis=-1), [(3, 37)], "logsumexp"),
    "logsumexp of all": Case(lambda x: mx.logsumexp(x, keepdims=True), [(41,)], "logsumexp"),
    "logsumexp, method": Case(lambda x: x.logsumexp(1, keepdims=True), [(3, 37)], "logsumexp"),
    "rms_norm": Case(lambda x, w: mx.fast.rms_norm(x, w, 1e-5), [(2, 3, 37), (37,)], "rms_norm"),
    "rms_norm without a weight": Case(
        lambda x: mx.fast.rms_norm(x, None, 1e-5), [(5, 64)], "rms_norm"
    ),
    "layer_norm": Case(
        lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5), [(2, 3, 37), (37,), (37,)], "layer_norm"
    ),
    "layer_norm without a bias": Case(
        lambda x, w: mx.fast.layer_norm(x, w, None, 1e-5), [(5, 64), (64,)], "layer_norm"
    ),
    "layer_norm alone": Case(
        lambda x: mx.fast.layer_norm(x, None, None, 1e-5), [(5, 64)], "layer_norm"
    ),
    "rope": Case(rope(), [(1, 2, 5, 8)], ROPE),
    "rope, traditional": Case(rope(traditional=True, offset=7, scale=0.5), [(2, 2, 5, 6)], ROPE),
    "rope of frequencies": Case(
        rope(base=None), [(2, 3, 5, 8)], ROPE, (mx.array([1.0, 10.0, 100.0]),)
    ),
    "attention": Case(attention(), QKV, ATTENTION),
    "attention, causal": Case(attention(mask="causal"), QKV, ATTENTION),
    "attention, masked": Case(attention(), QKV, ATTENTION, (VISIBLE,)),
    "cross_entropy": Case(
        lambda x, t: mx.fast.cross_entropy(x, t),
        [(3, 4, 37)],
        "cross_entropy",
        (mx.arange(12).reshape(3, 4) * 3,),
    ),
}


def value_and_gradients(case: Case, arrays: list[mx.array]) -> tuple[mx.array, list[mx.array]]:
    def loss(*arrays: mx.array) -> tuple[mx.array, mx.array]:
        out = case.function(*arrays, *case.fixed)
        cotangent = numbers(99, *out.shape)
        return (out.astype(mx.float32) * cotangent).sum(), out

    (_, out), gradients = mx.value_and_grad(loss, list(range(len(arrays))))(*arrays)
    mx.eval(out, gradients)
    return out, list(gradients)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    arrays = [numbers(i, *shape, dtype=dtype) for i, shape in enumerate(case.shapes)]
    # Not evaluated: MLX multiplies picked matrices of float32 only.
    like = case.function(*arrays, *case.fixed)
    wanted = value_and_gradients(case, [x.astype(mx.float32) for x in arrays])

    native, calls = getattr(kernels, case.native), []
    monkeypatch.setattr(
        kernels, case.native, lambda *args, **kwargs: calls.append(1) or native(*args, **kwargs)
    )
    with accelerated():
        found = value_and_gradients(case, arrays)
    assert calls, "it is native"
    assert found[0].dtype == like.dtype
    assert_close(found[0], wanted[0], TOLERANCE[dtype], "value")
    for i, (x, y) in enumerate(zip(found[1], wanted[1], strict=True)):
        assert x.dtype == dtype
        assert_close(x, y, 2 * TOLERANCE[dtype], f"gradient {i}")


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_and_vmap(name: str) -> None:
    case = CASES[name]
    arrays = [numbers(i, *shape) for i, shape in enumerate(case.shapes)]
    stack = mx.stack([arrays[0], 2 * arrays[0], -arrays[0]])

    def slope(x: mx.array) -> mx.array:
        def loss(x: mx.array) -> mx.array:
            return case.function(x, *arrays[1:], *case.fixed).square().sum()

        return mx.grad(loss)(x).square().sum()

    def one(x: mx.array) -> mx.array:
        return case.function(x, *arrays[1:], *case.fixed)

    # MLX's own `vmap` of addmm refuses arrays that broadcast, so the peer is a loop.
    wanted = [mx.grad(slope)(arrays[0]), mx.stack([one(x) for x in stack])]
    mx.eval(wanted)
    with accelerated():
        found = [mx.grad(slope)(arrays[0]), mx.vmap(one)(stack)]
        mx.eval(found)
    for x, y, what in zip(found, wanted, ["second derivative", "vmap"], strict=True):
        assert_close(x, y, 1e-4, what)


PAIRS = [(mx.float32, mx.bfloat16), (mx.float16, mx.bfloat16), (mx.float16, mx.int32)]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: " and ".join(map(str, pair)))
@pytest.mark.parametrize("name", ["matmul of matrices", "@", "addmm", "inner", "einsum"])
def test_mixed_dtypes(name: str, pair: tuple[mx.Dtype, mx.Dtype]) -> None:
    case = CASES[name]
    arrays = [(4 * numbers(i, *shape)).astype(pair[i % 2]) for i, shape in enumerate(case.shapes)]
    wanted = case.function(*arrays)
    mx.eval(wanted)
    with accelerated():
        found = case.function(*arrays)
        mx.eval(found)
    assert found.dtype == wanted.dtype
    assert_close(found, wanted, TOLERANCE[found.dtype], name)


@pytest.mark.parametrize("shape", [(4, 4), (4, 6)])
def test_in_place(shape: tuple[int, int]) -> None:
    """`@=` changes the object, and what it was before stays in other expressions."""

    def run() -> list[mx.array]:
        a, b = numbers(1, 3, 4), numbers(2, *shape)
        same, before = a, a + 0
        a @= b
        assert a is same
        assert a.shape == (3, shape[1])
        narrow = numbers(3, 3, 4, dtype=mx.bfloat16)
        narrow @= b
        assert narrow.dtype == mx.float32

        def loss(x: mx.array) -> mx.array:
            y = x * 2
            y @= b
            return y.square().sum()

        return [same, before, narrow, mx.grad(loss)(numbers(4, 3, 4))]

    wanted = run()
    mx.eval(wanted)
    with accelerated():
        found = run()
        mx.eval(found)
    for x, y in zip(found, wanted, strict=True):
        assert_close(x, y, 1e-5)


@st.composite
def contractions(draw: st.DrawFn) -> tuple[str, list[tuple[int, ...]]]:
    """Subscripts of two operands, most of which are products of matrices."""
    labels = string.ascii_letters[: draw(st.integers(1, 6))]
    length = {label: draw(st.integers(1, 5)) for label in labels}
    some = st.lists(st.sampled_from(labels), min_size=1, max_size=5, unique=True)
    left, right = "".join(draw(some)), "".join(draw(some))
    text = f"{left},{right}"
    if draw(st.booleans()):
        kept = sorted(set(left + right))
        out = draw(st.lists(st.sampled_from(kept), max_size=5, unique=True))
        text += "->" + "".join(out)
    return text, [tuple(length[x] for x in left), tuple(length[x] for x in right)]


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(contractions())
def test_random_subscripts(drawn: tuple[str, list[tuple[int, ...]]]) -> None:
    subscripts, shapes = drawn
    arrays = [numbers(i, *shape) for i, shape in enumerate(shapes)]
    wanted = np.einsum(subscripts, *[np.array(x, np.float64) for x in arrays])
    with accelerated():
        found = mx.einsum(subscripts, *arrays)
        mx.eval(found)
    assert_close(found, mx.array(wanted.astype(np.float32)), 1e-5, subscripts)


@st.composite
def axes(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], Any]:
    """Two shapes and the axes of each that `tensordot` sums over, some of them negative."""
    shared = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    kept = [draw(st.lists(st.integers(1, 4), max_size=2)) for _ in range(2)]
    if draw(st.booleans()):
        return [tuple(kept[0] + shared), tuple(shared + kept[1])], len(shared)
    shapes, pairs = [], []
    for rest in kept:
        order = draw(st.permutations(range(len(shared) + len(rest))))
        lengths = shared + rest
        shapes.append(tuple(lengths[i] for i in order))
        found = [order.index(i) for i in range(len(shared))]
        pairs.append([i - len(lengths) if draw(st.booleans()) else i for i in found])
    return shapes, pairs


@settings(max_examples=60, deadline=None, derandomize=True)
@given(axes())
def test_random_axes(drawn: tuple[list[tuple[int, ...]], Any]) -> None:
    shapes, pairs = drawn
    a, b = (numbers(i, *shape) for i, shape in enumerate(shapes))
    wanted = np.tensordot(np.array(a, np.float64), np.array(b, np.float64), pairs)
    with accelerated():
        found = mx.tensordot(a, b, pairs)
        mx.eval(found)
    assert_close(found, mx.array(wanted.astype(np.float32)), 1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 5), max_size=3),
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(1, 9),
)
def test_random_inner(left: list[int], right: list[int], length: int) -> None:
    a, b = numbers(1, *left, length), numbers(2, *right, length)
    with accelerated():
        found = mx.inner(a, b)
        mx.eval(found)
    assert_close(found, mx.array(np.inner(np.array(a), np.array(b))), 1e-5)


# Models


def both(function: Callable[[], Any]) -> tuple[list[mx.array], list[mx.array]]:
    """The arrays of a result without and with the native operations."""
    wanted = [x for _, x in tree_flatten(function())]
    mx.eval(wanted)
    with accelerated():
        found = [x for _, x in tree_flatten(function())]
        mx.eval(found)
    return found, wanted


def test_a_transformer() -> None:
    mx.random.seed(0)
    model = nn.Transformer(16, 2, 1, 1, 32)
    source, target = numbers(1, 2, 5, 16), numbers(2, 2, 3, 16)
    mask = nn.MultiHeadAttention.create_additive_causal_mask(3)

    def run() -> Any:
        def loss(model: nn.Module) -> mx.array:
            return model(source, target, None, mask, None).square().mean()

        return nn.value_and_grad(model, loss)(model)

    for found, wanted in zip(*both(run), strict=True):
        assert_close(found, wanted, 1e-4)


@pytest.mark.parametrize("bits", [None, 4], ids=["float32", "4-bit"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_mlx_lm_logits(compiled: bool, bits: int | None, checkpoint: Any) -> None:
    peer = pytest.importorskip("support.peer")
    model = peer.load(checkpoint("llama", bits=bits))
    tokens = mx.array([[1, 5, 9, 200, 31, 7, 8]])

    def run() -> mx.array:
        def logits(tokens: mx.array) -> mx.array:
            return model(tokens)

        return (mx.compile(logits) if compiled else logits)(tokens)

    if compiled:
        wanted = run()
        mx.eval(wanted)
        mg.accelerate()
        found = run()
        mx.eval(found)
        with pytest.warns(UserWarning, match="logits"):
            mg.accelerate(False)
        assert_close(found, wanted, 1e-4)
        return
    for found, wanted in zip(*both(run), strict=True):
        assert_close(found, wanted, 1e-4)


@pytest.mark.parametrize("bits", [None, 4], ids=["float32", "4-bit"])
def test_a_step_of_mlx_lm_lora(bits: int | None, checkpoint: Any) -> None:
    peer = pytest.importorskip("support.peer")
    batch = mx.array(np.random.default_rng(0).integers(3, 300, (2, 17)))
    lengths = mx.array([[1, 16], [3, 12]])

    def run() -> Any:
        mx.random.seed(0)
        model = peer.load(checkpoint("llama", bits=bits))
        model.freeze()
        peer.linear_to_lora_layers(model, 2, peer.LORA)
        optimizer = optim.Adam(1e-3)
        step = nn.value_and_grad(model, peer.default_loss)
        losses = []
        for _ in range(3):
            (loss, _), gradients = step(model, batch, lengths)
            optimizer.update(model, gradients)
            mx.eval(loss, model.parameters(), optimizer.state)
            losses.append(loss)
        return losses, model.trainable_parameters()

    for found, wanted in zip(*both(run), strict=True):
        assert_close(found, wanted, 1e-3)
