"""Training on rows of 30 to 480 tokens: the trainer's batches against mlx-lm's padded ones.

What counts is tokens trained on per second; padding is not among them. `mlx_lm.lora` orders rows by
the number of keys in their JSON objects, so that the batches of a file have rows of any length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from contestants import ours
from models import Model
from targets import OURS, PADDED

from mlx_graft.bench import contest

ROWS = 64
"""Of fewer rows, as a quick run has, those of a batch of ours differ more in length."""


def measure(size: str, form: str, quick: bool) -> dict[str, Any]:
    """Measures one model in one format."""
    folder = Model(size, form).write().folder
    pace: dict[str, Any] = {"warmup": 1, "turns": 1 if quick else 5}
    rows = ROWS // 4 if quick else ROWS
    ways = {PADDED: "mlx_lm", OURS: "graft"}
    results = contest.run(
        [ours("mixed_lora.py", folder, way, rows, name=name, **pace) for name, way in ways.items()]
    )
    for result in results:
        if result.turns:
            print(
                f"  {result.name:26} {result.median('tokens_per_second'):7.0f} tok/s   "
                f"resident {result.turns[-1]['resident'] / 1e6:6.0f} MB"
            )
    return {"size": size, "form": form, "contestants": [asdict(result) for result in results]}


def cases(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Returns the measurements by name."""
    return {f"100M-{form}": partial(measure, "100M", form, quick) for form in ("fp32",)}
