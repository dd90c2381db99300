"""One of the processes of test_distributed: every collective operation, in Rust and in MLX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_graft import core

DTYPES = [
    mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64,
    mx.float16, mx.bfloat16, mx.float32, mx.complex64,
]  # fmt: skip
SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (3, 5), (64, 33)]


def outcome(call: Callable[[], mx.array]) -> object:
    """The value of a call, or the type of its exception."""
    try:
        value = call()
        mx.eval(value)
    except Exception as error:
        return type(error)
    return value


def check(name: str, ours: object, theirs: object) -> None:
    """Fails with the name if two outcomes differ."""
    if isinstance(ours, mx.array) and isinstance(theirs, mx.array):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert same and mx.array_equal(ours, theirs), f"{name}: {ours} is not {theirs}"
    else:
        assert ours is theirs, f"{name}: {ours} is not {theirs}"


def main() -> None:
    """Runs in both processes, in step."""
    group = core.distributed.init(strict=True, backend="ring")
    assert type(group) is mx.distributed.Group is core.distributed.Group
    rank, size = group.rank(), group.size()
    again = mx.distributed.init()
    assert (again.rank(), again.size()) == (rank, size)
    other = 1 - rank
    stream = mx.new_stream(mx.cpu)

    def both(name: str, call: Callable[[Any], mx.array]) -> None:
        check(name, outcome(lambda: call(core.distributed)), outcome(lambda: call(mx.distributed)))

    for dtype in DTYPES:
        for shape in SHAPES:
            key = mx.random.key(rank)
            x = (10 * mx.random.uniform(shape=shape, key=key)).astype(dtype)
            for operation in ("all_sum", "all_max", "all_min", "all_gather"):
                name = f"{operation} {dtype} {shape}"
                both(name, lambda d, o=operation, x=x: getattr(d, o)(x, group=group))
    x = mx.arange(6.0).reshape(2, 3) + 10 * rank
    both("without a group", lambda d: d.all_sum(x))
    both("of another's group", lambda d: d.all_sum(x, group=again))
    both("of a number", lambda d: d.all_sum(2.5 + rank))
    both("on a stream", lambda d: d.all_sum(x, stream=stream))
    both("on a device", lambda d: d.all_gather(x, stream=mx.cpu))
    both("of a transposed view", lambda d: d.all_gather(x.T))
    both("of a list", lambda d: d.all_sum(["text"]))
    both("of what is no group", lambda d: d.all_sum(x, group=3))

    def there_and_back(d: Any) -> mx.array:
        if rank == 0:
            mx.eval(d.send(x, other, group=group))
            return d.recv((2, 3), x.dtype, other)
        came = d.recv_like(x, other, group=group)
        mx.eval(came)
        mx.eval(d.send(2 * came, 0, stream=stream))
        return came

    both("there and back", there_and_back)
    both("of Rust and MLX", lambda d: (core if d is mx.distributed else mx).distributed.all_sum(x))
    for wrong in (-1, 2):
        both("to nobody", lambda d, w=wrong: d.send(x, w))
        both("from nobody", lambda d, w=wrong: d.recv((2,), mx.float32, w))
        both("like from nobody", lambda d, w=wrong: d.recv_like(x, w))
    both("an odd part", lambda d: d.sum_scatter(x[:, :1].T))
    both("a part", lambda d: d.sum_scatter(x))

    def mean(m: Any) -> Callable[[mx.array], mx.array]:
        return lambda w: m.distributed.all_sum((w * w).sum()) / size

    ours, theirs = (mx.grad(mean(m))(x) for m in (core, mx))
    check("gradient", ours, theirs)
    check("compiled", mx.compile(mean(core))(x), mean(mx)(x))
    mapped = [mx.vmap(lambda w, m=m: m.distributed.all_sum(w))(x) for m in (core, mx)]
    check("vmap", *mapped)
    print("rank", rank, "of", size)


if __name__ == "__main__":
    main()
