"""The options of training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from mlx_graft._core import check_options

__all__ = ["TrainConfig"]


def _plain(value: object, key: str = "") -> Any:
    """Returns an option as JSON has it, in which options cross over to Rust.

    Numbers of NumPy and arrays of one element are the numbers that they hold.

    Raises:
        ValueError: A number is not finite.
        TypeError: JSON has no such thing.
    """
    if isinstance(value, dict):
        return {n: _plain(item, f"{key}.{n}" if key else str(n)) for n, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, key) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if getattr(value, "size", 0) == 1 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{key}`: found {value}, wanted a finite number")
    if value is not None and not isinstance(value, str | int | float):
        raise TypeError(
            f"`{key}`: found {type(value).__name__}, wanted a number, a text, a list or a dict"
        )
    return value


@dataclass(frozen=True)
class TrainConfig:
    """The options of a `Trainer`: names and defaults of `mlx_lm.lora`, where none is told below.

    A configuration does not change, as trainers hold it; `dataclasses.replace` makes another one.

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
        TypeError: A value is neither a number nor a text, and not made of those.
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
        check_options(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Returns the options that are set, as a YAML file of `mlx_lm.lora` has them."""
        options = {key: value for key, value in asdict(self).items() if value is not None}
        if not self.optimizer_config:
            del options["optimizer_config"]
        return dict(_plain(options))
