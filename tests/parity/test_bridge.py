"""Arrays pass between Python and Rust as they are: no copy, no evaluation, no leak."""

from __future__ import annotations

import gc
import sys
import textwrap
import threading
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

import mlx_graft as mg
from mlx_graft import _core
from support.leaks import repeat
from support.run import succeed

MIB = 1 << 20
DTYPES = [
    mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64,
    mx.float16, mx.bfloat16, mx.float32, mx.complex64,
]  # fmt: skip


def address(array: mx.array) -> int:
    return int(np.asarray(memoryview(array)).__array_interface__["data"][0])


def weighted(x: mx.array, w: mx.array) -> mx.array:
    """A function whose every operation goes through Rust."""
    return mg.core.sum(mg.core.square(mg.core.multiply(x, w)))


def weighted_in_mlx(x: mx.array, w: mx.array) -> mx.array:
    return mx.sum(mx.square(mx.multiply(x, w)))


def product(x: mx.array, w: mx.array) -> mx.array:
    """A function through a native primitive: an MLX operation written in Rust."""
    return mx.sum(mx.square(mg.kernels.matmul(x, w)))


def product_in_mlx(x: mx.array, w: mx.array) -> mx.array:
    return mx.sum(mx.square(mx.matmul(x, w)))


CASES = {"ops": (weighted, weighted_in_mlx), "primitive": (product, product_in_mlx)}
both = pytest.mark.parametrize("name", CASES)
Function = Callable[[mx.array, mx.array], mx.array]


def inputs() -> tuple[mx.array, mx.array]:
    rng = np.random.default_rng(0)
    return tuple(mx.array(rng.normal(size=(8, 8)).astype(np.float32)) for _ in range(2))


def close(a: mx.array, b: mx.array) -> bool:
    return bool(mx.allclose(a, b, rtol=1e-5, atol=1e-5).item())


def test_same_object_same_buffer() -> None:
    x = mx.random.normal((64, 64))
    mx.eval(x)
    y = _core.identity(x)
    assert type(y) is mx.array
    assert address(y) == address(x)


