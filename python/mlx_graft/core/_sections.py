"""Parts of the self-test that are no operations: transforms, streams, files, native kernels."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from mlx_graft import core, kernels
from mlx_graft.core._parity import FLOATING, Comparison, Maker, comparison, outcome

Run = Callable[..., Any]


def transforms(seed: int) -> Iterator[Comparison]:
    """Transforms of `mlx.core` over our operations, alone and inside one another."""

    def network(m: Any, x: mx.array, w: mx.array, b: mx.array) -> Any:
        hidden = m.tanh(m.add(m.matmul(x, w), b))
        scaled = m.softmax(m.multiply(hidden, 2.0), axis=-1)
        return m.mean(m.square(m.subtract(scaled, m.take(w, mx.array([0, 1]), axis=1).sum())))

    def arrays(dtype: mx.Dtype) -> list[mx.array]:
        make = Maker(dtype, seed=seed)
        return [make(4, 6), make(6, 3), make(3)]

    argnums = [0, 1, 2]
    kinds: dict[str, Callable[[Run, list[mx.array]], Any]] = {
        "grad": lambda f, a: mx.grad(f, argnums)(*a),
        "grad of grad": lambda f, a: mx.grad(
            lambda *b: sum(g.sum() for g in mx.grad(f, argnums)(*b))
        )(*a),
        "vjp": lambda f, a: list(itertools.chain(*mx.vjp(f, a, [mx.ones(())]))),
        "jvp": lambda f, a: list(itertools.chain(*mx.jvp(f, a, [mx.ones_like(b) for b in a]))),
        "vmap": lambda f, a: mx.vmap(f, in_axes=(0, None, None))(*a),
        "compile": lambda f, a: mx.compile(f)(*a),
        "compile of grad": lambda f, a: mx.compile(mx.grad(f, argnums))(*a),
        "checkpoint": lambda f, a: mx.grad(mx.checkpoint(f), argnums)(*a),
    }
    for name, transform in kinds.items():
        for dtype in FLOATING:
            expected, found = (
                outcome(functools.partial(transform, functools.partial(network, m), arrays(dtype)))
                for m in (mx, core)
            )
            yield comparison(f"{name}, {dtype}", expected, found)


def streams(seed: int) -> Iterator[Comparison]:
    """Streams given as arguments, streams in scope, and threads with arrays of their own."""

    def work(m: Any, stream: Any) -> Any:
        x = Maker(mx.float32, seed=seed)(16, 16)
        return m.sum(m.exp(m.matmul(x, x, stream=stream), stream=stream), axis=0, stream=stream)

    new = mx.new_stream(mx.default_device())
    for name, stream in {"device": mx.default_device(), "cpu": mx.cpu, "stream": new}.items():
        expected, found = (outcome(functools.partial(work, m, stream)) for m in (mx, core))
        yield comparison(f"stream={name}", expected, found)
    with mx.stream(new):
        expected, found = (outcome(functools.partial(work, m, None)) for m in (mx, core))
    yield comparison("stream in scope", expected, found)

    expected = outcome(lambda: work(mx, None))
    results: dict[int, Any] = {}

    def in_thread(number: int) -> None:
        results[number] = outcome(lambda: work(core, None))

    threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        yield comparison(f"thread {number}", expected, results[number])


def native_kernels(seed: int) -> Iterator[Comparison]:
    """The matrix product in Rust, which runs on the CPU."""
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        for rows, inner, columns in [(1, 64, 64), (33, 65, 17), (64, 128, 96)]:
            make = Maker(dtype, seed=seed)
            a, b = make(rows, inner), make(inner, columns)
            with mx.stream(mx.cpu):
                expected = outcome(lambda a=a, b=b: mx.matmul(a, b))  # type: ignore[misc]
                found = outcome(lambda a=a, b=b: kernels.matmul(a, b))  # type: ignore[misc]
            yield comparison(f"matmul {rows}x{inner}x{columns}, {dtype}", expected, found)


SECTIONS: dict[str, Callable[[int], Iterator[Comparison]]] = {
    "transforms": transforms,
    "streams": streams,
    "native kernels": native_kernels,
}
