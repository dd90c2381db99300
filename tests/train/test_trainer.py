"""The trainer through Python: reports, callbacks, determinism, memory."""

from __future__ import annotations

import gc
import math
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft as mg
from mlx_graft import _core
from support.run import metrics, train_losses, valid_losses


class Log:
    """A callback as mlx-lm's `TrainingCallback`."""

    def __init__(self) -> None:
        self.train: list[dict[str, Any]] = []
        self.valid: list[dict[str, Any]] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.train.append(train_info)

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        self.valid.append(val_info)


def fresh(folder: Any) -> tuple[Any, Any]:
    mx.random.seed(0)
    model, tokenizer = mg.load(folder)
    mg.apply_lora(model, num_layers=2)
    return model, tokenizer


def config(**changes: Any) -> mg.TrainConfig:
    given = {
        "iters": 8, "batch_size": 4, "learning_rate": 1e-3, "steps_per_report": 2,
        "steps_per_eval": 4, "val_batches": 1, "max_seq_length": 128, "seed": 5, **changes,
    }  # fmt: skip
    return mg.TrainConfig(**given)


def test_fit_reports_to_callbacks_and_metrics(checkpoint, data, tmp_path) -> None:
    model, tokenizer = fresh(checkpoint("llama"))
    train, valid, test = mg.load_dataset(data("completions"), tokenizer)
    log = Log()
    trainer = mg.Trainer(model, config(adapter_path=tmp_path))
    before = trainer.evaluate(test)
    trainer.fit(train, valid, callbacks=[log])

    assert trainer.step_count == 8
    assert trainer.learning_rate == pytest.approx(1e-3)
    assert trainer.evaluate(test) < before
    assert [info["iteration"] for info in log.train] == [2, 4, 6, 8]
    assert [info["iteration"] for info in log.valid] == [0, 3, 7], "as mlx-lm counts there"
    for info in log.train:
        assert {
            "iteration", "train_loss", "learning_rate", "iterations_per_second",
            "tokens_per_second", "trained_tokens", "peak_memory",
        } <= info.keys()  # fmt: skip
    reports = metrics(tmp_path)
    assert list(train_losses(reports).values()) == [i["train_loss"] for i in log.train]
    assert list(valid_losses(reports).values()) == [i["val_loss"] for i in log.valid]
    assert reports[-1]["step"] == 8
    trained = log.train[-1]["trained_tokens"]
    assert isinstance(trained, int)
    assert trained > 8 * 4


def test_rows_of_dicts_and_of_tokens(checkpoint, tmp_path) -> None:
    """Data need not lie in files."""
    losses = []
    texts = [f"the parser returns value {i} and a new list." for i in range(8)]
    for kind in ("dicts", "tokens"):
        model, tokenizer = fresh(checkpoint("qwen3"))
        if kind == "dicts":
            rows = mg.load_dataset([{"text": text} for text in texts], tokenizer)
        else:
            rows = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
        log = Log()
        mg.Trainer(model, config(adapter_path=tmp_path / kind)).fit(rows, rows, callbacks=[log])
        losses.append([info["train_loss"] for info in log.train])
    assert losses[0] == losses[1]


def test_the_same_seed_gives_the_same_losses(checkpoint, data, tmp_path) -> None:
    def run(seed: int) -> list[float]:
        model, tokenizer = fresh(checkpoint("llama"))
        train, valid, _ = mg.load_dataset(data(), tokenizer)
        log = Log()
        trainer = mg.Trainer(model, config(seed=seed, adapter_path=tmp_path))
        trainer.fit(train, valid, callbacks=[log])
        return [info["train_loss"] for info in log.train]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_callbacks_exception_comes_out_as_itself(checkpoint, data, tmp_path) -> None:
    class StopTrainingError(Exception):
        pass

    class Callback:
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            raise StopTrainingError(train_info["iteration"])

    model, tokenizer = fresh(checkpoint("llama"))
    train, valid, _ = mg.load_dataset(data(), tokenizer)
    with pytest.raises(StopTrainingError):
        mg.Trainer(model, config(adapter_path=tmp_path)).fit(train, valid, callbacks=[Callback()])


