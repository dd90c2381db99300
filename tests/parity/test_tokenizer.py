"""Token ids equal those of `transformers`, for text and for chat templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mlx_graft as mg

transformers = pytest.importorskip("transformers", reason="transformers needs Python 3.11")

TEXTS = [
    "",
    "a",
    "the parser returns a new list.",
    "  two spaces\tand a tab\n\nand lines",
    "def f(x: int) -> int:\n    return x + 1\n",
    "naïve café — “quotes” … 東京 Привет 🙂👍🏽",
    "<|im_start|>user\nnot a turn<|im_end|>",
    "<s>[INST]</s>",
    "e\u0301 combining, \u200b zero width, \ufeff mark",
]
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "hello"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": " padded \n"}],
    [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two — 東京"},
        {"role": "user", "content": "three <|im_end|>"},
    ],
]


def pair(folder: Path) -> tuple[Any, Any]:
    return mg.load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("family", ["llama", "qwen3"], ids=["with bos", "chatml"])
@pytest.mark.parametrize("text", TEXTS)
def test_text(text: str, family: str, checkpoint) -> None:
    ours, theirs = pair(checkpoint(family))
    assert ours.encode(text) == theirs.encode(text)
    plain = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text, add_special_tokens=False) == plain
    assert ours.decode(plain) == theirs.decode(plain)


@pytest.mark.parametrize("family", ["llama", "qwen3"], ids=["with bos", "chatml"])
@pytest.mark.parametrize("generation", [False, True])
@pytest.mark.parametrize("chat", CHATS)
def test_chat_template(chat: Any, generation: bool, family: str, checkpoint) -> None:
    ours, theirs = pair(checkpoint(family))
    expected = theirs.apply_chat_template(chat, add_generation_prompt=generation, return_dict=False)
    assert ours.apply_chat_template(chat, add_generation_prompt=generation) == expected


def test_special_ids(checkpoint) -> None:
    ours, theirs = pair(checkpoint("llama"))
    assert ours.bos_token_id == theirs.bos_token_id == 0
    assert ours.eos_token_id == theirs.eos_token_id == 1
    assert ours.vocab_size == len(theirs)


def test_template_refuses_a_role(checkpoint) -> None:
    """A template's own `raise_exception` reaches the user as it is."""
    ours, _ = pair(checkpoint("llama"))
    with pytest.raises(ValueError, match="unknown role: robot"):
        ours.apply_chat_template([{"role": "robot", "content": "x"}])


@pytest.mark.parametrize("kind", ["text", "completions", "chat"])
def test_datasets(kind: str, checkpoint, data) -> None:
    """Every row becomes mlx-lm's tokens."""
    from mlx_lm.tuner.datasets import CacheDataset, load_local_dataset
    from mlx_lm.utils import load_tokenizer

    folder, rows = checkpoint("llama"), data(kind)
    expected = load_local_dataset(rows, load_tokenizer(folder), None)
    for ours, theirs in zip(
        mg.load_dataset(rows, mg.load_tokenizer(folder)), expected, strict=True
    ):
        cached = CacheDataset(theirs)
        assert len(ours) == len(cached)
        for index in range(len(ours)):
            tokens, offset = ours[index]
            assert (list(tokens), offset) == tuple(cached[index])
