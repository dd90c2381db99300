"""Generation of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import mlx.core as mx

from mlx_graft._core import Generation, GenerationResponse, Model, Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["generate", "stream_generate"]


class GenerateOptions(TypedDict, total=False):
    """The keyword arguments of `stream_generate`, which explains them."""

    max_tokens: int
    temp: float
    top_p: float
    min_p: float
    min_tokens_to_keep: int
    top_k: int
    xtc_probability: float
    xtc_threshold: float
    prefill_step_size: int
    max_kv_size: int | None
    kv_bits: int | None
    kv_group_size: int
    quantized_kv_start: int
    ignore_eos: bool


def plain_tokens(tokens: Sequence[int] | mx.array) -> list[int]:
    """Returns tokens, a sequence or an array of one dimension of MLX or NumPy, as a list."""
    found: Any = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
    if not isinstance(found, list) or any(isinstance(token, list) for token in found):
        shape = f"shape {tuple(tokens.shape)}" if hasattr(tokens, "shape") else "several rows"
        raise ValueError(f"found tokens of {shape}, wanted one dimension: one row")
    return found


def stream_generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int] | mx.array,
    max_tokens: int = 256,
    *,
    temp: float = 0.0,
    top_p: float = 0.0,
    min_p: float = 0.0,
    min_tokens_to_keep: int = 1,
    top_k: int = 0,
    xtc_probability: float = 0.0,
    xtc_threshold: float = 0.1,
    prefill_step_size: int = 2048,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 5000,
    ignore_eos: bool = False,
) -> Iterator[GenerationResponse]:
    """Generates text token by token: mlx-lm's `stream_generate`.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompt: Text, or tokens such as a chat template's, a sequence or an array.
        max_tokens: The most tokens; -1 for no limit.
        temp: The temperature; 0 takes the likeliest token.
        top_p: Sample from the likeliest tokens that hold this much probability; 0 and 1 mean all.
        min_p: Drop tokens less likely than this share of the likeliest.
        min_tokens_to_keep: How many tokens `min_p` leaves at least.
        top_k: Sample from this many likeliest tokens; 0 means all.
        xtc_probability: The chance that XTC sampling happens at a token.
        xtc_threshold: The probability above which XTC drops all tokens but the least likely.
        prefill_step_size: Tokens of the prompt that are processed at a time.
        max_kv_size: The most tokens whose keys and values are held; the first four always are.
        kv_bits: Holds keys and values in so many bits: 2, 3, 4, 5, 6 or 8.
        kv_group_size: Elements that share a scale then: 32, 64 or 128.
        quantized_kv_start: The number of tokens from which on `kv_bits` holds.
        ignore_eos: Whether the text goes on behind a token that ends it, up to `max_tokens`, as
            mlx-lm's `generate_step` does.

    Yields:
        A response per token with `text`, `token`, `finish_reason` and speeds.

    Raises:
        ValueError: The prompt is empty, or an option is out of range.
        NotImplementedError: `kv_bits` with a cache that forgets tokens.
    """
    if isinstance(prompt, str):
        # As in mlx-lm: a template's text brings its own special tokens.
        bos = tokenizer.bos_token_id
        special = bos is None or not prompt.startswith(tokenizer.decode([bos]))
        prompt = tokenizer.encode(prompt, add_special_tokens=special)
    yield from Generation(
        model,
        tokenizer,
        plain_tokens(prompt),
        max_tokens=max_tokens,
        temp=temp,
        top_p=top_p,
        min_p=min_p,
        min_tokens_to_keep=min_tokens_to_keep,
        top_k=top_k,
        xtc_probability=xtc_probability,
        xtc_threshold=xtc_threshold,
        prefill_step_size=prefill_step_size,
        max_kv_size=max_kv_size,
        kv_bits=kv_bits,
        kv_group_size=kv_group_size,
        quantized_kv_start=quantized_kv_start,
        ignore_eos=ignore_eos,
    )


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int] | mx.array,
    **options: Unpack[GenerateOptions],
) -> str:
    """Generates text: mlx-lm's `generate`. The arguments are those of `stream_generate`."""
    responses = stream_generate(model, tokenizer, prompt, **options)
    return "".join(response.text for response in responses)
