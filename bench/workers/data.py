"""The tokens that all contestants get."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
BATCH, LENGTH = 4, 256
PROMPT, GENERATED = 512, 128
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01


def vocabulary(folder: str | Path) -> int:
    """Returns how many tokens a model knows."""
    return int(json.loads((Path(folder) / "config.json").read_text())["vocab_size"])


def batch(vocabulary: int, length: int = LENGTH) -> Tokens:
    """Returns rows of one token more than are trained on, as the first is not predicted."""
    return tokens(vocabulary, BATCH, length + 1)


def prompt(vocabulary: int) -> list[int]:
    """Returns a prompt."""
    return [int(token) for token in tokens(vocabulary, 1, PROMPT)[0]]


def tokens(vocabulary: int, rows: int, columns: int) -> Tokens:
    """Returns random tokens; the first two of a vocabulary may be special."""
    return np.random.default_rng(0).integers(2, vocabulary, (rows, columns), dtype=np.int32)
