"""The options of training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlx_graft._core import check_options

__all__ = ["TrainConfig"]


def _check_finite(value: object, key: str = "") -> None:
    """Fails if there is a number that JSON does not have: options cross over to Rust as JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_finite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            _check_finite(item, key)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{key}`: found {value}, wanted a finite number")


@dataclass
class TrainConfig:
    """The options of a `Trainer`: names and defaults of `mlx_lm.lora`, where none is told below.

    Attributes:
        learning_rate: The learning rate when there is no `lr_schedule`.
        iters: Iterations, one batch each.
        batch_size: Rows in a batch.
        optimizer: `adam` or `adamw`.
        optimizer_config: Options by optimizer, such as `{"adamw": {"weight_decay": 0.1}}`.
        val_batches: Batches of a validation, -1 for the whole set.
        steps_per_report: Iterations between reports of the training loss.
        steps_per_eval: Iterations between validations.
        save_every: Iterations between saves.
        adapter_path: Where `Trainer.fit` writes adapters and `metrics.jsonl`; nowhere if `None`.
        max_seq_length: Longer rows are cut to this many tokens.
        grad_checkpoint: Whether layers are computed again in the backward pass.
        grad_accumulation_steps: Batches whose gradients are averaged into one update.
        lr_schedule: mlx-lm's `name`, `arguments`, `warmup` and `warmup_init`.
        clear_cache_threshold: Free the allocator's cache when it holds more bytes than this; 0
            means never, where mlx-lm frees it at every step.
        group_by_length: Whether batches are made of rows of similar lengths, so that less is
            padding; they are not the batches of mlx-lm then.
        memory_limit: The memory limit of MLX in bytes, or as text such as `8GB`.
        cache_limit: The most bytes that MLX keeps for reuse.
        seed: The seed of the order of batches and of dropout.

    Raises:
        ValueError: A value cannot be; the message says what was found and what is wanted.
    """

    learning_rate: float = 1e-5
    iters: int = 1000
    batch_size: int = 4
    optimizer: str = "adam"
    optimizer_config: dict[str, dict[str, Any]] = field(default_factory=dict)
    val_batches: int = 25
    steps_per_report: int = 10
    steps_per_eval: int = 200
    save_every: int = 100
    adapter_path: str | Path | None = None
    max_seq_length: int = 2048
    grad_checkpoint: bool = False
    grad_accumulation_steps: int = 1
    lr_schedule: dict[str, Any] | None = None
    clear_cache_threshold: int = 0
    group_by_length: bool = False
    memory_limit: int | str | None = None
    cache_limit: int | str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        options = self.to_dict()
        _check_finite(options)
        check_options(options)

    def to_dict(self) -> dict[str, Any]:
        """Returns the options that are set, as a YAML file of `mlx_lm.lora` has them."""
        options = {key: value for key, value in asdict(self).items() if value is not None}
        if not self.optimizer_config:
            del options["optimizer_config"]
        if self.adapter_path is not None:
            options["adapter_path"] = str(self.adapter_path)
        return options
