"""`graft train` and `graft-train`: one trainer, mlx-lm's flags, logs and files."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from support.run import (
    GRAFT,
    GRAFT_TRAIN,
    REPORT_KEYS,
    TRAIN_LINE,
    VALID_LINE,
    metrics,
    succeed,
    train_losses,
    valid_losses,
)

FLAGS = ["--train", "--batch-size", 4, "--num-layers", 2, "--learning-rate", 5e-4]
FLAGS += ["--steps-per-report", 2, "--steps-per-eval", 4, "--val-batches", 2, "--seed", 7]
FLAGS += ["--max-seq-length", 128, "--iters", 8]


def mlx_lm_lora(log: Path, *arguments: object) -> list[dict[str, float]]:
    script = Path(__file__).parent.parent / "support/run_mlx_lm.py"
    succeed(sys.executable, script, log, *arguments)
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("text", []),
        ("completions", ["--mask-prompt"]),
        ("chat", ["--fine-tune-type", "full", "--optimizer", "adamw"]),
    ],
    ids=["lora", "masked prompts", "full"],
)
def test_the_logs_of_mlx_lm(kind, extra, graft, checkpoint, data, tmp_path) -> None:
    """The same flags on the same folders: the same order of batches, start and losses."""
    pytest.importorskip("mlx_lm")
    shared = [*FLAGS, *extra, "--model", checkpoint("qwen3"), "--data", data(kind)]
    theirs = mlx_lm_lora(tmp_path / "log", *shared, "--adapter-path", tmp_path / "theirs")
    run = graft("train", *shared, "--adapter-path", tmp_path / "ours")
    assert run.returncode == 0, run.stderr

    reports = metrics(tmp_path / "ours")
    expected = {r["iteration"]: r["train_loss"] for r in theirs if "train_loss" in r}
    assert train_losses(reports) == pytest.approx(expected, rel=1e-4)
    # mlx-lm's callback counts the steps done before the validation; its log the step that follows.
    expected = {r["iteration"] + 1: r["val_loss"] for r in theirs if "val_loss" in r}
    assert valid_losses(reports) == pytest.approx(expected, rel=1e-4)

    ours = mx.load(str(tmp_path / "ours/adapters.safetensors"))
    saved = mx.load(str(tmp_path / "theirs/adapters.safetensors"))
    assert sorted(ours) == sorted(saved)
    for name, value in saved.items():
        assert mx.abs(ours[name] - value).max().item() <= 1e-3, name


def test_both_commands_give_the_same(graft, graft_train, checkpoint, data, tmp_path) -> None:
    shared = [*FLAGS, "--model", checkpoint("llama", bits=4), "--data", data("chat")]
    runs = []
    for name, command in (("a", lambda *a: graft("train", *a)), ("b", graft_train)):
        run = command(*shared, "--adapter-path", tmp_path / name)
        assert run.returncode == 0, run.stderr
        reports = metrics(tmp_path / name)
        runs.append((train_losses(reports), valid_losses(reports)))
    assert runs[0] == runs[1]
    assert len(runs[0][0]) == 4
    files = [(tmp_path / name / "adapters.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_what_it_prints_and_writes(graft, checkpoint, data, tmp_path) -> None:
    adapters = tmp_path / "deep/adapters"
    run = graft(
        "train", *FLAGS, "--model", checkpoint("smollm"), "--data", data(),
        "--adapter-path", adapters, "--save-every", 4,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    printed = run.stdout
    assert "\x1b" not in printed, "no terminal, so no colours and no progress bar"
    reports = metrics(adapters)
    lines = {int(m["step"]): float(m["loss"]) for m in TRAIN_LINE.finditer(printed)}
    assert lines == pytest.approx(train_losses(reports), abs=5e-4)
    lines = {int(m["step"]): float(m["loss"]) for m in VALID_LINE.finditer(printed)}
    assert lines == pytest.approx(valid_losses(reports), abs=5e-4)
    assert list(train_losses(reports)) == [2, 4, 6, 8]
    assert list(valid_losses(reports)) == [1, 4, 8]
    assert train_losses(reports)[8] < train_losses(reports)[2]

    for report in reports:
        assert REPORT_KEYS <= report.keys()
        assert ("train_loss" in report) != ("val_loss" in report)
        assert report["learning_rate"] == pytest.approx(5e-4)
        assert report["peak_memory_bytes"] >= report["active_memory_bytes"] > 0
    files = {path.name for path in adapters.iterdir()}
    assert files == {
        "adapters.safetensors",
        "adapter_config.json",
        "metrics.jsonl",
        "training_state.safetensors",
        "0000004_adapters.safetensors",
        "0000008_adapters.safetensors",
    }
    config = json.loads((adapters / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == "lora"
    assert config["lora_parameters"] == {"rank": 8, "dropout": 0.0, "scale": 20.0}
    assert config["seed"] == 7


@pytest.mark.usefixtures("graft_train")
@pytest.mark.parametrize(("term", "piped"), [("xterm", True), ("dumb", False), (None, False)])
def test_what_cannot_draw_gets_lines(
    term: str | None, piped: bool, checkpoint, data, tmp_path
) -> None:
    """Standard error is a terminal here, and standard output a pipe or the terminal as well."""
    environment = {key: value for key, value in os.environ.items() if key != "TERM"}
    environment |= {} if term is None else {"TERM": term}
    main, terminal = pty.openpty()
    arguments = [*FLAGS, "--model", checkpoint("llama"), "--data", data()]
    process = subprocess.Popen(
        [GRAFT_TRAIN, *map(str, arguments), "--adapter-path", tmp_path],
        stdout=subprocess.PIPE if piped else terminal, stderr=terminal, env=environment,
    )  # fmt: skip
    os.close(terminal)
    printed = process.stdout.read() if process.stdout else b""
    with contextlib.suppress(OSError):  # the terminal is closed
        while part := os.read(main, 4096):
            printed += part
    os.close(main)
    assert process.wait() == 0, printed
    assert "\x1b" not in printed.decode()
    lines = {int(m["step"]) for m in TRAIN_LINE.finditer(printed.decode())}
    assert lines == {2, 4, 6, 8}


def test_yaml_means_what_flags_mean(graft, checkpoint, data, tmp_path) -> None:
    config = tmp_path / "lora.yaml"
    config.write_text(f"""
