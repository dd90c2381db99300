"""A training that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft as mg
from support.run import metrics, snapshot, train_losses, valid_losses

STATE = "training_state.safetensors"
EARLIER = "earlier_training_state.safetensors"


class StoppedError(Exception):
    pass


class StopAt:
    """A callback that ends the training with an exception after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        if train_info["iteration"] == self.iteration:
            raise StoppedError


def lora(model: mg.Model) -> None:
    # Dropout draws random numbers in each step.
    mg.apply_lora(model, rank=4, dropout=0.1, num_layers=2)


def full(model: mg.Model) -> None:
    model.unfreeze()


def trainer_of(
    folder: Path,
    adapters: Path | None,
    prepare: Callable[[mg.Model], None],
    text: str = "the parser returns value",
    **changes: Any,
) -> tuple[mg.Trainer, mg.Dataset, mg.Dataset]:
    mx.random.seed(0)
    model, tokenizer = mg.load(folder)
    prepare(model)
    given = {
        "iters": 23, "batch_size": 4, "learning_rate": 1e-3, "steps_per_report": 1,
        "steps_per_eval": 5, "val_batches": 1, "save_every": 10, "max_seq_length": 128, "seed": 5,
        "adapter_path": adapters,
        "lr_schedule": {"name": "cosine_decay", "arguments": [1e-3, 60], "warmup": 3}, **changes,
    }  # fmt: skip
    texts = [f"{text} {i} and " + "a new list, " * (i % 5) for i in range(26)]
    rows = [tokenizer.encode(text) for text in texts]
    train, valid = (mg.Dataset.from_tokens(part) for part in (rows[:18], rows[18:]))
    return mg.Trainer(model, mg.TrainConfig(**given)), train, valid


def assert_same_run(found: Path, wanted: Path) -> None:
    """Compares all tensors of two adapter folders bit by bit, and the losses."""
    for name in ("adapters.safetensors", STATE):
        ours, ours_meta = mx.load(str(found / name), return_metadata=True)
        theirs, theirs_meta = mx.load(str(wanted / name), return_metadata=True)
        assert ours_meta == theirs_meta
        assert ours.keys() == theirs.keys()
        assert len(ours) > 3
        for key, value in ours.items():
            assert value.dtype == theirs[key].dtype
            assert mx.array_equal(value, theirs[key]).item(), f"{key} of {name}"
    for losses in (train_losses, valid_losses):
        assert losses(metrics(found)) == losses(metrics(wanted))


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("prepare", [lora, full])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_a_stopped_run_ends_as_one_that_was_not(
    dtype: mx.Dtype, prepare: Callable[[mg.Model], None], accumulated: int, checkpoint, tmp_path
) -> None:
    """Stopped within epochs of four batches, between updates, before and after a save; twice."""
    changes = {"grad_accumulation_steps": accumulated}
    folder = checkpoint("llama", dtype=dtype)
    trainer, train, valid = trainer_of(folder, tmp_path / "whole", prepare, **changes)
    trainer.fit(train, valid)
    wanted = trainer.evaluate(valid)
    for stop in (7, 13):
        trainer, train, valid = trainer_of(folder, tmp_path / "parts", prepare, **changes)
        with pytest.raises(StoppedError):
            trainer.fit(train, valid, callbacks=[StopAt(stop)], resume=stop > 7)
    trainer, train, valid = trainer_of(folder, tmp_path / "parts", prepare, **changes)
    trainer.fit(train, valid, resume=True)
    assert trainer.step_count == 23
    assert trainer.evaluate(valid) == wanted
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_killed_run_goes_on_from_the_last_save(checkpoint, tmp_path) -> None:
    """The process ends without a chance to save; iterations since the last save are done again."""
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from test_resume import lora, trainer_of

        class Kill:
            def on_train_loss_report(self, train_info):
                if train_info["iteration"] == 17:
                    os.kill(os.getpid(), signal.SIGKILL)

        folders = Path({str(checkpoint("llama"))!r}), Path({str(tmp_path / "parts")!r})
        trainer, train, valid = trainer_of(*folders, lora)
        trainer.fit(train, valid, callbacks=[Kill()])
    """)
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    for name, resume in (("whole", False), ("parts", True)):
        trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path / name, lora)
        trainer.fit(train, valid, resume=resume)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    steps = [report["step"] for report in metrics(tmp_path / "parts") if "train_loss" in report]
    assert steps == [*range(1, 17), *range(11, 24)]


def test_more_iterations(checkpoint, tmp_path) -> None:
    """A run that is done goes on when it gets more of them, with Adam's averages."""
    for name, parts in (("whole", [20]), ("parts", [10, 20])):
        for iters in parts:
            # Without validation the order of batches does not depend on where a run ends.
            changes = {"iters": iters, "val_batches": 0}
            made = trainer_of(checkpoint("llama"), tmp_path / name, lora, **changes)
            trainer, train, valid = made
            trainer.fit(train, valid, resume=iters > 10)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    before = snapshot(tmp_path / "parts")
    trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path / "parts", lora, iters=20)
    trainer.fit(train, valid, resume=True)
    assert (trainer.step_count, snapshot(tmp_path / "parts")) == (20, before), "nothing was left"


