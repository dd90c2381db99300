"""Greedy generation as all contestants are measured: the prompt apart from what follows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import data
from serve import Turns

Generate = Callable[[list[int], int], Iterator[int]]
"""Takes a prompt and how many tokens are wanted, and yields them one by one."""


def nothing() -> None:
    """Settles what leaves nothing behind."""


def serve(generate: Generate, vocabulary: int, settle: Callable[[], None] = nothing) -> None:
    """Generates as long as turns are asked for.

    The first token ends the work on the prompt; as many as are measured come after it. `settle`
    waits for what still runs then, after the time is taken and before the next contestant's turn.
    """
    turns, prompt = Turns(), data.prompt(vocabulary)
    for _ in turns:
        start = time.perf_counter()
        stream = generate(prompt, data.GENERATED + 1)
        tokens = [next(stream)]
        first = time.perf_counter()
        tokens += stream
        end = time.perf_counter()
        settle()
        if len(tokens) != data.GENERATED + 1:
            raise SystemExit(f"the model ended after {len(tokens)} tokens")
        turns.answer(
            prompt=data.PROMPT / (first - start),
            generation=data.GENERATED / (end - first),
            tokens=tokens[:16],
        )
