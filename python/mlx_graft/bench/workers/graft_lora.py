"""Steps of this project's trainer."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import data
import mlx.core as mx
from serve import Turns

import mlx_graft as mg


def main() -> None:
    """Trains as long as turns are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("adapters", type=Path, nargs="?", help="instead of those of the model")
    parser.add_argument("--grad-checkpoint", action="store_true")
    parser.add_argument("--length", type=int, default=data.LENGTH)
    parser.add_argument("--rank", type=int, help="new adapters instead of those of the folder")
    options = parser.parse_args()
    if options.rank is None:
        model, _ = mg.load(options.model, options.adapters or options.model / "adapters")
    else:
        model, _ = mg.load(options.model)
        keys = ["self_attn.q_proj", "self_attn.v_proj"]
        mg.apply_lora(model, rank=options.rank, keys=keys, num_layers=-1)
    rows = data.batch(model.vocab_size, options.length)
    batch, lengths = mx.array(rows), mx.array([len(row) for row in rows])
    config = mg.TrainConfig(
        learning_rate=data.LEARNING_RATE,
        optimizer="adamw",
        optimizer_config={"adamw": {"weight_decay": data.WEIGHT_DECAY, "bias_correction": True}},
        grad_checkpoint=options.grad_checkpoint,
    )
    trainer = mg.Trainer(model, config)
    turns = Turns()
    for _ in turns:
        start = time.perf_counter()
        loss = trainer.step(batch, lengths).item()
        seconds = time.perf_counter() - start
        turns.answer(seconds=seconds, loss=loss, arrays=mx.get_peak_memory())


if __name__ == "__main__":
    main()