def test_the_learning_rate_may_change(checkpoint, tmp_path) -> None:
    changes = {"iters": 4, "lr_schedule": None}
    trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path, lora, **changes)
    trainer.fit(train, valid)
    changes = {"iters": 6, "lr_schedule": None, "learning_rate": 1e-4, "max_seq_length": 64}
    trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path, lora, **changes)
    trainer.fit(train, valid, resume=True)
    rates = {report["step"]: report["learning_rate"] for report in metrics(tmp_path)}
    assert [rates[step] for step in (4, 5)] == pytest.approx([1e-3, 1e-4])


def test_resume_needs_a_folder(checkpoint) -> None:
    trainer, train, _ = trainer_of(checkpoint("llama"), None, lora)
    with pytest.raises(ValueError, match="adapter_path"):
        trainer.fit(train, resume=True)


def test_a_refused_state_leaves_the_trainer_as_it_was(checkpoint, tmp_path) -> None:
    """The state is of other adapters: the error says so, and a new training can begin."""
    trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path, lora, iters=2)
    trainer.fit(train, valid)
    before = snapshot(tmp_path)

    def wider(model: mg.Model) -> None:
        mg.apply_lora(model, rank=8, num_layers=2)

    trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path, wider, iters=2)
    with pytest.raises(ValueError, match=r'lora_parameters .*"rank":4.* now it is .*"rank":8'):
        trainer.fit(train, valid, resume=True)
    assert snapshot(tmp_path) == before
    trainer.fit(train, valid)
    assert trainer.step_count == 2


def other_base(model: mg.Model) -> None:
    lora(model)
    model.update({"lm_head": {"weight": model.parameters()["lm_head"]["weight"] * 2}})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": "the parser gives value"}, "has training rows .* now it is"),
        ({"prepare": other_base}, "has frozen weights .* now it is"),
        ({"optimizer_config": {"adam": {"betas": [0.8, 0.9]}}}, r"has betas \[0.9,0.999\]"),
    ],
    ids=["rows", "weights", "optimizer"],
)
def test_what_a_run_is_known_by(changes: dict[str, Any], says: str, checkpoint, tmp_path) -> None:
    given = {"prepare": lora, "iters": 2, "adapters": tmp_path}
    trainer, train, valid = trainer_of(checkpoint("llama"), **given)
    trainer.fit(train, valid)
    before = snapshot(tmp_path)
    trainer, train, valid = trainer_of(checkpoint("llama"), **{**given, **changes})
    with pytest.raises(ValueError, match=says):
        trainer.fit(train, valid, resume=True)
    assert snapshot(tmp_path) == before


