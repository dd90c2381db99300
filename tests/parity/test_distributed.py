"""Collective operations: of two processes over `ring`, and of one alone, as in `mlx.core`."""

from __future__ import annotations

import sys
from pathlib import Path

from support.ring import launch
from support.run import succeed

SUPPORT = Path(__file__).resolve().parent.parent / "support"


def test_two_processes(tmp_path: Path) -> None:
    for rank, process in enumerate(launch([SUPPORT / "run_ring.py"], tmp_path)):
        assert process.returncode == 0, process.stderr
        assert process.stdout == f"rank {rank} of 2\n"


# In a process of its own: groups are of the process, and stay.
ALONE = """
import mlx.core as mx
from mlx_graft import _core, core

def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error)

def agree(name, call):
    ours, theirs = outcome(lambda: call(core.distributed)), outcome(lambda: call(mx.distributed))
    if isinstance(theirs, mx.array):
        assert mx.array_equal(ours, theirs) and ours.dtype == theirs.dtype, name
    else:
        assert ours == theirs, (name, ours, theirs)

BACKENDS = ["any", "ring", "mpi", "nccl", "jaccl", "pigeons", ""]
for backend in BACKENDS:
    agree(backend, lambda d: d.is_available(backend))
    agree(backend, lambda d: d.init(strict=True, backend=backend) and None)
agree("any", lambda d: d.is_available())
agree("a number", lambda d: d.is_available(3))
agree("no factory", lambda d: d.init(True, "jaccl", all_gather_factory="no") and None)
agree("no factory", lambda d: d.init(False, "ring", all_gather_factory=3) and None)
agree("a wrong factory", lambda d: d.init(True, "ring", all_gather_factory=print) and None)
agree("a factory", lambda d: d.init(True, "jaccl", all_gather_factory=print) and None)
for backend in ["any", "ring", "jaccl"]:
    agree(backend, lambda d: d.init(backend=backend).size())
    agree(backend, lambda d: d.init(False, backend).rank())
agree("factory", lambda d: d.init(False, "jaccl", all_gather_factory=print).size())
agree("split", lambda d: d.init().split(0, key=1))
x = mx.arange(6.0)
for name in ["all_sum", "all_max", "all_min", "all_gather", "sum_scatter"]:
    agree(name, lambda d: getattr(d, name)(x))
    agree(name, lambda d: getattr(d, name)(3, group=d.init(), stream=mx.cpu))
    agree(name, lambda d: getattr(d, name)(x, stream=3))
    agree(name, lambda d: getattr(d, name)(x, d.init()))
agree("send", lambda d: d.send(x, 0))
agree("recv", lambda d: d.recv((6,), mx.float32, 0))
agree("recv", lambda d: d.recv((6,), "float32", 0))
agree("recv_like", lambda d: d.recv_like(x, 0))
group = core.distributed.init()
for _ in range(3):
    before = _core.live_handles()
    for _ in range(100):
        core.distributed.all_sum(x, group=group)
        outcome(lambda: core.distributed.send(x, 0))
    assert _core.live_handles() == before
print("fine")
"""


def test_one_process_alone() -> None:
    assert succeed(sys.executable, "-c", ALONE) == "fine\n"
