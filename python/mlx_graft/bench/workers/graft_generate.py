"""Generation with this project. Usage: graft_generate.py MODEL."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import generation

import mlx_graft as mg


def main() -> None:
    """Serves the model."""
    model, tokenizer = mg.load(sys.argv[1])

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        for response in mg.stream_generate(model, tokenizer, prompt, count, ignore_eos=True):
            yield response.token

    generation.serve(generate, model.vocab_size)


if __name__ == "__main__":
    main()
