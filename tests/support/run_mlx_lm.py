"""Runs `mlx_lm.lora` with this process's arguments and writes its reports, unrounded, as JSON.

Usage: python run_mlx_lm.py LOG [flags of mlx_lm.lora]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx_lm.lora as lora
from mlx_lm.tuner.callbacks import TrainingCallback


class Log(TrainingCallback):
    def __init__(self, path: Path) -> None:
        self.file = path.open("w", buffering=1)

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        print(json.dumps(train_info), file=self.file)

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        print(json.dumps(val_info), file=self.file)


def main() -> None:
    log = Log(Path(sys.argv.pop(1)))
    lora.get_reporting_callbacks = lambda *_args, **_kwargs: log
    lora.main()


if __name__ == "__main__":
    main()
