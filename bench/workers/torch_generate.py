"""Generation with PyTorch and transformers. Usage: torch_generate.py MODEL DTYPE."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import data
import generation
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Serves the model."""
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
    model.train(False)

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        tokens, cache = torch.tensor([prompt]), None
        for _ in range(count):
            out = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            tokens, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            yield int(tokens)

    torch.set_grad_enabled(False)
    generation.serve(generate, data.vocabulary(sys.argv[1]))


if __name__ == "__main__":
    main()
