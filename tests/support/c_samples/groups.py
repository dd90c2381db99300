"""Distributed groups: which backends exist, and a group of one process."""

from __future__ import annotations

from typing import Any

from support.c_frame import Frame
from support.c_samples.sample import X, against

BACKENDS = ("any", "ring", "mpi", "nccl", "jaccl")


@against(lambda m, _: [m.distributed.is_available(name) for name in BACKENDS])
def available(f: Frame) -> Any:
    return [f.lib.mlx_distributed_is_available(f.argument(name)) for name in BACKENDS]


def alone(f: Frame) -> Any:
    """A group of this process only."""
    return f.get("mlx_distributed_group", "mlx_distributed_init", False, "any")


@against(lambda m, _: [m.distributed.init().rank(), m.distributed.init().size()])
def rank_and_size(f: Frame) -> Any:
    group = alone(f)
    return [f.lib.mlx_distributed_group_rank(group), f.lib.mlx_distributed_group_size(group)]


@against(lambda m, _: m.distributed.all_sum(X))
def all_sum(f: Frame) -> Any:
    return f.read(f.op("mlx_distributed_all_sum", X, alone(f)))


@against(lambda m, _: m.distributed.send(X, 0), fails=True)
def send_to_nobody(f: Frame) -> Any:
    return f.read(f.op("mlx_distributed_send", X, 0, alone(f)))


@against(lambda m, _: m.distributed.recv((2,), m.float32, 0), fails=True)
def receive_from_nobody(f: Frame) -> Any:
    shape = (f.ints(2), 1, f.lib.MLX_FLOAT32)
    return f.read(f.op("mlx_distributed_recv", *shape, 0, alone(f)))


@against(lambda m, _: m.distributed.init().split(0), fails=True)
def split(f: Frame) -> Any:
    return f.get("mlx_distributed_group", "mlx_distributed_group_split", alone(f), 0, -1)


@against(lambda m, _: m.distributed.init(strict=True, backend="jaccl").size())
def jaccl(f: Frame) -> Any:
    """Without other processes: whatever comes out, the payload is freed."""
    freed: list[Any] = []
    make = "graft_distributed_init_jaccl"
    gather = f.ffi.callback("graft_distributed_all_gather", lambda *_: 1)
    release = f.callback(make, 4, freed.append)
    payload = f.ffi.new_handle("payload")
    try:
        group = f.get("mlx_distributed_group", make, True, gather, payload, release)
        return f.lib.mlx_distributed_group_size(group)
    finally:
        assert freed == [payload]


@against(lambda m, _: str(m.default_stream(m.cpu)))
def stream_of_a_group(f: Frame) -> Any:
    stream = f.get("mlx_stream", "graft_distributed_stream", alone(f))
    return f.text("mlx_stream_tostring", stream)
