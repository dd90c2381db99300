"""Epochs over rows of many lengths. Usage: mixed_lora.py MODEL graft|mlx_lm ROWS."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data
import mlx.core as mx
import mlx_lm.tuner.trainer
import numpy as np
from mlx_lm.tuner.datasets import CacheDataset
from serve import Turns

import mlx_graft as mg

SHORTEST, LONGEST = 30, 480


def make_rows(vocabulary: int, count: int) -> list[list[int]]:
    """Returns rows of random lengths."""
    random = np.random.default_rng(0)
    return [
        [int(token) for token in random.integers(2, vocabulary, length)]
        for length in random.integers(SHORTEST, LONGEST + 1, count)
    ]


class Rows(list[dict[str, list[int]]]):
    """Rows as `mlx_lm.lora` holds those of a file, but for the tokenizer."""

    def process(self, row: dict[str, list[int]]) -> tuple[list[int], int]:
        """Returns the tokens of a row, and how many of them are the prompt's."""
        return row["tokens"], 0


def mlx_lm_epoch(trainer: mg.Trainer, rows: list[list[int]]) -> Callable[[], None]:
    """Returns an epoch over the batches that mlx-lm makes."""
    iterate_batches: Any = mlx_lm.tuner.trainer.iterate_batches
    dataset = CacheDataset(Rows({"tokens": row} for row in rows))

    def epoch() -> None:
        for tokens, lengths in iterate_batches(dataset, data.BATCH, 2 * LONGEST):
            trainer.step(tokens, lengths).item()

    return epoch


def graft_epoch(trainer: mg.Trainer, rows: list[list[int]]) -> Callable[[], None]:
    """Returns an epoch over the trainer's own batches."""
    return lambda: trainer.fit(rows)


def main() -> None:
    """Trains an epoch as often as turns are asked for."""
    folder, way, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    mx.random.seed(0)
    model, _ = mg.load(folder, folder / "adapters")
    rows = make_rows(model.vocab_size, count)
    config = mg.TrainConfig(
        learning_rate=data.LEARNING_RATE,
        iters=count // data.BATCH,
        batch_size=data.BATCH,
        val_batches=0,
        steps_per_report=1_000_000,
    )
    epoch = (graft_epoch if way == "graft" else mlx_lm_epoch)(mg.Trainer(model, config), rows)
    tokens = sum(len(row) - 1 for row in rows)
    turns = Turns()
    for _ in turns:
        start = time.perf_counter()
        epoch()
        turns.answer(tokens_per_second=tokens / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
