"""Runs `mlx_lm.lora` unchanged, and writes what it reports to its callbacks, unrounded.

Usage: python peer_lora.py LOG [flags of mlx_lm.lora]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx_lm.lora
from mlx_lm.tuner.callbacks import TrainingCallback


class Log(TrainingCallback):
    """Writes one JSON line per report."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """Writes a training report."""
        with self.path.open("a") as file:
            print(json.dumps(train_info), file=file)


if __name__ == "__main__":
    log = Log(Path(sys.argv.pop(1)))
    lora: Any = mlx_lm.lora
    lora.get_reporting_callbacks = lambda *_args, **_kwargs: log
    lora.main()
