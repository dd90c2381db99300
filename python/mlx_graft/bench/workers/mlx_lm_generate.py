"""Generation with mlx-lm, unchanged. Usage: mlx_lm_generate.py MODEL."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import data
import generation
import mlx.core as mx
import mlx_lm
from mlx_lm.generate import generate_step, generation_stream, wired_limit


def main() -> None:
    """Serves the model."""
    model, *_ = mlx_lm.load(sys.argv[1])

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        for token, _ in generate_step(mx.array(prompt), model, max_tokens=count):
            yield int(token)

    def settle() -> None:
        # It computes a token more than it is asked for.
        mx.synchronize(generation_stream)

    # As `mlx_lm.generate` does, so that Metal keeps the model in memory. What it prints of a large
    # model must not be taken for an answer.
    streams: Any = [generation_stream]
    with contextlib.redirect_stdout(sys.stderr), wired_limit(model, streams):
        generation.serve(generate, data.vocabulary(sys.argv[1]), settle)


if __name__ == "__main__":
    main()
