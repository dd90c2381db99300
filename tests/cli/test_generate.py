"""`graft generate` with the flags of `mlx_lm.generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def text_of(folder: Path, prompt: str | list[dict[str, str]], **options: Any) -> str:
    """What mlx-lm generates for a text, or for a chat."""
    mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm needs Python 3.11")
    model, tokenizer = mlx_lm.load(str(folder))
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)
    return mlx_lm.generate(model, tokenizer, prompt, **options)


def test_chat_template_is_applied(graft, checkpoint) -> None:
    folder = checkpoint("qwen3")
    run = graft(
        "generate", "--model", folder, "--prompt", "the parser", "--max-tokens", 12,
        "--verbose", "False",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    chat = [{"role": "user", "content": "the parser"}]
    assert run.stdout.rstrip("\n") == text_of(folder, chat, max_tokens=12).rstrip("\n")


def test_raw_prompt(graft, checkpoint) -> None:
    folder = checkpoint("llama")
    run = graft(
        "generate", "--model", folder, "--prompt", "the parser", "--max-tokens", 12,
        "--ignore-chat-template", "--verbose", "F",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.rstrip("\n") == text_of(folder, "the parser", max_tokens=12).rstrip("\n")


def test_verbose_tells_speed_and_memory(graft, checkpoint) -> None:
    run = graft("generate", "--model", checkpoint("llama"), "--prompt", "a", "--max-tokens", 4)
    assert run.returncode == 0, run.stderr
    for part in ("==========", "Prompt:", "Generation:", "tokens-per-sec", "Peak memory:"):
        assert part in run.stdout


@pytest.mark.parametrize(
    "options",
    [
        {"max_kv_size": 16},
        {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0},
    ],
)
def test_cache_options(options, graft, checkpoint) -> None:
    folder = checkpoint("qwen3")
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    prompt = "the parser returns a new list, and the list holds every argument in order"
    run = graft(
        "generate", "--model", folder, "--prompt", prompt, "--max-tokens", 24,
        "--ignore-chat-template", "--verbose", "F", *flags,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    expected = text_of(folder, prompt, max_tokens=24, **options)
    assert run.stdout.rstrip("\n") == expected.rstrip("\n")


def test_seed(graft, checkpoint) -> None:
    def sample(seed: int) -> str:
        run = graft(
            "generate", "--model", checkpoint("llama"), "--prompt", "a", "--max-tokens", 16,
            "--temp", 1.0, "--top-p", 0.95, "--seed", seed, "--verbose", "False",
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert sample(3) == sample(3)
    assert sample(3) != sample(4)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str, graft) -> None:
    run = graft("generate", flag)
    assert run.returncode == 0
    for name in ("--model", "--adapter-path", "--prompt", "--max-tokens", "--temp", "--top-p"):
        assert name in run.stdout
    for name in ("--top-k", "--min-p", "--seed", "--ignore-chat-template"):
        assert name in run.stdout
