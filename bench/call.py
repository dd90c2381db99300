"""The cost of one call: an operation through Rust against `mlx.core`'s own binding.

The calls only add nodes to a graph that is never evaluated, so this is the bridge and nothing
else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

import mlx_graft as mg

# Many short turns: the speed of a shared machine changes within a second.
CALLS, TURNS = 2_000, 151
CASES: dict[str, Callable[[Any, mx.array, mx.array], object]] = {
    "add": lambda m, a, b: m.add(a, b),
    "matmul": lambda m, a, b: m.matmul(a, b),
    "sum": lambda m, a, _: m.sum(a),
    "reshape": lambda m, a, _: m.reshape(a, (64,)),
    # Without a key: each draw takes the next one of the state.
    "uniform": lambda m, _, __: m.random.uniform(shape=(8,)),
}


def seconds_per_call(function: Callable[[], object], calls: int) -> float:
    """Times one batch of calls."""
    # The state that a batch of draws leaves is a graph of all of its splits.
    mx.random.seed(0)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def measure(quick: bool) -> dict[str, Any]:
    """Measures all operations."""
    a, b = mx.ones((8, 8)), mx.ones((8, 8))
    mx.eval(a, b)
    results = {}
    for name, call in CASES.items():
        times: dict[str, list[float]] = {"mlx.core": [], "mlx_graft.core": []}
        for _ in range(TURNS // 5 if quick else TURNS):
            for module, spent in ((mx, times["mlx.core"]), (mg.core, times["mlx_graft.core"])):
                spent.append(seconds_per_call(partial(call, module, a, b), CALLS))
        medians = {key: statistics.median(spent) for key, spent in times.items()}
        results[name] = medians
        ratio = medians["mlx_graft.core"] / medians["mlx.core"]
        print(
            f"  {name:8}  mlx.core {1e9 * medians['mlx.core']:6.0f} ns   "
            f"mlx_graft.core {1e9 * medians['mlx_graft.core']:6.0f} ns   {ratio:.2f}x"
        )
    return {"seconds": results}


def cases(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Returns the measurements by name."""
    return {"core": partial(measure, quick)}