@pytest.mark.parametrize("kind", ["train", "valid"])
def test_a_callbacks_exception_ends_the_training_at_once(kind: str, checkpoint, tmp_path) -> None:
    """The weights are those of the report, and nobody else is told of anything."""

    class Stop(Log):
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            super().on_train_loss_report(train_info)
            if kind == "train" and train_info["iteration"] == 2:
                raise KeyError("enough")

        def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
            super().on_val_loss_report(val_info)
            if kind == "valid" and val_info["iteration"] == 3:
                raise KeyError("enough")

    model, _ = fresh(checkpoint("llama"))
    rows = [list(range(3, 40))] * 4
    trainer = mg.Trainer(model, config(steps_per_report=1, adapter_path=tmp_path))
    first, second = Stop(), Log()
    with pytest.raises(KeyError, match="enough"):
        trainer.fit(rows, rows, callbacks=[first, second])
    reached = 2 if kind == "train" else 3
    assert [info["iteration"] for info in first.train] == list(range(1, reached + 1))
    assert len(second.train) + len(second.valid) == len(first.train) + len(first.valid) - 1
    assert trainer.step_count == reached
    saved = mx.load(str(tmp_path / "adapters.safetensors"))
    for name, value in flat(model.trainable_parameters()):
        assert mx.array_equal(saved[name], value).item()


def test_a_callback_may_save_and_read(checkpoint, tmp_path) -> None:
    class Best:
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            seen.append((trainer.step_count, trainer.learning_rate))
            trainer.save(tmp_path / str(train_info["iteration"]))
            with pytest.raises(RuntimeError, match="a callback cannot train or evaluate"):
                trainer.evaluate(rows)

    seen: list[tuple[int, float]] = []
    model, _ = fresh(checkpoint("llama"))
    rows = [list(range(3, 40))] * 4
    schedule = {"name": "linear_schedule", "arguments": [1e-3, 0.0, 10]}
    trainer = mg.Trainer(model, config(iters=4, lr_schedule=schedule))
    trainer.fit(rows, callbacks=[Best()])
    assert seen == [(2, pytest.approx(8e-4)), (4, pytest.approx(6e-4))]
    early, late = (mx.load(str(tmp_path / it / "adapters.safetensors")) for it in "24")
    for name, value in flat(model.trainable_parameters()):
        assert mx.array_equal(late[name], value).item()
    assert any(not mx.array_equal(early[name], late[name]).item() for name in late)