def test_a_run_that_saved_nothing_does_not_go_on_from_an_earlier_one(checkpoint, tmp_path) -> None:
    """It diverges before its first save in the folder of one that is done."""
    folder = tmp_path / "used"
    trainer, train, valid = trainer_of(checkpoint("llama"), folder, lora, iters=3)
    trainer.fit(train, valid)
    before = snapshot(folder)
    changes = {"iters": 3, "lr_schedule": None}
    trainer, train, valid = trainer_of(
        checkpoint("llama"), folder, lora, learning_rate=1e30, **changes
    )
    with pytest.raises(FloatingPointError):
        trainer.fit(train, valid)
    assert not (folder / STATE).exists()
    kept = snapshot(folder)
    for name in ("adapters.safetensors", "adapter_config.json", STATE):
        assert kept[f"earlier_{name}"] == before[name], "nobody has asked to remove it yet"
    made = trainer_of(checkpoint("llama"), folder, lora, **changes)
    trainer, train, valid = made
    with pytest.raises(ValueError, match=rf"rename it to {STATE}; .* leave out resume"):
        trainer.fit(train, valid, resume=True)
    assert snapshot(folder) == kept
    for name in ("used", "new"):
        made = trainer_of(checkpoint("llama"), tmp_path / name, lora, **changes)
        trainer, train, valid = made
        trainer.fit(train, valid)
        assert trainer.step_count == 3
    assert not [name for name in snapshot(folder) if name.startswith("earlier_")]
    for name in ("adapters.safetensors", STATE):
        ours, theirs = (mx.load(str(tmp_path / run / name)) for run in ("used", "new"))
        assert all(mx.array_equal(ours[key], value).item() for key, value in theirs.items())


@pytest.mark.parametrize("stop", [0, 2])
def test_a_forgotten_resume_loses_nothing(stop: int, checkpoint, tmp_path) -> None:
    """A new run in the folder of an earlier one is stopped before its first planned save."""

    class Stop(StopAt):
        def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
            if val_info["iteration"] == stop == 0:
                raise StoppedError

    trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path, lora, iters=12)
    trainer.fit(train, valid)
    names = ["adapters.safetensors", "adapter_config.json", STATE]
    before = snapshot(tmp_path)
    trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path, lora)
    with pytest.raises(StoppedError):
        trainer.fit(train, valid, callbacks=[Stop(stop)])
    after = snapshot(tmp_path)
    prefix = "earlier_" if stop else ""
    assert all(after[prefix + name] == before[name] for name in names)
    assert (EARLIER in after) == bool(stop)
    if stop:
        # What was reached is there too, until a third run would take its place.
        trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path, lora)
        with pytest.raises(ValueError, match=rf"{STATE}: found beside {EARLIER}.*adapter_path"):
            trainer.fit(train, valid)
        for name in names:
            (tmp_path / f"earlier_{name}").replace(tmp_path / name)
    trainer, train, valid = trainer_of(checkpoint("llama"), tmp_path, lora, iters=13)
    trainer.fit(train, valid, resume=True)
    assert trainer.step_count == 13


def test_rows_of_another_time_are_told(checkpoint, tmp_path) -> None:
    """The chat template prints the time, and Python code has tokenized the rows once more."""
    folder = shutil.copytree(checkpoint("qwen3"), tmp_path / "model")
    path = folder / "tokenizer_config.json"
    template = "{{ strftime_now('%H:%M:%S.%f') }} {{ messages[0]['content'] }}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    rows = [{"messages": [{"role": "user", "content": f"the parser {i}"}]} for i in range(8)]
    for resume in (False, True):
        model, tokenizer = mg.load(folder)
        lora(model)
        config = mg.TrainConfig(iters=2, adapter_path=tmp_path / "out", save_every=1)
        trainer, train = mg.Trainer(model, config), mg.load_dataset(rows, tokenizer)
        if resume:
            says = r"has training rows .* The chat template prints the time: 20\d\d-.*graft train"
            with pytest.raises(ValueError, match=says):
                trainer.fit(train, resume=True)
        else:
            trainer.fit(train)
