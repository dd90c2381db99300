"""Generation with llama.cpp. Usage: llama_cpp_generate.py FILE.

It calls the C functions, so that nothing of the Python package's own sampling is measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import data
import generation
import llama_cpp
import numpy as np


def main() -> None:
    """Serves the model."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), options)
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = data.PROMPT + data.GENERATED + 64
    options.n_batch = options.n_ubatch = data.PROMPT
    options.n_threads = options.n_threads_batch = cores
    context = llama_cpp.llama_init_from_model(model, options)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def decode(tokens: list[int]) -> int:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        if llama_cpp.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, (vocabulary,)).argmax())

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        token = decode(prompt)
        yield token
        for _ in range(count - 1):
            token = decode([token])
            yield token

    generation.serve(generate, vocabulary)


if __name__ == "__main__":
    main()