def test_dropout_in_checkpointed_layers(checkpoint) -> None:
    """Random bits have no derivative, and those of the forward pass are drawn again."""
    losses = []
    for _ in range(2):
        mx.random.seed(0)
        model, _ = mg.load(checkpoint("llama"))
        mg.apply_lora(model, dropout=0.3, num_layers=2)
        log = Log()
        trainer = mg.Trainer(model, config(grad_checkpoint=True, steps_per_report=1))
        trainer.fit([list(range(3, 40))] * 4, callbacks=[log])
        losses.append([info["train_loss"] for info in log.train])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_checkpointed_layers_drop_what_others_drop(checkpoint) -> None:
    """With other masks in the backward pass than in the forward one, gradients would differ."""
    losses, weights = [], []
    for grad_checkpoint in (False, True):
        mx.random.seed(0)
        model, _ = mg.load(checkpoint("llama"))
        mg.apply_lora(model, dropout=0.3, num_layers=2)
        log = Log()
        trainer = mg.Trainer(model, config(grad_checkpoint=grad_checkpoint, steps_per_report=1))
        trainer.fit([list(range(3, 40))] * 4, callbacks=[log])
        losses.append([info["train_loss"] for info in log.train])
        weights.append(flat(model.trainable_parameters()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for (name, plain), (_, checkpointed) in zip(*weights, strict=True):
        assert mx.allclose(plain, checkpointed, rtol=1e-3, atol=1e-5), name


def test_an_error_leaves_what_was_reached(checkpoint, tmp_path) -> None:
    """Here a frozen weight becomes NaN in the middle of a run."""

    class Spoil:
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            if train_info["iteration"] == 3:
                kept.update(flat(model.trainable_parameters()))
                model.update({"lm_head": {"weight": mx.full((320, 64), float("nan"))}})

    kept: dict[str, mx.array] = {}
    model, _ = fresh(checkpoint("llama"))
    trainer = mg.Trainer(model, config(steps_per_report=1, adapter_path=tmp_path))
    with pytest.raises(FloatingPointError, match="step 4"):
        trainer.fit([list(range(3, 40))] * 4, callbacks=[Spoil()])
    saved = mx.load(str(tmp_path / "adapters.safetensors"))
    assert saved.keys() == kept.keys()
    assert all(mx.array_equal(saved[name], value) for name, value in kept.items())
    assert (tmp_path / "adapter_config.json").exists()


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_gradient_that_is_no_number_reaches_no_weight(
    accumulated: int, checkpoint, tmp_path
) -> None:
    """The loss is finite, as `lora_b` starts as zero: only its gradient overflows."""
    model, _ = mg.load(checkpoint("llama"))
    mg.apply_lora(model, scale=1e20, num_layers=1, keys=["self_attn.o_proj"])
    at = {"layers": [{}, {"self_attn": {"o_proj": {"lora_a": mx.full((64, 8), 1e30)}}}]}
    model.update({"model": at})
    before = dict(flat(model.trainable_parameters()))
    options = {"adapter_path": tmp_path, "grad_accumulation_steps": accumulated}
    trainer = mg.Trainer(model, config(**options))
    rows = [list(range(3, 40))] * 4
    assert math.isfinite(trainer.evaluate(rows))
    with pytest.raises(FloatingPointError, match=r"a gradient is no number .* at step 1"):
        trainer.fit(rows)
    after = dict(flat(model.trainable_parameters()))
    assert all(mx.array_equal(after[name], value) for name, value in before.items())
    assert not (tmp_path / "adapters.safetensors").exists()


def test_accumulated_gradients_that_are_no_numbers_are_dropped(checkpoint) -> None:
    model, _ = fresh(checkpoint("llama"))
    trainer = mg.Trainer(model, config(grad_accumulation_steps=2))
    tokens = mx.arange(64, dtype=mx.int32).reshape(2, 32)
    before = dict(flat(model.trainable_parameters()))
    with pytest.raises(FloatingPointError):
        trainer.step(tokens, mx.zeros((2,), mx.int32))  # no target: zero divided by zero
    trainer.step(tokens, mx.array([31, 31], mx.int32))
    after = dict(flat(model.trainable_parameters()))
    assert all(mx.array_equal(after[name], value).item() for name, value in before.items())
    trainer.step(tokens, mx.array([31, 31], mx.int32))
    after = dict(flat(model.trainable_parameters()))
    assert all(mx.isfinite(value).all().item() for value in after.values())
    assert any(not mx.array_equal(after[name], value).item() for name, value in before.items())


def test_a_step_that_is_refused_is_no_update(checkpoint) -> None:
    model, _ = fresh(checkpoint("llama"))
    schedule = {"name": "linear_schedule", "arguments": [1e-3, 0.0, 10]}
    trainer = mg.Trainer(model, config(lr_schedule=schedule))
    tokens = mx.arange(64, dtype=mx.int32).reshape(2, 32)
    for _ in range(3):
        with pytest.raises(FloatingPointError):
            trainer.step(tokens, mx.zeros((2,), mx.int32))
        assert trainer.learning_rate == pytest.approx(1e-3)
    trainer.step(tokens, mx.array([31, 31], mx.int32))
    assert trainer.learning_rate == pytest.approx(9e-4)


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(("at", "token"), [((1, 0), 320), ((0, 0), -1), ((1, 31), 400)])
def test_a_token_outside_the_vocabulary_changes_nothing(
    at: tuple[int, int], token: int, accumulated: int, checkpoint
) -> None:
    """In the first column it is an input only, which another operation meets than a target."""
    good, lengths = mx.arange(64, dtype=mx.int32).reshape(2, 32), mx.array([31, 31], mx.int32)
    bad = mx.array(good)
    bad[at] = token
    reached = []
    for spoil in (False, True):
        model, _ = fresh(checkpoint("llama"))
        trainer = mg.Trainer(model, config(grad_accumulation_steps=accumulated))
        for _ in range(3):
            trainer.step(good, lengths)
            if spoil:
                with pytest.raises(IndexError, match=f"token {token} is outside .* of 320"):
                    trainer.step(bad, lengths)
        assert trainer.step_count == 3
        reached.append(dict(flat(model.trainable_parameters())))
    for name, value in reached[0].items():
        assert mx.array_equal(reached[1][name], value).item(), name


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_without_targets_is_refused(batch_size: int, checkpoint, tmp_path) -> None:
    """Row 3 has nothing behind its prompt once it is cut; in a batch with another it may stay."""
    _, tokenizer = mg.load(checkpoint("llama"))
    rows: list[dict[str, Any]] = [{"prompt": "a", "completion": "b"} for _ in range(4)]
    rows[2]["prompt"] = "the parser returns a new list, and " * 20
    data = mg.load_dataset(rows, tokenizer, mask_prompt=True)
    model, _ = fresh(checkpoint("llama"))
    options = {"batch_size": batch_size, "max_seq_length": 64, "adapter_path": tmp_path / "out"}
    trainer = mg.Trainer(model, config(**options))
    if batch_size == 2:
        trainer.fit(data, data)
        return
    with pytest.raises(ValueError, match=r":3: no token is left to learn.*64"):
        trainer.fit(data)
    with pytest.raises(ValueError, match=r":3: no token is left to learn.*64"):
        trainer.evaluate(data)
    assert not (tmp_path / "out").exists()


def test_only_trainable_parameters_change(checkpoint) -> None:
    model, _ = fresh(checkpoint("qwen2"))
    names = {name for name, _ in flat(model.trainable_parameters())}
    before = dict(flat(model.parameters()))
    trainer = mg.Trainer(model, config())
    for _ in range(3):
        trainer.step(mx.arange(64, dtype=mx.int32).reshape(2, 32), mx.array([31, 31], mx.int32))
    changed = {n for n, v in flat(model.parameters()) if not mx.array_equal(v, before[n])}
    assert changed == names


def test_frozen_parts(checkpoint) -> None:
    model, _ = mg.load(checkpoint("llama"))
    model.freeze()
    assert not flat(model.trainable_parameters())
    model.unfreeze()
    assert len(flat(model.trainable_parameters())) == len(flat(model.parameters()))


def test_memory_is_steady(checkpoint) -> None:
    """Two hundred steps of three lengths hold no more handles or bytes than the first ones."""
    model, _ = fresh(checkpoint("llama"))
    trainer = mg.Trainer(model, config())
    batches = [
        (mx.ones((2, width), mx.int32), mx.array([width - 1] * 2, mx.int32))
        for width in (16, 33, 48)
    ]

    def settle() -> tuple[int, int]:
        mx.synchronize()
        gc.collect()
        mx.clear_cache()
        return mx.get_active_memory(), _core.live_handles()

    for batch in batches * 2:
        trainer.step(*batch).item()
    before = settle()
    for _ in range(66):
        for batch in batches:
            trainer.step(*batch).item()
    assert settle() == before


def test_a_dropped_model_frees_its_memory(checkpoint) -> None:
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory(), _core.live_handles()
    model, tokenizer = fresh(checkpoint("smollm"))
    trainer = mg.Trainer(model, config())
    trainer.step(mx.ones((2, 16), mx.int32), mx.array([15, 15], mx.int32)).item()
    assert mx.get_active_memory() > before[0]
    del model, tokenizer, trainer
    gc.collect()
    mx.clear_cache()
    assert _core.live_handles() == before[1]
    assert mx.get_active_memory() - before[0] < 4096


def test_the_loss_is_lazy_or_evaluated_but_an_array(checkpoint) -> None:
    model, _ = fresh(checkpoint("llama"))
    loss = mg.Trainer(model, config()).step(mx.ones((1, 16), mx.int32), mx.array([15], mx.int32))
    assert isinstance(loss, mx.array)
    assert loss.shape == ()
    assert loss.dtype == mx.float32


def flat(tree: Any) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return tree_flatten(tree)
