"""From Python too, handles and bytes return to their start.

`LEAK_REPETITIONS` says how often each round runs; `make leakcheck` sets 100,000.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_graft.core as mc
from mlx_graft import kernels
from support.leaks import counters, repeat

REPETITIONS = int(os.environ.get("LEAK_REPETITIONS", "1000"))

X = mx.arange(256, dtype=mx.float32).reshape(16, 16)


class PlannedError(Exception):
    """What the failing functions raise."""


def square_sum(x: mx.array) -> mx.array:
    return mc.sum(mc.square(x))


def failing(x: mx.array) -> mx.array:
    mc.square(x)
    raise PlannedError


def operations() -> None:
    parts = mc.split(mc.concatenate([X, X]), 4)
    mx.eval(mc.matmul(mc.softmax(parts[0], axis=-1), X), mc.where(X > 1, X, 0.0))


def random_numbers() -> None:
    key, other = mc.random.split(mc.random.key(7))
    mx.eval(mc.random.normal((8,), key=key), mc.random.uniform(shape=(8,), key=other))


def wrong_arguments() -> None:
    with pytest.raises(ValueError):
        mc.reshape(X, (7,))
    with pytest.raises(ValueError):
        mc.add(X, "text")
    with pytest.raises(ValueError):
        mc.concatenate([X, mx.zeros((3, 3))], axis=1)


def grad() -> None:
    for m in (mx, mc):
        mx.eval(m.value_and_grad(square_sum)(X))


def vjp_and_jvp() -> None:
    for m in (mx, mc):
        mx.eval(m.vjp(square_sum, [X], [mx.array(1.0)]), m.jvp(square_sum, [X], [X]))


def vmap() -> None:
    for m in (mx, mc):
        mx.eval(m.vmap(square_sum)(X))


def compiled() -> None:
    for m in (mx, mc):
        mx.eval(m.compile(lambda x: mc.sum(mc.square(x)))(X))


def checkpoint() -> None:
    for m in (mx, mc):
        mx.eval(m.grad(m.checkpoint(square_sum))(X))


def exceptions() -> None:
    for m in (mx, mc):
        for transform in (m.grad, m.vmap, m.compile, m.checkpoint):
            with pytest.raises(PlannedError):
                transform(failing)(X)


def exceptions_at_each_depth() -> None:
    for depth in range(1, 6):
        function = failing
        for transform in itertools.islice(
            itertools.cycle((mc.grad, mc.vmap, mc.compile, mc.checkpoint)), depth
        ):
            function = transform(lambda x, inner=function: inner(mc.square(x)))
        with pytest.raises(PlannedError):
            function(X)


def custom_functions() -> None:
    function = mc.custom_function(mc.square)
    function.vjp(lambda primals, cotangent, _: mc.multiply(primals, cotangent))
    function.jvp(lambda primals, tangents: mc.multiply(primals, tangents))
    function.vmap(lambda inputs, axes: (mc.square(inputs), axes))
    mx.eval(mc.vjp(function, [X], [X]), mc.jvp(function, [X], [X]), mc.vmap(function)(X))


def rules_that_fail() -> None:
    def fail(*_: object) -> None:
        raise PlannedError

    function = mc.custom_function(mc.square)
    function.vjp(fail)
    function.jvp(fail)
    function.vmap(fail)
    with pytest.raises(PlannedError):
        mc.vjp(function, [X], [X])
    with pytest.raises(PlannedError):
        mc.jvp(function, [X], [X])
    with pytest.raises(PlannedError):
        mc.vmap(function)(X)


def exported_to_a_callback() -> None:
    mc.export_function(lambda _: None, square_sum, X)
    with pytest.raises(PlannedError):
        mc.export_function(lambda _: None, failing, X)


def file_objects() -> None:
    npy, safetensors = io.BytesIO(), io.BytesIO()
    mc.save(npy, X)
    mc.save_safetensors(safetensors, {"x": X}, {"key": "value"})
    npy.seek(0)
    safetensors.seek(0)
    mx.eval(mc.load(npy, format="npy"), mc.load(safetensors, format="safetensors"))


class FailingFile(io.BytesIO):
    """A file whose reads and writes raise."""

    def read(self, *_: object) -> bytes:
        raise PlannedError

    def readinto(self, *_: object) -> int:
        raise PlannedError

    def write(self, *_: object) -> int:
        raise PlannedError


def file_objects_that_fail() -> None:
    for save in (lambda f: mc.save(f, X), lambda f: mc.save_safetensors(f, {"x": X})):
        with pytest.raises(PlannedError):
            save(FailingFile())
    for kind in ("npy", "safetensors"):
        with pytest.raises(PlannedError):
            mc.load(FailingFile(bytes(64)), format=kind)
        with pytest.raises((RuntimeError, ValueError)):
            mc.load(io.BytesIO(b"no header of a file"), format=kind)


def groups() -> None:
    group = mc.distributed.init()
    assert (group.rank(), group.size()) == (0, 1)
    mx.eval(mc.distributed.all_sum(X, group=group))
    with pytest.raises(ValueError):
        mc.distributed.send(X, 0, group=group)
    with pytest.raises(RuntimeError):
        group.split(0)


def gpu_kernels() -> None:
    """Where the device is absent, making the kernel or running it fails."""
    for make, available in (
        (mc.fast.metal_kernel, mx.metal.is_available()),
        (mc.fast.cuda_kernel, mx.cuda.is_available()),
    ):
        with contextlib.nullcontext() if available else pytest.raises((RuntimeError, ValueError)):
            kernel = make(
                name="copy", input_names=["x"], output_names=["out"], source="out[0] = x[0];"
            )
            (found,) = kernel(
                inputs=[X],
                template=[("T", mx.float32)],
                grid=(1, 1, 1),
                threadgroup=(1, 1, 1),
                output_shapes=[(1,)],
                output_dtypes=[mx.float32],
            )
            mx.eval(found)


def native_kernel() -> None:
    mx.eval(kernels.matmul(X, X), mx.grad(lambda x: kernels.matmul(x, X).sum())(X))


ROUNDS = [
    operations,
    random_numbers,
    wrong_arguments,
    grad,
    vjp_and_jvp,
    vmap,
    compiled,
    checkpoint,
    exceptions,
    exceptions_at_each_depth,
    custom_functions,
    rules_that_fail,
    exported_to_a_callback,
    file_objects,
    file_objects_that_fail,
    groups,
    gpu_kernels,
    native_kernel,
]


@pytest.mark.parametrize("run", ROUNDS, ids=lambda run: run.__name__)
def test_nothing_is_left(run: Callable[[], None]) -> None:
    repeat(run, REPETITIONS)


def test_nothing_is_left_of_exported_files(tmp_path: Path) -> None:
    """Each file waits for the disk, so there are fewer."""

    def run() -> None:
        file = str(tmp_path / "function.mlxfn")
        mc.export_function(file, square_sum, X)
        with mc.exporter(file, square_sum, shapeless=True) as exporter:
            exporter(X)
        function = mc.import_function(file)
        mx.eval(function(X))
        with pytest.raises(ValueError):
            function(X, X)

    repeat(run, -(-REPETITIONS // 100))


def test_what_another_thread_lets_go_of_is_freed(tmp_path: Path) -> None:
    """On the thread that made it, when that next makes or uses something of the kind."""
    file = str(tmp_path / "function.mlxfn")
    mc.export_function(file, square_sum, X)
    with ThreadPoolExecutor(1) as pool:
        repeat(
            lambda: pool.submit(mc.import_function, file).result(),
            20,
            lambda: pool.submit(counters).result(),
        )
