"""Parts of the self-test that are no operations of `mlx.core`."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from mlx_graft import core
from mlx_graft.core._parity import Comparison, Maker, comparison, outcome
from mlx_graft.core._self_test_files import files
from mlx_graft.core._self_test_kernels import native_kernels
from mlx_graft.core._self_test_transforms import transforms


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


SECTIONS: dict[str, Callable[[int], Iterator[Comparison]]] = {
    "transforms": transforms,
    "streams": streams,
    "files": files,
    "native kernels": native_kernels,
}
