"""Generation of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from mlx_graft import random_state
from mlx_graft._core import Generation, GenerationResponse, Model, Tokenizer

__all__ = ["generate", "stream_generate"]


def stream_generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    max_tokens: int = 256,
    *,
    temp: float = 0.0,
    top_p: float = 0.0,
    min_p: float = 0.0,
    min_tokens_to_keep: int = 1,
    top_k: int = 0,
    xtc_probability: float = 0.0,
    xtc_threshold: float = 0.0,
    prefill_step_size: int = 2048,
) -> Iterator[GenerationResponse]:
    """Generates text token by token: mlx-lm's `stream_generate`.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompt: Text, or tokens such as a chat template's.
        max_tokens: The most tokens; -1 for no limit.
        temp: The temperature; 0 takes the likeliest token.
        top_p: Sample from the likeliest tokens that hold this much probability; 0 and 1 mean all.
        min_p: Drop tokens less likely than this share of the likeliest.
        min_tokens_to_keep: How many tokens `min_p` leaves at least.
        top_k: Sample from this many likeliest tokens; 0 means all.
        xtc_probability: The chance that XTC sampling happens at a token.
        xtc_threshold: The probability above which XTC drops all tokens but the least likely.
        prefill_step_size: Tokens of the prompt that are processed at a time.

    Yields:
        A response per token with `text`, `token`, `finish_reason` and speeds.

    Raises:
        ValueError: The prompt is empty, or an option is out of range.
    """
    if isinstance(prompt, str):
        # As in mlx-lm: a template's text brings its own special tokens.
        bos = tokenizer.bos_token_id
        special = bos is None or not prompt.startswith(tokenizer.decode([bos]))
        prompt = tokenizer.encode(prompt, add_special_tokens=special)
    key = mx.random.split(random_state.current())[1]
    random_state.advance(1)
    yield from Generation(
        model,
        tokenizer,
        list(prompt),
        key,
        max_tokens=max_tokens,
        temp=temp,
        top_p=top_p,
        min_p=min_p,
        min_tokens_to_keep=min_tokens_to_keep,
        top_k=top_k,
        xtc_probability=xtc_probability,
        xtc_threshold=xtc_threshold,
        prefill_step_size=prefill_step_size,
    )


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    max_tokens: int = 256,
    *,
    temp: float = 0.0,
    top_p: float = 0.0,
    min_p: float = 0.0,
    min_tokens_to_keep: int = 1,
    top_k: int = 0,
    xtc_probability: float = 0.0,
    xtc_threshold: float = 0.0,
    prefill_step_size: int = 2048,
) -> str:
    """Generates text: mlx-lm's `generate`. The arguments are those of `stream_generate`."""
    responses = stream_generate(
        model,
        tokenizer,
        prompt,
        max_tokens,
        temp=temp,
        top_p=top_p,
        min_p=min_p,
        min_tokens_to_keep=min_tokens_to_keep,
        top_k=top_k,
        xtc_probability=xtc_probability,
        xtc_threshold=xtc_threshold,
        prefill_step_size=prefill_step_size,
    )
    return "".join(response.text for response in responses)
