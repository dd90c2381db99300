"""The trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx

from mlx_graft._core import Dataset, Model
from mlx_graft._core import Trainer as _Trainer
from mlx_graft.config import TrainConfig
from mlx_graft.generate import plain_tokens

__all__ = ["Trainer"]

Rows: TypeAlias = Dataset | Sequence[Sequence[int] | mx.array]


def _dataset(rows: Rows | None) -> Dataset:
    if isinstance(rows, Dataset):
        return rows
    if rows is None:
        raise ValueError(
            "found no data set: `load_dataset` gives None for a file that its folder lacks"
        )
    return Dataset.from_tokens([plain_tokens(row) for row in rows])


class Trainer:
    """Trains the trainable parameters of a model.

    Forward, backward and the update of all parameters are one compiled graph with one evaluation.

    Example:
        >>> trainer = Trainer(model, TrainConfig(learning_rate=1e-4))  # doctest: +SKIP
        >>> loss = trainer.step(tokens, lengths)  # doctest: +SKIP

    Raises:
        ValueError: An option is wrong, or the model has no trainable parameters.
        NotImplementedError: `mlx.launch` or `mpirun` started several processes, which would write
            the same files.
    """

    def __init__(self, model: Model, config: TrainConfig | None = None) -> None:
        self.config = config or TrainConfig()
        self._trainer = _Trainer(model, self.config.to_dict())

    def step(self, tokens: mx.array, lengths: mx.array) -> mx.array:
        """Trains on one batch.

        Args:
            tokens: int32 `(B, T)`.
            lengths: int32 `(B, 2)`, the first and the last position of each row that counts as a
                target, from 0 and inclusive, as in mlx-lm: what lies outside is padding. A row of
                n tokens, all of which count, has `(0, n - 1)`. Or `(B,)`, the last ones only.

        Returns:
            The mean loss per token before the update, a float32 scalar.

        Raises:
            ValueError: A shape or a dtype is another, or there are fewer than two columns.
            IndexError: A token is outside the vocabulary.
            FloatingPointError: The loss or a gradient is NaN or infinite; the parameters are then
                as before, and gradients that were accumulated are dropped.
            RuntimeError: The evaluation of an earlier step failed, so that the parameters are of no
                use: load the model again.
        """
        return self._trainer.step(tokens, lengths)

    def evaluate(self, data: Rows | None, num_batches: int = -1) -> float:
        """Returns the mean loss per token over a data set, or over some batches of it.

        Args:
            data: A `Dataset`, or rows of tokens.
            num_batches: How many batches, -1 for all.

        Raises:
            ValueError: `num_batches` is 0 or below -1, a batch has nothing to learn, or `data` is
                `None`, as `load_dataset` gives for a file that is missing.
        """
        return self._trainer.evaluate(_dataset(data), num_batches)

    def fit(
        self,
        train: Rows | None,
        valid: Rows | None = None,
        callbacks: Sequence[Any] = (),
        *,
        resume: bool = False,
    ) -> None:
        """Trains for `config.iters` iterations, with validation, reports and saves.

        Args:
            train: The training data: a `Dataset`, or rows of tokens.
            valid: The validation data; without rows there is no validation.
            callbacks: Objects with `on_train_loss_report(info)` or `on_val_loss_report(info)`, as
                mlx-lm's `TrainingCallback`. An exception of theirs ends the training.
            resume: Whether to go on with the training that was stopped in `adapter_path`, with
                another trainer of the same model and adapters. The weights in the end are those
                that it would have had. Without one, the training starts from the beginning.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the step was finished, and what was reached is
                saved if there is an `adapter_path`, as after any other exception.
            FloatingPointError: The loss or a gradient is NaN or infinite.
            ValueError: A batch has nothing to learn; the message names the file and the line. Or,
                with `resume`, there is no `adapter_path`, or the training in it had other data,
                options or adapters, or saved no state in the place of an earlier one's. Or, without
                it, the folder has the states of two trainings, of which this would replace one.
            OSError: `adapter_path` cannot be made or written; the message names it.
            RuntimeError: As for `step`.
        """
        folder = self.config.adapter_path
        if resume and folder is None:
            raise ValueError(
                "resume goes on with what is saved in `adapter_path`, which is not set"
            )
        self._trainer.fit(
            _dataset(train),
            None if valid is None or len(valid) == 0 else _dataset(valid),
            list(callbacks),
            None if folder is None else Path(folder),
            resume,
        )

    def save(self, folder: str | Path) -> None:
        """Writes `adapters.safetensors` and `adapter_config.json`, as mlx-lm reads them.

        The configuration has how the adapters were made and the options of `config`.
        """
        self._trainer.save(Path(folder))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return self._trainer.learning_rate

    @property
    def step_count(self) -> int:
        """The number of batches trained on."""
        return self._trainer.step_count
