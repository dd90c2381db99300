"""The cost of one call: an operation through Rust against `mlx.core`'s own binding.

The calls only add nodes to a graph that is never evaluated, so this is the bridge and nothing
else. Writes `bench/out/call.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

import mlx_graft as mg

OUT = Path(__file__).resolve().parent / "out/call.json"
CASES: dict[str, Callable[[Any, mx.array, mx.array], object]] = {
    "add": lambda m, a, b: m.add(a, b),
    "matmul": lambda m, a, b: m.matmul(a, b),
    "sum": lambda m, a, _: m.sum(a),
    "reshape": lambda m, a, _: m.reshape(a, (64,)),
}


def seconds_per_call(function: Callable[[], object], calls: int) -> float:
    """Times one batch of calls."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    a, b = mx.ones((8, 8)), mx.ones((8, 8))
    mx.eval(a, b)
    results = {}
    for name, call in CASES.items():
        times: dict[str, list[float]] = {"mlx.core": [], "mlx_graft.core": []}
        for _ in range(options.rounds):
            for module, spent in ((mx, times["mlx.core"]), (mg.core, times["mlx_graft.core"])):
                spent.append(seconds_per_call(partial(call, module, a, b), options.calls))
        medians = {key: statistics.median(spent) for key, spent in times.items()}
        results[name] = medians
        ratio = medians["mlx_graft.core"] / medians["mlx.core"]
        print(
            f"{name:8}  mlx.core {1e9 * medians['mlx.core']:6.0f} ns   "
            f"mlx_graft.core {1e9 * medians['mlx_graft.core']:6.0f} ns   {ratio:.2f}x"
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
