"""Each kernel over sizes, by criterion: operations or bytes per second, and share of the limit.

A benchmark's throughput says what its numbers are: `Elements` are floating-point operations,
`Bytes` are bytes of what is read: of the weights of a product of few rows, of keys and values, and
of the operands of an operation on rows with its output, which is written. A time is that of one
operation from building it to its result, as in a program: on small arrays much of it is MLX's. The
limits, measured in the same run, are those of float32 products and of reads of memory by all
cores; products of bfloat16 may reach twice the former where the processor multiplies them in
pairs.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import BENCH, environment

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", BENCH.parent / "target"))
LIMIT = "limit"
SMALL = "(2048x768|768x8|8x2048|4x12x|16x16|4x256|one token|1024x768|tokens)"
"""Of kernels that are measured over sizes, the one size that a quick run takes."""
UNITS = {"Elements": "GFLOP/s", "Bytes": "GB/s"}


def read(since: float) -> list[dict[str, Any]]:
    """Returns what criterion has written since a time."""
    points = []
    for path in sorted((TARGET / "criterion").glob("**/new/estimates.json")):
        described = json.loads((path.parent / "benchmark.json").read_text())
        if path.stat().st_mtime < since or not described["throughput"]:
            continue
        (kind, amount), *_ = described["throughput"].items()
        seconds = json.loads(path.read_text())["median"]["point_estimate"] / 1e9
        points.append({
            "group": described["group_id"], "function": described["function_id"] or "",
            "seconds": seconds, "unit": UNITS[kind], "rate": amount / seconds / 1e9,
        })  # fmt: skip
    return points


def measure(quick: bool) -> dict[str, Any]:
    """Runs all benchmarks of the kernels."""
    stamp = TARGET / "criterion-started"
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()
    # MLX's own operations, which `cargo bench` measures beside, take seconds each.
    seconds = ("0.3", "0.1") if quick else ("1", "0.5")
    wanted = f"{SMALL}.*/graft|{LIMIT}" if quick else f"graft|{LIMIT}"
    pace = ["--measurement-time", seconds[0], "--warm-up-time", seconds[1], wanted]
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "bench", "--quiet", "--package", "graft-kernels", "--bench", "kernels"]
    subprocess.run(
        [*command, "--", "--noplot", *pace],
        cwd=BENCH.parent, env=environment(), stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    points = read(stamp.stat().st_mtime)
    limits = {point["unit"]: point["rate"] for point in points if point["group"] == LIMIT}
    for point in points:
        point["share"] = point["rate"] / limits[point["unit"]]
        print(
            f"  {point['group']:44} {point['function']:10} {point['rate']:8.1f} {point['unit']:8}"
            f"{100 * point['share']:4.0f} %"
        )
    return {"points": points}


def cases(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Returns the measurements by name."""
    return {"criterion": lambda: measure(quick)}
