"""`--resume` goes on with a training that was stopped."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from support.run import (
    assert_refused,
    interrupt_after_first_report,
    metrics,
    snapshot,
    valid_losses,
)

STATE = "training_state.safetensors"


@pytest.fixture
def flags(checkpoint, data) -> list[object]:
    return [
        "--train", "--model", checkpoint("llama"), "--data", data(), "--num-layers", 2,
        "--steps-per-report", 1, "--steps-per-eval", 7, "--val-batches", 1, "--learning-rate", 1e-3,
        "--max-seq-length", 128, "--resume",
    ]  # fmt: skip


def test_ctrl_c_and_the_same_command_again(any_graft_train, flags, graft, tmp_path) -> None:
    adapters = tmp_path / "adapters"
    where = ["--adapter-path", adapters]
    many = ["--iters", 1_000_000]
    stopped = interrupt_after_first_report([*any_graft_train, *flags, *where, *many], adapters)
    assert stopped.returncode == 130, stopped.stderr
    assert f"{adapters / STATE} is not there" in stopped.stdout
    said = re.search(r"stopped after iteration (\d+); all is saved", stopped.stderr)
    assert said, stopped.stderr
    done = int(said[1])
    for folder in ("adapters", "whole"):
        where = ["--adapter-path", tmp_path / folder, "--iters", done + 3]
        run = graft("train", *flags, *where, "--test", "--test-batches", 1)
        assert run.returncode == 0, run.stderr
        going_on = f"Going on after iteration {done}, iters: {done + 3}\n" in run.stdout
        assert going_on == (folder == "adapters")
        assert "Test loss" in run.stdout
    ours, theirs = (mx.load(str(tmp_path / name / STATE)) for name in ("adapters", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[key], theirs[key]).item() for key in ours)
    losses = [valid_losses(metrics(tmp_path / name)) for name in ("adapters", "whole")]
    assert losses[0] == losses[1]

    before = snapshot(adapters)
    run = graft("train", *flags, "--adapter-path", adapters, "--iters", done)
    assert run.returncode == 0, run.stderr
    assert f"Nothing is left to do: iteration {done + 3} is done" in run.stdout
    assert snapshot(adapters) == before


def test_a_template_that_prints_the_time(
    graft, graft_train, flags, checkpoint, data, tmp_path
) -> None:
    """The rows are those of the time when the training began, whenever it goes on."""
    folder = shutil.copytree(checkpoint("qwen3"), tmp_path / "model")
    path = folder / "tokenizer_config.json"
    template = "{{ strftime_now('%H:%M:%S.%f') }} {{ messages[0]['content'] }}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    where = ["--model", folder, "--data", data("chat"), "--adapter-path", tmp_path / "out"]
    for iters, command in ((2, graft_train), (4, lambda *given: graft("train", *given))):
        run = command(*flags, *where, "--iters", iters)
        assert run.returncode == 0, run.stderr
    assert "Going on after iteration 2, iters: 4\n" in run.stdout


def test_weights_of_another_dtype_to_begin_with(graft_train, flags, tmp_path) -> None:
    """They are trained in the dtype of their file, as in mlx-lm, and go on in it."""
    first = tmp_path / "first"
    run = graft_train(*flags, "--iters", 1, "--adapter-path", first)
    assert run.returncode == 0, run.stderr
    weights = mx.load(str(first / "adapters.safetensors"))
    assert isinstance(weights, dict)
    half = {name: value.astype(mx.bfloat16) for name, value in weights.items()}
    mx.save_safetensors(str(tmp_path / "half.safetensors"), half)
    # Without validation the order of batches does not depend on where a run ends.
    begin = [*flags, "--val-batches", 0, "--resume-adapter-file", tmp_path / "half.safetensors"]
    for name, parts in (("whole", [6]), ("parts", [3, 6])):
        for iters in parts:
            run = graft_train(*begin, "--iters", iters, "--adapter-path", tmp_path / name)
            assert run.returncode == 0, run.stderr
    for name in ("adapters.safetensors", STATE):
        ours, theirs = (mx.load(str(tmp_path / part / name)) for part in ("parts", "whole"))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert value.dtype == mx.bfloat16 or key == "key"
            assert mx.array_equal(ours[key], value).item(), key


def test_a_forgotten_resume(any_graft_train, graft, flags, tmp_path) -> None:
    """The log says what becomes of the earlier training, and a stop loses nothing of it."""
    adapters = tmp_path / "adapters"
    run = graft("train", *flags, "--iters", 3, "--adapter-path", adapters)
    assert run.returncode == 0, run.stderr
    before = snapshot(adapters)
    (adapters / "metrics.jsonl").unlink()
    flags.remove("--resume")
    command = [*any_graft_train, *flags, "--iters", 1_000_000, "--adapter-path", adapters]
    command += ["--save-every", 1_000_000, "--seed", 1]
    stopped = interrupt_after_first_report(command, adapters)
    assert stopped.returncode == 130, stopped.stderr
    assert f"{adapters} has the state of an earlier training" in stopped.stdout
    assert "in files that begin with earlier_" in stopped.stdout
    after = snapshot(adapters)
    for name in ("adapters.safetensors", "adapter_config.json", STATE):
        assert after[f"earlier_{name}"] == before[name]
        assert after[name] != before[name]


class TestRefused:
    """One message, exit code 2, and all files as they were."""

    @pytest.fixture
    def adapters(self, flags, graft, tmp_path) -> Path:
        folder = tmp_path / "adapters"
        run = graft("train", *flags, "--iters", 3, "--adapter-path", folder)
        assert run.returncode == 0, run.stderr
        return folder

    @pytest.mark.parametrize(
        ("flag", "value", "says"),
        [
            ("--batch-size", 2, "batch_size 4, and now it is 2"),
            ("--grad-accumulation-steps", 2, "grad_accumulation_steps 1, and now it is 2"),
            ("--num-layers", 1, "num_layers 2, and now it is 1"),
            ("--optimizer", "adamw", 'optimizer "adam", and now it is "adamw"'),
            ("--seed", 1, "seed 0, and now it is 1"),
            ("--fine-tune-type", "full", 'fine_tune_type "lora", and now it is "full"'),
        ],
    )
    def test_another_option(self, flag, value, says, adapters, flags, graft) -> None:
        before = snapshot(adapters)
        run = graft("train", *flags, "--iters", 5, "--adapter-path", adapters, flag, value)
        assert_refused(run, str(adapters / STATE), says, "--resume-adapter-file")
        assert snapshot(adapters) == before

    def test_other_data(self, adapters, flags, graft, data, tmp_path) -> None:
        folder = shutil.copytree(data(), tmp_path / "data")
        lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
        (folder / "train.jsonl").write_text("".join(lines[:8]))
        before = snapshot(adapters)
        where = ["--iters", 5, "--adapter-path", adapters, "--data", folder]
        run = graft("train", *flags, *where)
        assert_refused(run, str(adapters / STATE), "has training rows", "Give it the same")
        assert snapshot(adapters) == before

    def test_another_model(self, adapters, flags, graft, checkpoint) -> None:
        before = snapshot(adapters)
        where = ["--iters", 5, "--adapter-path", adapters, "--model", checkpoint("qwen3")]
        run = graft("train", *flags, *where)
        assert_refused(run, str(adapters / STATE), "has frozen weights", "Give it the same")
        assert snapshot(adapters) == before

    def test_only_the_state_of_an_earlier_training(self, adapters, flags, graft) -> None:
        """As a training without `--resume` leaves it that was killed before it saved."""
        (adapters / STATE).rename(adapters / f"earlier_{STATE}")
        before = snapshot(adapters)
        run = graft("train", *flags, "--iters", 5, "--adapter-path", adapters)
        ways = (f"rename it to {STATE}", "leave out --resume")
        assert_refused(run, f"{adapters / STATE} is not there", f"earlier_{STATE}", *ways)
        assert snapshot(adapters) == before

    def test_half_a_file(self, adapters, flags, graft) -> None:
        path = adapters / STATE
        path.write_bytes(path.read_bytes()[:-100])
        before = snapshot(adapters)
        run = graft("train", *flags, "--iters", 5, "--adapter-path", adapters)
        assert_refused(run, str(path), "not a whole safetensors file")
        assert snapshot(adapters) == before
