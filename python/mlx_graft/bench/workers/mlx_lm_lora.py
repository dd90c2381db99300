"""Steps of mlx-lm's own trainer, unchanged. Usage: mlx_lm_lora.py MODEL [ADAPTERS]."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data
import mlx.core as mx
import mlx.optimizers
import mlx_lm
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, train
from mlx_lm.tuner.utils import load_adapters
from serve import Turns


class Report(TrainingCallback):
    """Hands mlx-lm a batch per turn, and answers with what it reports of the step."""

    def __init__(self, batch: mx.array) -> None:
        self.turns = Turns()
        self.batch = batch
        self.start = 0.0

    def batches(self, **_options: object) -> Iterator[tuple[mx.array, mx.array]]:
        """Takes the place of mlx-lm's `iterate_batches`."""
        rows, length = self.batch.shape
        for _ in self.turns:
            self.start = time.perf_counter()
            yield self.batch, mx.array([[0, length]] * rows)

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """Is called by mlx-lm after each step."""
        seconds = time.perf_counter() - self.start
        loss = train_info["train_loss"]
        self.turns.answer(seconds=seconds, loss=loss, arrays=mx.get_peak_memory())


def main() -> None:
    """Trains as long as turns are asked for."""
    folder = Path(sys.argv[1])
    model, *_ = mlx_lm.load(str(folder))
    model.freeze()
    load_adapters(model, sys.argv[2] if len(sys.argv) > 2 else str(folder / "adapters"))
    optimizer = mlx.optimizers.AdamW(
        data.LEARNING_RATE, weight_decay=data.WEIGHT_DECAY, bias_correction=True
    )
    report = Report(mx.array(data.batch(data.vocabulary(folder))))
    with tempfile.TemporaryDirectory() as temporary:
        arguments = TrainingArgs(
            iters=1_000_000, steps_per_report=1, steps_per_save=1_000_000,
            adapter_file=f"{temporary}/adapters.safetensors",
        )  # fmt: skip
        train(
            model, optimizer, train_dataset=[], args=arguments,
            iterate_batches=report.batches, training_callback=report,
        )  # fmt: skip


if __name__ == "__main__":
    main()
