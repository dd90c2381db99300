"""mlx-lm, the independent peer that the parity tests compare with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("mlx_lm", reason="mlx-lm needs Python 3.11")

from mlx_lm.tuner.trainer import default_loss
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model, save_config

LORA = {"rank": 4, "scale": 10.0, "dropout": 0.0}


def load(folder: Path) -> nn.Module:
    """Loads a model folder without its tokenizer."""
    model, _ = load_model(folder)
    return model


def flat(tree: Any) -> dict[str, mx.array]:
    """Flattens a tree of parameters to name -> array."""
    return dict(tree_flatten(tree))


def with_lora(model: nn.Module, *, num_layers: int = 16, seed: int = 3, **lora: Any) -> nn.Module:
    """Freezes the model and adds adapters as `mlx_lm.lora` does, then makes `lora_b` non-zero.

    mlx-lm starts `lora_b` at zero, where the gradient of `lora_a` vanishes and tests nothing.
    """
    mx.random.seed(seed)
    model.freeze()
    layers = min(num_layers, len(model.layers))
    linear_to_lora_layers(model, layers, {**LORA, **lora})
    for name, module in model.named_modules():
        if "lora_b" in module:
            noise = mx.random.normal(module.lora_b.shape, scale=0.02)
            module.lora_b = noise.astype(module.lora_b.dtype)
            assert name
    mx.eval(model.parameters())
    return model


def save_adapters(model: nn.Module, folder: Path, *, num_layers: int = 16, **lora: Any) -> Path:
    """Writes the trainable parameters and their configuration as `mlx_lm.lora` does."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = min(num_layers, len(model.layers))
    config = {
        "fine_tune_type": "lora",
        "num_layers": layers,
        "lora_parameters": {**LORA, **lora},
    }
    save_config(config, folder / "adapter_config.json")
    mx.save_safetensors(str(folder / "adapters.safetensors"), flat(model.trainable_parameters()))
    return folder


def batches(count: int, *, rows: int = 4, width: int = 33, vocab: int = 320, seed: int = 1):
    """Returns `count` pairs of tokens (rows, width) and offsets and lengths (rows, 2)."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        tokens = rng.integers(3, vocab, (rows, width)).astype(np.int32)
        lengths = rng.integers(width // 2, width, rows)
        offsets = rng.integers(0, 4, rows)
        pairs = np.stack([offsets, lengths], axis=1).astype(np.int32)
        result.append((mx.array(tokens), mx.array(pairs)))
    return result


def train(
    model: nn.Module,
    optimizer: optim.Optimizer,
    data: Iterable[tuple[mx.array, mx.array]],
) -> list[float]:
    """Runs mlx-lm's training step over the batches; returns the loss of each."""
    step = nn.value_and_grad(model, default_loss)
    losses = []
    for tokens, lengths in data:
        (loss, _), gradients = step(model, tokens, lengths)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(loss.item())
    return losses