# A file as in mlx-lm's examples: exponents without a dot are numbers there.
model: "{checkpoint("qwen2")}"
train: true
data: "{data()}"
optimizer: adamw
optimizer_config:
  adamw: {{betas: [0.9, 0.98], eps: 1e-6, weight_decay: 0.05}}
num_layers: 1
batch_size: 2
iters: 6
learning_rate: 1e-3
steps_per_report: 3
steps_per_eval: 3
val_batches: 1
lora_parameters:
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 4
  scale: 10.0
  dropout: 0.0
lr_schedule:
  name: cosine_decay
  warmup: 2
  warmup_init: 1e-7
  arguments: [1e-3, 6, 1e-5]
""")
    adapters = tmp_path / "adapters"
    run = graft("train", "--config", config, "--adapter-path", adapters, "--iters", 4)
    assert run.returncode == 0, run.stderr
    assert list(train_losses(metrics(adapters))) == [3, 4], "a flag goes before the file"
    names = sorted(mx.load(str(adapters / "adapters.safetensors")))
    assert names == [
        f"model.layers.1.self_attn.{p}.{m}"
        for p in ("q_proj", "v_proj")
        for m in ("lora_a", "lora_b")
    ]


def test_a_schedule_runs_as_in_mlx_lm(graft, checkpoint, data, tmp_path) -> None:
    """Learning rates of a schedule are mlx.optimizers' own."""
    pytest.importorskip("mlx_lm")
    config = tmp_path / "c.yaml"
    config.write_text(
        "lr_schedule: {name: cosine_decay, warmup: 3, warmup_init: 1e-6, arguments: [1e-3, 8]}\n"
    )
    shared = [*FLAGS, "--steps-per-report", 1, "--config", config]
    shared += ["--model", checkpoint("llama"), "--data", data()]
    theirs = mlx_lm_lora(tmp_path / "log", *shared, "--adapter-path", tmp_path / "theirs")
    run = graft("train", *shared, "--adapter-path", tmp_path / "ours")
    assert run.returncode == 0, run.stderr
    reports = [r for r in metrics(tmp_path / "ours") if "train_loss" in r]
    expected = [r for r in theirs if "train_loss" in r]
    for key in ("learning_rate", "train_loss"):
        assert [r[key] for r in reports] == pytest.approx([r[key] for r in expected], rel=1e-4)


def test_gradient_accumulation_is_mlx_lms(graft, checkpoint, data, tmp_path) -> None:
    pytest.importorskip("mlx_lm")
    shared = [*FLAGS, "--grad-accumulation-steps", 2, "--batch-size", 2]
    shared += ["--model", checkpoint("llama"), "--data", data()]
    theirs = mlx_lm_lora(tmp_path / "log", *shared, "--adapter-path", tmp_path / "theirs")
    run = graft("train", *shared, "--adapter-path", tmp_path / "ours")
    assert run.returncode == 0, run.stderr
    expected = {r["iteration"]: r["train_loss"] for r in theirs if "train_loss" in r}
    assert train_losses(metrics(tmp_path / "ours")) == pytest.approx(expected, rel=1e-4)


