"""What a step costs outside evaluation, against the number of trained tensors."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

from machine import BENCH, environment
from models import Model

LAYERS = (2, 4, 8, 16, 32)


def measure() -> dict[str, Any]:
    """Runs the Rust benchmark on models of many depths."""
    folders = [str(Model("5M", "fp32", layers).write().folder) for layers in LAYERS]
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "bench", "--quiet", "--package", "graft-lm", "--bench", "step", "--"]
    done = subprocess.run(
        [*command, *folders],
        cwd=BENCH.parent, env=environment(), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    points = [json.loads(line) for line in done.stdout.splitlines()]
    for point in points:
        print(
            f"  {point['tensors']:4} tensors   step {1e6 * point['step']:7.0f} µs, of which replay "
            f"{1e6 * point['replay']:7.0f} µs   own {1e6 * point['own']:6.0f} µs, allowed "
            f"{1e6 * allowed(point):4.0f} µs"
        )
    return {"points": points}


def allowed(point: dict[str, Any]) -> float:
    """Returns the seconds beyond the replay that the target allows."""
    return 0.2e-3 + 1e-6 * float(point["tensors"])


def cases(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:  # noqa: ARG001
    """Returns the measurements by name."""
    return {"step": measure}
