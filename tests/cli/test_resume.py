"""`--resume` goes on with a training that was stopped."""

from __future__ import annotations

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

    def test_half_a_file(self, adapters, flags, graft) -> None:
        path = adapters / STATE
        path.write_bytes(path.read_bytes()[:-100])
        before = snapshot(adapters)
        run = graft("train", *flags, "--iters", 5, "--adapter-path", adapters)
        assert_refused(run, str(path), "not a whole safetensors file")
        assert snapshot(adapters) == before
