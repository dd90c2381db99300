"""Running the commands, and proving what they left on the disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
# The installed command, and the binary of a debug build.
GRAFT = Path(sys.executable).parent / "graft"
GRAFT_TRAIN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/graft-train"
REPORT_KEYS = {
    "step",
    "learning_rate",
    "tokens",
    "tokens_per_second",
    "iterations_per_second",
    "peak_memory_bytes",
    "active_memory_bytes",
    "cache_memory_bytes",
}
TRAIN_LINE = re.compile(
    r"Iter (?P<step>\d+): Train loss (?P<loss>\d+\.\d{3}), Learning Rate \d\.\d{3}e[+-]\d\d, "
    r"It/sec \d+\.\d{3}, Tokens/sec \d+\.\d{3}, Trained Tokens \d+, Peak mem \d+\.\d{3} GB"
)
VALID_LINE = re.compile(r"Iter (?P<step>\d+): Val loss (?P<loss>\d+\.\d{3}), Val took \d+\.\d{3}s")


def execute(*command: object, timeout: float = 120, **options: Any) -> CompletedProcess[str]:
    """Runs a command and returns what it prints as text."""
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def succeed(*command: object, timeout: float = 120, **options: Any) -> str:
    """The same of a command that must succeed: what it prints."""
    done = execute(*command, timeout=timeout, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def start(command: list[object]) -> subprocess.Popen[str]:
    """Starts a command that Ctrl-C reaches."""
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        # A background job of a shell ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def interrupt_after_first_report(
    command: list[object],
    adapters: Path,
    number: signal.Signals = signal.SIGINT,
    report: str = "train_loss",
) -> CompletedProcess[str]:
    """Sends a signal to a training as soon as its `metrics.jsonl` has a `report`."""
    process = start(command)
    try:
        deadline = time.monotonic() + 60
        metrics = adapters / "metrics.jsonl"
        while not (metrics.exists() and report in metrics.read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no report within a minute"
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return CompletedProcess(command, process.returncode, out, err)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Reads the `metrics.jsonl` of an adapter folder."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train_losses(reports: list[dict[str, Any]]) -> dict[int, float]:
    return {report["step"]: report["train_loss"] for report in reports if "train_loss" in report}


def valid_losses(reports: list[dict[str, Any]]) -> dict[int, float]:
    return {report["step"]: report["val_loss"] for report in reports if "val_loss" in report}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Returns every file below a folder with its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def old_adapters(folder: Path) -> Path:
    """Makes an adapter folder of an earlier run, which no failed command may change."""
    folder.mkdir(parents=True)
    (folder / "adapters.safetensors").write_bytes(b"an earlier run")
    (folder / "adapter_config.json").write_text('{"an earlier": "run"}')
    (folder / "metrics.jsonl").write_text("")
    return folder


def assert_refused(run: CompletedProcess[str], *says: str) -> None:
    """Asserts exit code 2 and one clear message that holds every text of `says`."""
    assert run.returncode == 2, run.stdout + run.stderr
    for text in says:
        assert text in run.stderr, f"{text!r} is not in:\n{run.stderr}"
    assert "Traceback" not in run.stderr
    assert "panicked" not in run.stderr
    assert len(run.stderr.strip().splitlines()) <= 12, run.stderr
