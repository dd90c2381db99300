"""Generation with mlx-lm, unchanged. Usage: mlx_lm_generate.py MODEL."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import data
import generation
import mlx.core as mx
import mlx_lm
from mlx_lm.generate import generate_step


def main() -> None:
    """Serves the model."""
    model, *_ = mlx_lm.load(sys.argv[1])

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        for token, _ in generate_step(mx.array(prompt), model, max_tokens=count):
            yield int(token)

    generation.serve(generate, data.vocabulary(sys.argv[1]))


if __name__ == "__main__":
    main()