@pytest.mark.parametrize(
    "dtype",
    DTYPES,
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_every_dtype_and_shape(dtype: mx.Dtype, shape: tuple[int, ...]) -> None:
    x = mx.ones(shape, dtype)
    y = _core.identity(x)
    assert (y.dtype, y.shape) == (dtype, shape)
    assert mx.array_equal(x, y)


def test_views_keep_their_strides() -> None:
    x = mx.arange(12).reshape(3, 4)
    for view in (x.T, x[::2], x[:, 1:3], mx.broadcast_to(x[0], (5, 4))):
        assert mx.array_equal(_core.identity(view), view)


def test_arguments_are_not_evaluated() -> None:
    gc.collect()
    before = mx.get_active_memory()
    x = mx.random.normal((1024, 1024))
    y = mg.core.add(_core.identity(x), mg.core.square(x))
    z = mg.kernels.matmul(y, y)
    assert mx.get_active_memory() - before < MIB, "4 MiB arrays were computed"
    mx.eval(z)
    assert mx.get_active_memory() - before >= 4 * MIB


@both
def test_value(name: str) -> None:
    ours, theirs = CASES[name]
    assert close(ours(*inputs()), theirs(*inputs()))


@both
def test_grad(name: str) -> None:
    ours, theirs = CASES[name]
    for argument in (0, 1):
        assert close(mx.grad(ours, argument)(*inputs()), mx.grad(theirs, argument)(*inputs()))


@both
def test_value_and_grad(name: str) -> None:
    ours, theirs = CASES[name]
    value, gradients = mx.value_and_grad(ours, (0, 1))(*inputs())
    expected, expected_gradients = mx.value_and_grad(theirs, (0, 1))(*inputs())
    assert close(value, expected)
    assert all(map(close, gradients, expected_gradients))


@both
def test_second_derivative(name: str) -> None:
    ours, theirs = CASES[name]

    def curvature(f: Function) -> mx.array:
        return mx.grad(lambda x, w: mx.grad(f)(x, w).sum())(*inputs())

    assert close(curvature(ours), curvature(theirs))


@both
def test_jvp(name: str) -> None:
    ours, theirs = CASES[name]
    x, w = inputs()
    values, tangents = mx.jvp(ours, [x, w], [w, x])
    expected, expected_tangents = mx.jvp(theirs, [x, w], [w, x])
    assert close(values[0], expected[0])
    assert close(tangents[0], expected_tangents[0])


@both
def test_compile(name: str) -> None:
    ours, theirs = CASES[name]
    compiled = mx.compile(ours)
    for scale in (1.0, 2.0):
        x, w = inputs()
        assert close(compiled(scale * x, w), theirs(scale * x, w))


@both
def test_compiled_grad(name: str) -> None:
    ours, theirs = CASES[name]
    assert close(mx.compile(mx.grad(ours))(*inputs()), mx.grad(theirs)(*inputs()))


@both
def test_vmap(name: str) -> None:
    ours, theirs = CASES[name]
    x, w = inputs()
    stacked = mx.stack([x, 2 * x, x + 1])
    assert close(mx.vmap(ours, (0, None))(stacked, w), mx.vmap(theirs, (0, None))(stacked, w))


def test_vmap_over_both_and_other_axes() -> None:
    rng = np.random.default_rng(1)
    a = mx.array(rng.normal(size=(4, 3, 5)).astype(np.float32))
    b = mx.array(rng.normal(size=(5, 6, 3)).astype(np.float32))
    mapped = mx.vmap(mg.kernels.matmul, (1, 2))
    assert close(mapped(a, b), mx.vmap(mx.matmul, (1, 2))(a, b))


@both
def test_ten_thousand_round_trips_leave_nothing(name: str) -> None:
    ours, _ = CASES[name]
    x, w = inputs()
    gradient = mx.grad(ours)

    def round_() -> None:
        for _ in range(50):
            _core.identity(x)
        mx.eval(gradient(x, w))

    repeat(round_, 200)


def test_python_streams_are_honoured() -> None:
    stream = mx.new_stream(mx.cpu)
    with mx.stream(stream):
        y = mg.core.add(mx.array(1.0), mx.array(2.0))
        assert y.item() == 3.0


def test_scalars_and_lists_convert_as_in_mlx() -> None:
    x = mx.array([1.0, 2.0])
    assert mx.array_equal(mg.core.add(x, 1), mx.add(x, 1))
    half = mx.array([1.0], dtype=mx.float16)
    assert mg.core.multiply(half, 2.5).dtype == mx.multiply(half, 2.5).dtype == mx.float16


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.add(mx.zeros((2, 3)), mx.zeros((4, 5))),
        lambda m: m.matmul(mx.zeros((2, 3)), mx.zeros((4, 5))),
        lambda m: m.matmul(mx.array(1.0), mx.zeros((4, 5))),
        lambda m: m.reshape(mx.zeros((6,)), (4, 2)),
        lambda m: m.sum(mx.zeros((2, 3)), axis=5),
        lambda m: m.concatenate([mx.zeros((2,)), mx.zeros((2, 2))]),
    ],
)
def test_failures_raise_what_mlx_raises(call: Callable[[object], object]) -> None:
    with pytest.raises(Exception) as expected:
        call(mx)
    with pytest.raises(expected.type):
        call(mg.core)


def test_wrong_types_are_type_errors() -> None:
    with pytest.raises(TypeError):
        _core.identity("text")


def test_arrays_stay_on_their_thread(checkpoint) -> None:
    """A trainer is bound to the thread that made it; elsewhere it says so, and nothing breaks."""
    model, _ = mg.load(checkpoint("llama"))
    trainer = mg.Trainer(model, mg.TrainConfig())
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            trainer.step(mx.zeros((1, 8), mx.int32), mx.array([8], mx.int32))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught
    assert "thread" in str(caught[0])


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_child_gets_an_error_not_a_hang() -> None:
    code = """
        import os, sys
        import mlx.core as mx
        import mlx_graft as mg
        mx.eval(mg.core.add(mx.array(1.0), mx.array(2.0)))
        child = os.fork()
        if child == 0:
            try:
                mg.core.add(mx.array(1.0), mx.array(2.0))
            except RuntimeError as error:
                os._exit(0 if "fork" in str(error) else 2)
            os._exit(3)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    succeed(sys.executable, "-c", textwrap.dedent(code))