def test_resume_continues(graft, checkpoint, data, tmp_path) -> None:
    """A run from saved adapters starts at the loss where they were saved."""
    shared = ["--model", checkpoint("llama"), "--data", data(), "--num-layers", 2]
    shared += ["--learning-rate", 1e-3, "--steps-per-report", 5, "--val-batches", -1]
    shared += ["--max-seq-length", 128, "--train"]
    run = graft("train", *shared, "--iters", 30, "--adapter-path", tmp_path / "a")
    assert run.returncode == 0, run.stderr
    first = valid_losses(metrics(tmp_path / "a"))
    run = graft(
        "train", *shared, "--iters", 5, "--adapter-path", tmp_path / "b",
        "--resume-adapter-file", tmp_path / "a/adapters.safetensors",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    second = valid_losses(metrics(tmp_path / "b"))
    assert second[1] < 0.9 * first[1]
    # The last validation of the first run precedes its last step.
    assert second[1] == pytest.approx(first[30], rel=0.05)


def test_test_flag_reports_mlx_lms_loss(graft, checkpoint, data, tmp_path) -> None:
    shared = [*FLAGS, "--model", checkpoint("llama"), "--data", data()]
    run = graft("train", *shared, "--adapter-path", tmp_path, "--test")
    assert run.returncode == 0, run.stderr
    assert "Test loss " in run.stdout
    assert ", Test ppl " in run.stdout
    only = graft(
        "train", "--test", "--model", checkpoint("llama"), "--data", data(),
        "--adapter-path", tmp_path, "--batch-size", 4, "--max-seq-length", 128,
    )  # fmt: skip
    assert only.returncode == 0, only.stderr
    line = next(line for line in run.stdout.splitlines() if line.startswith("Test loss"))
    assert line in only.stdout


def test_the_test_goes_on_with_the_order_of_the_training(graft, checkpoint, data, tmp_path) -> None:
    """Which batches are tested: mlx-lm draws from one generator throughout."""
    pytest.importorskip("mlx_lm")
    shared = [*FLAGS, "--model", checkpoint("llama"), "--data", data()]
    # With this seed the first of two batches is another one than at the start.
    shared += ["--test", "--test-batches", 1, "--seed", 8]
    script = Path(__file__).parent.parent / "support/run_mlx_lm.py"
    arguments = [script, tmp_path / "log", *shared, "--adapter-path", tmp_path / "theirs"]
    theirs = succeed(sys.executable, *arguments)
    run = graft("train", *shared, "--adapter-path", tmp_path / "ours")
    assert run.returncode == 0, run.stderr
    losses = [re.findall(r"Test loss (\S+),", printed) for printed in (run.stdout, theirs)]
    assert [float(loss) for loss in losses[0]] == pytest.approx(
        [float(loss) for loss in losses[1]], abs=2e-3
    )
    assert len(losses[0]) == 1


def test_half_precision_and_sharded_models_train(graft, checkpoint, data, tmp_path) -> None:
    for name, folder in (
        ("bf16", checkpoint("llama", dtype=mx.bfloat16)),
        ("fp16-4bit", checkpoint("qwen3", bits=4, dtype=mx.float16)),
        ("sharded", checkpoint("llama", shards=3)),
    ):
        run = graft(
            "train", *FLAGS, "--model", folder, "--data", data(), "--adapter-path", tmp_path / name
        )
        assert run.returncode == 0, run.stderr
        losses = train_losses(metrics(tmp_path / name))
        assert losses[8] < losses[2]


@pytest.mark.parametrize("program", [[GRAFT, "train"], [GRAFT_TRAIN]], ids=["graft", "graft-train"])
@pytest.mark.parametrize("flag", ["--help", "--no-such-flag"])
def test_a_reader_that_left_is_no_failure(program: list[object], flag: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [*map(str, program), flag], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    assert (run.returncode, b"panicked" in run.stderr) == (0 if flag == "--help" else 2, False)
    run = subprocess.run(
        [*map(str, program), flag], stdout=subprocess.DEVNULL, stderr=writer, check=False
    )
    os.close(writer)
    assert run.returncode == (0 if flag == "--help" else 2)


def test_help_names_every_flag_of_mlx_lm(graft) -> None:
    lora = pytest.importorskip("mlx_lm.lora")
    printed = graft("train", "--help").stdout
    for action in lora.build_parser()._actions:
        for flag in action.option_strings:
            assert flag in printed, flag
