"""Greedy generation gives mlx-lm's tokens; sampling obeys its flags."""

from __future__ import annotations

import inspect
import json
import shutil
from typing import Any

import pytest

import mlx_graft as mg
from support import peer  # skips the module where mlx-lm is missing
from support.checkpoints import FAMILIES

PROMPT = "the parser returns a new list, and"


def their_responses(
    folder: Any, prompt: Any, count: int, adapter_path: str | None = None, **options: Any
) -> list[tuple[int, str]]:
    from mlx_lm import load, stream_generate

    model, tokenizer = load(str(folder), adapter_path=adapter_path)
    responses = stream_generate(model, tokenizer, prompt, max_tokens=count, **options)
    return [(r.token, r.text) for r in responses]


def their_tokens(*arguments: Any, **options: Any) -> list[int]:
    return [token for token, _ in their_responses(*arguments, **options)]


def ids(count: int) -> list[int]:
    return [(7 * i) % 300 + 5 for i in range(count)]


def test_a_token_that_ends_the_text(checkpoint, tmp_path) -> None:
    """With `ignore_eos` it ends nothing, as in mlx-lm's `generate_step`."""
    tokens = their_tokens(checkpoint("llama"), PROMPT, 8)
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": tokens[2]}))
    assert tokens[2] not in tokens[:2]
    model, tokenizer = mg.load(folder)
    stopped, whole = (
        list(mg.stream_generate(model, tokenizer, PROMPT, 8, ignore_eos=ignored))
        for ignored in (False, True)
    )
    assert [r.token for r in stopped] == tokens[:3] == their_tokens(folder, PROMPT, 8)
    assert [r.token for r in whole] == tokens
    assert (stopped[-1].finish_reason, whole[-1].finish_reason) == ("stop", "length")
    assert "".join(r.text for r in whole) == tokenizer.decode(tokens).removeprefix(" ")


@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4bit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens(family: str, bits: int | None, checkpoint) -> None:
    folder = checkpoint(family, bits=bits)
    model, tokenizer = mg.load(folder)
    responses = list(mg.stream_generate(model, tokenizer, PROMPT, max_tokens=32))
    theirs = their_responses(folder, PROMPT, 32)
    assert [r.token for r in responses] == [token for token, _ in theirs]
    # Bytes that are no text do not wait for the end as long here as there.
    text = mg.generate(model, tokenizer, PROMPT, max_tokens=32)
    assert text == "".join(r.text for r in responses) == "".join(text for _, text in theirs)
    assert responses[-1].finish_reason in ("length", "stop")


def test_with_adapters(checkpoint, tmp_path) -> None:
    folder = checkpoint("qwen3")
    adapters = peer.save_adapters(peer.with_lora(peer.load(folder)), tmp_path / "adapters")
    model, tokenizer = mg.load(folder, adapter_path=adapters)
    tokens = [r.token for r in mg.stream_generate(model, tokenizer, PROMPT, max_tokens=24)]
    assert tokens == their_tokens(folder, PROMPT, 24, adapter_path=str(adapters))


def test_prompt_of_ids_longer_than_a_prefill_step(checkpoint) -> None:
    folder = checkpoint("llama3")
    model, tokenizer = mg.load(folder)
    prompt = ids(150)
    responses = mg.stream_generate(model, tokenizer, prompt, max_tokens=16, prefill_step_size=64)
    assert [r.token for r in responses] == their_tokens(folder, prompt, 16)


@pytest.mark.parametrize("prefill", [2048, 16])
@pytest.mark.parametrize("length", [3, 30, 150])
def test_sliding_window(length: int, prefill: int, checkpoint) -> None:
    folder = checkpoint("llama-sliding")
    model, tokenizer = mg.load(folder)
    options = {"prefill_step_size": prefill}
    responses = mg.stream_generate(model, tokenizer, ids(length), max_tokens=60, **options)
    assert [r.token for r in responses] == their_tokens(folder, ids(length), 60, **options)


@pytest.mark.parametrize("prefill", [2048, 16])
@pytest.mark.parametrize("length", [3, 30, 150])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_max_kv_size(family: str, length: int, prefill: int, checkpoint) -> None:
    folder = checkpoint(family)
    model, tokenizer = mg.load(folder)
    options = {"max_kv_size": 24, "prefill_step_size": prefill}
    responses = mg.stream_generate(model, tokenizer, ids(length), max_tokens=60, **options)
    assert [r.token for r in responses] == their_tokens(folder, ids(length), 60, **options)


@pytest.mark.parametrize("start", [0, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_cache(bits: int, start: int, checkpoint) -> None:
    folder = checkpoint("qwen3")  # its heads have 32 features, the smallest group there is
    model, tokenizer = mg.load(folder)
    options = {"kv_bits": bits, "kv_group_size": 32, "quantized_kv_start": start}
    responses = mg.stream_generate(model, tokenizer, ids(30), max_tokens=40, **options)
    assert [r.token for r in responses] == their_tokens(folder, ids(30), 40, **options)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"kv_bits": 7}, ["kv_bits 7", "2, 3, 4, 5, 6, 8"]),
        ({"kv_bits": 4, "kv_group_size": 48}, ["kv_group_size 48", "32, 64, 128"]),
        ({"kv_bits": 4, "kv_group_size": 128, "quantized_kv_start": 0}, ["128", "divide"]),
        ({"max_kv_size": 0}, ["max_kv_size", "at least 1"]),
    ],
)
def test_cache_options_out_of_range(options, parts: list[str], checkpoint) -> None:
    model, tokenizer = mg.load(checkpoint("llama"))
    with pytest.raises(ValueError) as raised:
        list(mg.stream_generate(model, tokenizer, ids(30), max_tokens=4, **options))
    assert all(part in str(raised.value) for part in parts)


def test_a_rotating_cache_is_not_quantized(checkpoint) -> None:
    model, tokenizer = mg.load(checkpoint("llama"))
    options = {"max_kv_size": 16, "kv_bits": 4, "quantized_kv_start": 0}
    with pytest.raises(NotImplementedError, match="leave one of them out"):
        list(mg.stream_generate(model, tokenizer, ids(30), max_tokens=4, **options))


def test_the_same_seed_samples_the_same(checkpoint) -> None:
    import mlx.core as mx

    model, tokenizer = mg.load(checkpoint("llama"))
    options = {"max_tokens": 24, "temp": 1.0, "top_p": 0.9, "top_k": 50, "min_p": 0.01}

    def sample(seed: int) -> str:
        mx.random.seed(seed)
        return mg.generate(model, tokenizer, PROMPT, **options)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_one_candidate_left_is_greedy(checkpoint) -> None:
    model, tokenizer = mg.load(checkpoint("llama"))
    greedy = mg.generate(model, tokenizer, PROMPT, max_tokens=16)
    for one_left in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert mg.generate(model, tokenizer, PROMPT, max_tokens=16, temp=1.0, **one_left) == greedy


def test_defaults_of_sampling_are_mlx_lms() -> None:
    from mlx_lm.sample_utils import make_sampler

    ours = inspect.signature(mg.stream_generate).parameters
    theirs = inspect.signature(make_sampler).parameters
    shared = ours.keys() & theirs.keys()
    assert {"temp", "top_p", "top_k", "xtc_probability", "xtc_threshold"} <= shared
    for name in shared:
        assert ours[name].default == theirs[name].default, name
