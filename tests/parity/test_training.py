"""Twenty steps from the same adapters on the same batches give mlx-lm's losses and weights."""

from __future__ import annotations

import json
import shutil
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest

import mlx_graft as mg
from support import peer
from support.checkpoints import FAMILIES

RATE = 5e-4
STEPS = 20


def batches() -> list[tuple[mx.array, mx.array]]:
    """Two batches in turns, of different lengths, so that the loss must fall and traces differ."""
    short, long = peer.batches(1, width=33), peer.batches(1, width=48, seed=2)
    return (short + long) * (STEPS // 2)


def assert_same(ours, expected, losses: list[float], expected_losses: list[float]) -> None:
    assert expected_losses[-2] <= 0.8 * expected_losses[0], "the rate must lower the loss"
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    names = peer.flat(expected.trainable_parameters())
    values = peer.flat(ours.trainable_parameters())
    assert sorted(values) == sorted(names)
    for name, value in names.items():
        assert mx.abs(values[name] - value).max().item() <= 1e-3, name


@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4bit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora(family: str, bits: int | None, checkpoint, tmp_path) -> None:
    folder = checkpoint(family, bits=bits)
    theirs = peer.with_lora(peer.load(folder))
    adapters = peer.save_adapters(theirs, tmp_path / "adapters")
    ours, _ = mg.load(folder)
    ours.load_adapters(adapters)

    data = batches()
    expected = peer.train(theirs, optim.Adam(learning_rate=RATE), data)
    trainer = mg.Trainer(ours, mg.TrainConfig(learning_rate=RATE, iters=STEPS))
    losses = [trainer.step(tokens, lengths).item() for tokens, lengths in data]
    assert trainer.step_count == STEPS
    assert_same(ours, theirs, losses, expected)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_full(family: str, optimizer: str, checkpoint) -> None:
    folder = checkpoint(family)
    theirs = peer.load(folder)
    ours, _ = mg.load(folder)
    ours.unfreeze()

    data = batches()
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[optimizer]
    expected = peer.train(theirs, kind(learning_rate=RATE), data)
    config = mg.TrainConfig(learning_rate=RATE, iters=STEPS, optimizer=optimizer)
    trainer = mg.Trainer(ours, config)
    losses = [trainer.step(tokens, lengths).item() for tokens, lengths in data]
    assert_same(ours, theirs, losses, expected)


def test_adamw_on_adapters(checkpoint, tmp_path) -> None:
    folder = checkpoint("smollm")
    theirs = peer.with_lora(peer.load(folder))
    ours, _ = mg.load(folder)
    ours.load_adapters(peer.save_adapters(theirs, tmp_path / "adapters"))
    data = batches()
    expected = peer.train(theirs, optim.AdamW(learning_rate=RATE), data)
    config = mg.TrainConfig(learning_rate=RATE, iters=STEPS, optimizer="adamw")
    trainer = mg.Trainer(ours, config)
    losses = [trainer.step(tokens, lengths).item() for tokens, lengths in data]
    assert_same(ours, theirs, losses, expected)


def test_gradient_checkpointing_changes_nothing(checkpoint, tmp_path) -> None:
    folder = checkpoint("llama")
    theirs = peer.with_lora(peer.load(folder))
    adapters = peer.save_adapters(theirs, tmp_path / "adapters")
    runs = []
    for grad_checkpoint in (False, True):
        model, _ = mg.load(folder)
        model.load_adapters(adapters)
        config = mg.TrainConfig(learning_rate=RATE, grad_checkpoint=grad_checkpoint)
        trainer = mg.Trainer(model, config)
        runs.append([trainer.step(*batch).item() for batch in batches()])
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


def test_lengths_alone_count_from_the_first_token(checkpoint) -> None:
    """A vector of lengths is mlx-lm's pairs with the offsets zero."""
    tokens, _ = peer.batches(1)[0]
    lengths = mx.array([10, 20, 30, 32], dtype=mx.int32)
    pairs = mx.stack([mx.zeros_like(lengths), lengths], axis=1)
    losses = []
    for given in (lengths, pairs):
        model, _ = mg.load(checkpoint("llama"))
        model.unfreeze()
        losses.append(mg.Trainer(model, mg.TrainConfig()).step(tokens, given).item())
    assert losses[0] == losses[1]


def test_evaluate_equals_mlx_lm(checkpoint, data) -> None:
    from mlx_lm.tuner.datasets import CacheDataset, load_local_dataset
    from mlx_lm.tuner.trainer import evaluate
    from mlx_lm.utils import load_tokenizer

    folder, rows = checkpoint("qwen2"), data("completions")
    model, tokenizer = mg.load(folder)
    _, valid, _ = mg.load_dataset(rows, tokenizer)
    trainer = mg.Trainer(model, mg.TrainConfig(batch_size=2, val_batches=-1, max_seq_length=256))
    _, expected_valid, _ = load_local_dataset(rows, load_tokenizer(folder), None)
    expected = evaluate(
        peer.load(folder), CacheDataset(expected_valid), 2, num_batches=-1, max_seq_length=256
    )
    assert trainer.evaluate(valid) == pytest.approx(expected, rel=1e-5)


def of_many_lengths(
    lengths: tuple[int, ...] = (5, 97, 30, 64, 8, 51), width: int = 97
) -> tuple[list[list[int]], tuple[mx.array, mx.array]]:
    """Rows of these lengths, by default six of which one is full, and as mlx-lm pads them."""
    rng = np.random.default_rng(5)
    rows = [rng.integers(3, 320, length).tolist() for length in lengths]
    tokens = np.zeros((len(rows), width), np.int32)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    return rows, (mx.array(tokens), mx.array([[0, len(row)] for row in rows]))


def fit(model: mg.Model, rows: list[list[int]], **options: Any) -> list[float]:
    """Trains on all rows in each step; returns the losses."""
    losses: list[float] = []

    class Losses:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            losses.append(info["train_loss"])

    longest = max(len(row) for row in rows)
    given = {"max_seq_length": longest, "batch_size": len(rows), "steps_per_report": 1, **options}
    config = mg.TrainConfig(learning_rate=RATE, **given)
    mg.Trainer(model, config).fit(rows, callbacks=[Losses()])
    return losses


@pytest.mark.parametrize("grad_checkpoint", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_many_lengths(family: str, grad_checkpoint: bool, checkpoint, tmp_path) -> None:
    """Rows that lie one behind the other learn what those of mlx-lm's padded batch do."""
    folder = checkpoint(family)
    theirs = peer.with_lora(peer.load(folder))
    ours, _ = mg.load(folder)
    ours.load_adapters(peer.save_adapters(theirs, tmp_path / "adapters"))
    rows, padded = of_many_lengths()
    expected = peer.train(theirs, optim.Adam(learning_rate=RATE), [padded] * STEPS)
    losses = fit(ours, rows, iters=STEPS, grad_checkpoint=grad_checkpoint)
    assert_same(ours, theirs, losses, expected)


@pytest.mark.parametrize(("lengths", "width"), [((5, 97, 30, 64, 8, 51), 97), ((270, 30, 64), 289)])
def test_angles_that_depend_on_the_length(
    lengths: tuple[int, ...], width: int, checkpoint, tmp_path
) -> None:
    """Rows of such a model stay side by side: in one row, they would all be longer. And they are
    padded as in mlx-lm, where batches of other models have fewer widths: 270 tokens get 321."""
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "dynamic")
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"] = {"type": "dynamic", "factor": 2.0}
    config["max_position_embeddings"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    theirs = peer.with_lora(peer.load(folder))
    ours, _ = mg.load(folder)
    ours.load_adapters(peer.save_adapters(theirs, tmp_path / "adapters"))
    rows, padded = of_many_lengths(lengths, width)
    expected = peer.train(theirs, optim.Adam(learning_rate=RATE), [padded] * STEPS)
    longest = width if width in lengths else 2048
    losses = fit(ours, rows, iters=STEPS, max_seq_length=longest)
    assert_same(ours, theirs, losses, expected)
