"""Ctrl-C finishes the step, saves, and says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import mlx.core as mx
import pytest

from support.run import GRAFT, GRAFT_TRAIN


def interrupt_after_first_report(
    command: list[object], adapters: Path, signals: int = 1
) -> subprocess.CompletedProcess[str]:
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        # A background job of a shell ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        report = adapters / "metrics.jsonl"
        while not (report.exists() and "train_loss" in report.read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no report within a minute"
            time.sleep(0.05)
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture
def flags(checkpoint, data, tmp_path) -> list[object]:
    return [
        "--train", "--model", checkpoint("llama"), "--data", data(), "--iters", 1_000_000,
        "--num-layers", 2, "--steps-per-report", 1, "--val-batches", 1,
        "--adapter-path", tmp_path / "adapters",
    ]  # fmt: skip


@pytest.mark.parametrize("door", ["graft train", "graft-train"])
def test_command(door: str, flags, tmp_path, request) -> None:
    if door == "graft train":
        command: list[object] = [GRAFT, "train"]
    else:
        request.getfixturevalue("graft_train")
        command = [GRAFT_TRAIN]
    adapters = tmp_path / "adapters"
    run = interrupt_after_first_report([*command, *flags], adapters)
    assert run.returncode == 130, run.stderr
    saved = mx.load(str(adapters / "adapters.safetensors"))
    assert any(mx.abs(value).max().item() > 0 for name, value in saved.items() if "_b" in name)
    message = run.stdout + run.stderr
    assert f"--resume-adapter-file {adapters / 'adapters.safetensors'}" in message
    assert "Traceback" not in message


def test_python(checkpoint, data, tmp_path) -> None:
    """In Python it is a `KeyboardInterrupt`, raised after the step, with the adapters saved."""
    adapters = tmp_path / "adapters"
    code = textwrap.dedent(f"""
        import mlx_graft as mg
        model, tokenizer = mg.load({str(checkpoint("llama"))!r})
        mg.apply_lora(model, num_layers=2)
        train, valid, _ = mg.load_dataset({str(data())!r}, tokenizer)
        config = mg.TrainConfig(
            iters=1_000_000, steps_per_report=1, adapter_path={str(adapters)!r}
        )
        trainer = mg.Trainer(model, config)
        try:
            trainer.fit(train, valid)
        except KeyboardInterrupt as stop:
            print("stopped after", trainer.step_count, "steps:", stop)
    """)
    run = interrupt_after_first_report([sys.executable, "-c", code], adapters)
    assert run.returncode == 0, run.stderr
    assert "stopped after" in run.stdout
    assert str(adapters / "adapters.safetensors") in run.stdout
    assert (adapters / "adapters.safetensors").exists()
