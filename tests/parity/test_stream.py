"""Streams: answers and errors as in `mlx.core`, which gives and takes the objects."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from mlx_graft import core
from support.leaks import repeat
from support.outcome import outcome
from support.run import execute

FOURTH = mx.Device(mx.cpu, 3)

CALLS: dict[str, Callable[[ModuleType], object]] = {
    "default": lambda m: m.default_stream(mx.cpu),
    "default of a device": lambda m: m.default_stream(device=mx.Device(mx.cpu)),
    "default of the gpu": lambda m: m.default_stream(mx.gpu),
    "default of a device that is not there": lambda m: m.default_stream(FOURTH),
    "default of a stream": lambda m: m.default_stream(mx.default_stream(mx.cpu)),
    "new": lambda m: m.new_stream(mx.cpu).device,
    "new on the gpu": lambda m: m.new_stream(mx.gpu).device,
    "new on nothing": lambda m: m.new_stream(None),
    "thread unsafe": lambda m: m.new_thread_unsafe_stream(mx.cpu).device,
    "thread unsafe on the gpu": lambda m: m.new_thread_unsafe_stream(mx.gpu).device,
    "thread local": lambda m: m.new_thread_local_stream(mx.cpu).device,
    "thread local on the gpu": lambda m: m.new_thread_local_stream(mx.gpu).device,
    "set": lambda m: m.set_default_stream(mx.default_stream(mx.cpu)),
    "set to a device": lambda m: m.set_default_stream(mx.cpu),
    "synchronize": lambda m: m.synchronize(),
    "synchronize none": lambda m: m.synchronize(None),
    "synchronize a stream": lambda m: m.synchronize(mx.new_stream(mx.cpu)),
    "synchronize a device": lambda m: m.synchronize(stream=mx.cpu),
    "synchronize a thread's": lambda m: m.synchronize(mx.new_thread_local_stream(mx.cpu)),
    "synchronize the gpu": lambda m: m.synchronize(mx.gpu),
    "synchronize the gpu's of a thread": lambda m: m.synchronize(
        mx.new_thread_local_stream(mx.gpu)
    ),
    "synchronize a number": lambda m: m.synchronize(0),
    "synchronize the number of the gpu": lambda m: m.synchronize(1),
    "synchronize a large number": lambda m: m.synchronize(2),
    "scope of a large number": lambda m: m.stream(2),
    "scope of none": lambda m: m.stream(None),
    "context of none": lambda m: m.StreamContext(None),
    "scope of the gpu": lambda m: m.stream(mx.gpu).__enter__(),
    "scope": lambda m: m.stream(mx.cpu).__enter__(),
    "scope left without entering": lambda m: m.stream(mx.cpu).__exit__(),
}


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    device, stream = mx.default_device(), mx.default_stream(mx.default_device())
    yield
    mx.set_default_device(device)
    mx.set_default_stream(stream)


@pytest.mark.parametrize("name", CALLS)
def test_as_mlx(name: str) -> None:
    ours, theirs = outcome(CALLS[name], core), outcome(CALLS[name], mx)
    assert ours == theirs
    assert type(ours) is type(theirs)


def test_streams_are_those_of_mlx() -> None:
    stream = core.new_stream(mx.cpu)
    assert type(stream) is mx.Stream
    assert type(core.new_thread_local_stream(mx.cpu)) is mx.ThreadLocalStream
    core.set_default_stream(stream)
    assert mx.default_stream(mx.cpu) == stream == core.default_stream(mx.cpu)


@pytest.mark.parametrize("make", [core.stream, core.StreamContext])
def test_a_scope_is_noticed_by_both(make: Callable[[mx.Stream], core.StreamContext]) -> None:
    before = mx.default_stream(mx.cpu)
    stream = mx.new_stream(mx.cpu)
    context = make(stream)
    with context:
        assert mx.default_stream(mx.cpu) == stream
        assert core.add(mx.array(1.0), mx.array(2.0)).item() == 3.0
        with context:
            assert mx.default_stream(mx.cpu) == stream
        assert mx.default_stream(mx.cpu) == stream
    assert mx.default_stream(mx.cpu) == before


def test_a_scope_ends_with_an_exception() -> None:
    before = mx.default_stream(mx.cpu)
    with pytest.raises(KeyError, match="mine"), core.stream(mx.new_stream(mx.cpu)):
        raise KeyError("mine")
    assert mx.default_stream(mx.cpu) == before


@pytest.mark.parametrize("kind", ["stream", "thread local", "device", "device type", "none"])
def test_an_operation_runs_where_it_is_told(kind: str) -> None:
    stream = {
        "stream": mx.new_stream(mx.cpu),
        "thread local": mx.new_thread_local_stream(mx.cpu),
        "device": mx.Device(mx.cpu),
        "device type": mx.cpu,
        "none": None,
    }[kind]
    before = mx.default_stream(mx.cpu)
    x = mx.array(np.arange(6.0, dtype=np.float32))
    y = core.exp(x, stream=stream)
    assert mx.array_equal(y, mx.exp(x, stream=stream))
    assert mx.default_stream(mx.cpu) == before, "the argument changes no default"


def test_a_stream_of_another_thread_is_an_error() -> None:
    """The stream itself decides, so the operation was not put on the default one."""
    made: list[mx.Stream] = []
    thread = threading.Thread(target=lambda: made.append(core.new_stream(mx.cpu)))
    thread.start()
    thread.join()
    for module in (mx, core):
        with pytest.raises(RuntimeError):
            mx.eval(module.exp(mx.array(1.0), stream=made[0]))


@pytest.mark.parametrize("wrong", [2, "cpu", object()])
def test_what_is_no_stream_is_a_type_error(wrong: object) -> None:
    for module in (mx, core):
        with pytest.raises(TypeError):
            module.exp(mx.array(1.0), stream=wrong)


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU")
def test_the_missing_gpu_is_a_value_error() -> None:
    for module in (mx, core):
        with pytest.raises(ValueError, match=r"\[default_stream\].*gpu"):
            module.exp(mx.array(1.0), stream=mx.gpu)


def test_eight_threads_with_their_own_streams() -> None:
    results: dict[int, bool] = {}
    shared = core.new_thread_local_stream(mx.cpu)

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        data = rng.normal(size=(16, 16)).astype(np.float32)
        own = core.new_stream(mx.cpu)
        good = True
        for step in range(50):
            x = mx.array(data + step)
            with core.stream(shared if step % 2 else own):
                y = core.sum(core.multiply(x, core.add(x, 1)), stream=own)
            z = core.exp(core.negative(core.square(x, stream=shared)), stream=own)
            core.synchronize(own)
            want = ((data + step) * (data + step + 1)).sum(dtype=np.float64)
            good &= abs(y.item() - want) <= 1e-3 * abs(want)
            good &= bool(np.allclose(np.array(z), np.exp(-((data + step) ** 2)), atol=1e-6))
        results[number] = good
        core.clear_streams()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert results == dict.fromkeys(range(8), True)


def test_nothing_stays() -> None:
    stream, shared = mx.new_stream(mx.cpu), mx.new_thread_local_stream(mx.cpu)
    x = mx.ones((256,))
    mx.eval(x)

    def one_round() -> None:
        with core.stream(stream):
            core.default_stream(mx.cpu)
        for place in (stream, shared, mx.cpu, mx.Device(mx.cpu), None):
            mx.eval(core.exp(x, stream=place))
            core.synchronize(place)
        core.device_info(mx.cpu)
        with pytest.raises(TypeError):
            core.synchronize(3)  # type: ignore[arg-type]
        with core.printoptions(3):
            str(x)

    repeat(one_round, 200)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return execute(sys.executable, "-c", textwrap.dedent(code))


def test_the_interpreter_ends_with_live_objects() -> None:
    run = python("""
        import mlx.core as mx
        from mlx_graft import core
        stream, shared = core.new_stream(mx.cpu), core.new_thread_local_stream(mx.cpu)
        entered = core.stream(stream)
        entered.__enter__()
        kernel = core.fast.metal_kernel("k", ["x"], ["y"], "y[0] = x[0];")
        group = core.distributed.init()
        options = core.printoptions(2)
        options.__enter__()
        lazy = core.exp(mx.ones((1000,)), stream=shared)
        print("end")
    """)
    assert (run.returncode, run.stdout) == (0, "end\n"), run.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_child_gets_errors() -> None:
    run = python("""
        import os, sys
        import mlx.core as mx
        from mlx_graft import core
        stream = core.new_stream(mx.cpu)
        mx.eval(core.exp(mx.array(1.0), stream=stream))
        kernel = core.fast.metal_kernel("k", ["x"], ["y"], "y[0] = x[0];")
        one = dict(output_shapes=[()], output_dtypes=[mx.float32], grid=(1, 1, 1))
        calls = {
            "default_device": core.default_device,
            "device_info": lambda: core.device_info(mx.cpu),
            "new_stream": lambda: core.new_stream(mx.cpu),
            "synchronize": core.synchronize,
            "synchronize a stream": lambda: core.synchronize(stream),
            "stream": lambda: core.stream(stream).__enter__(),
            "operation": lambda: core.exp(mx.array(1.0), stream=stream),
            "clear_streams": core.clear_streams,
            "printoptions": core.get_printoptions,
            "init": core.distributed.init,
            "all_sum": lambda: core.distributed.all_sum(mx.array(1.0)),
            "kernel": lambda: kernel(inputs=[mx.array(1.0)], threadgroup=(1, 1, 1), **one),
        }
        child = os.fork()
        if child == 0:
            for number, call in enumerate(calls.values()):
                try:
                    call()
                except RuntimeError as error:
                    if "fork" in str(error):
                        continue
                os._exit(10 + number)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, list(calls)[code - 10] if code >= 10 else "")
        sys.exit(code)
    """)
    assert run.returncode == 0, run.stdout + run.stderr


# Each fails on the thread that MLX was loaded on, where it loses count of its tasks.
FAILURES = """
import mlx.core as mx
from mlx_graft import core

failed = 0
for _ in range(1_000):
    x = mx.array([[1.0, 2.0], [2.0, 4.0]])
    try:
        core.eval(mx.linalg.inv(x + 0 + 0 + 0, stream=mx.cpu) + 1)
    except (RuntimeError, ValueError):
        failed += 1
y = mx.zeros(3)
for _ in range(100):
    y = mx.abs(y + 1)
print(failed, y.tolist())
"""


def test_evaluations_go_on_after_many_failures() -> None:
    done = execute(sys.executable, "-c", FAILURES, timeout=60)
    assert done.stdout == "1000 [100.0, 100.0, 100.0]\n", done.stderr
