"""The time of a step against layers, tokens and trained parameters: it should grow in line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from contestants import Contestant, ours
from models import Model

from mlx_graft.bench import contest

LAYERS = (3, 6, 12, 24)
LENGTHS = (64, 128, 256, 512)
RANKS = (4, 16, 64, 256)


def contestants(axis: str, pace: dict[str, Any]) -> dict[int, Contestant]:
    """Returns one contestant per point of an axis, of the 5M model in fp32."""
    folder = Model("5M", "fp32").write().folder
    if axis == "layers":
        folders = {layers: Model("5M", "fp32", layers).write().folder for layers in LAYERS}
        return {x: ours("graft_lora.py", at, name=str(x), **pace) for x, at in folders.items()}
    flag, points = ("--length", LENGTHS) if axis == "length" else ("--rank", RANKS)
    return {x: ours("graft_lora.py", folder, flag, x, name=str(x), **pace) for x in points}


def measure(axis: str, quick: bool) -> dict[str, Any]:
    """Measures the points of one axis, in turns."""
    pace: dict[str, Any] = {"warmup": 2, "turns": 3 if quick else 9}
    at = contestants(axis, pace)
    results = contest.run(list(at.values()))
    for result in results:
        if result.error is not None:
            raise contest.MeasurementError(f"{axis} {result.name}: {result.error}")
    points = [
        {
            "x": x, "seconds": result.median("seconds"), "turns": len(result.turns),
            "resident": result.turns[-1]["resident"],
        }
        for x, result in zip(at, results, strict=True)
    ]  # fmt: skip
    for point in points:
        print(f"  {axis} {point['x']:4}   {1e3 * point['seconds']:8.1f} ms/step")
    return {"axis": axis, "points": points}


def cases(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Returns the measurements by name."""
    return {axis: partial(measure, axis, quick) for axis in ("layers", "length", "rank")}
