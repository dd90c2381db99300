"""The tokens that all contestants get. It runs under the peers' Python too."""

from __future__ import annotations

import json
import random
from pathlib import Path

Tokens = list[list[int]]
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
    return tokens(vocabulary, 1, PROMPT)[0]


def tokens(vocabulary: int, rows: int, columns: int) -> Tokens:
    """Returns random tokens; the first two of a vocabulary may be special."""
    draw = random.Random(0).randrange
    return [[draw(2, vocabulary) for _ in range(columns)] for _ in range(rows)]
