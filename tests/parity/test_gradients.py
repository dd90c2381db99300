"""Python differentiates through the Rust model: gradients equal those of `mlx.nn`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlx_graft as mg
from support import peer
from support.checkpoints import FAMILIES


def gradients(model: Any) -> tuple[float, dict[str, mx.array]]:
    from mlx_lm.tuner.trainer import default_loss

    tokens, lengths = peer.batches(1, rows=2, width=17)[0]
    # `nn.value_and_grad` asks a model for `trainable_parameters` and `update`: ours has both.
    (loss, _), tree = nn.value_and_grad(model, default_loss)(model, tokens, lengths)
    grads = peer.flat(tree)
    mx.eval(loss, grads)
    return loss.item(), grads


def assert_equal(ours: dict[str, mx.array], theirs: dict[str, mx.array]) -> None:
    assert sorted(ours) == sorted(theirs)
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        largest = mx.abs(expected).max().item()
        difference = mx.abs(ours[name] - expected).max().item()
        assert difference <= 1e-4 * largest + 1e-6, name


@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4bit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_gradients(family: str, bits: int | None, checkpoint, tmp_path) -> None:
    folder = checkpoint(family, bits=bits)
    theirs = peer.with_lora(peer.load(folder))
    adapters = peer.save_adapters(theirs, tmp_path / "adapters")
    ours, _ = mg.load(folder)
    ours.load_adapters(adapters)

    loss, grads = gradients(ours)
    expected_loss, expected = gradients(theirs)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert grads
    assert all(name.endswith(("lora_a", "lora_b")) for name in grads)
    assert_equal(grads, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_gradients(family: str, checkpoint) -> None:
    folder = checkpoint(family)
    ours, _ = mg.load(folder)
    ours.unfreeze()
    loss, grads = gradients(ours)
    expected_loss, expected = gradients(peer.load(folder))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert_equal(grads, expected)


def test_the_model_is_unchanged_after_a_gradient(checkpoint) -> None:
    """Tracing puts placeholders into the model; the values must be back afterwards."""
    model, _ = mg.load(checkpoint("qwen3"))
    model.unfreeze()
    tokens = mx.array([[4, 5, 6]], dtype=mx.int32)
    before = model(tokens)
    gradients(model)
    assert mx.array_equal(before, model(tokens))


def test_gradient_with_respect_to_an_update(checkpoint) -> None:
    """A parameter set through `update` is what the next call uses."""
    model, _ = mg.load(checkpoint("llama"))
    tokens = mx.array([[4, 5, 6]], dtype=mx.int32)
    norm = mx.zeros_like(model.parameters()["model"]["norm"]["weight"])
    model.update({"model": {"norm": {"weight": norm}}})
    assert mx.abs(model(tokens)).max().item() == 0.0
