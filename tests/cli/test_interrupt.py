"""Ctrl-C and SIGTERM finish the step, save, and say how to go on."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap

import mlx.core as mx
import pytest

from support.run import GRAFT, interrupt_after_first_report, start


@pytest.fixture
def flags(checkpoint, data, tmp_path) -> list[object]:
    return [
        "--train", "--model", checkpoint("llama"), "--data", data(), "--iters", 1_000_000,
        "--num-layers", 2, "--steps-per-report", 1, "--val-batches", 1,
        "--adapter-path", tmp_path / "adapters",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command(number: signal.Signals, any_graft_train, flags, tmp_path) -> None:
    adapters = tmp_path / "adapters"
    run = interrupt_after_first_report([*any_graft_train, *flags], adapters, number)
    assert run.returncode == 130, run.stderr
    saved = mx.load(str(adapters / "adapters.safetensors"))
    assert any(mx.abs(value).max().item() > 0 for name, value in saved.items() if "_b" in name)
    message = run.stdout + run.stderr
    assert f"all is saved in {adapters}. The same command with --resume goes on" in message
    assert (adapters / "training_state.safetensors").exists()
    assert "Traceback" not in message


def test_a_validation_is_interrupted(any_graft_train, flags, data, tmp_path) -> None:
    """The first comes before the first step: nothing was reached, and nothing is written."""
    many = shutil.copytree(data(), tmp_path / "data")
    (many / "valid.jsonl").write_text((many / "valid.jsonl").read_text() * 500)
    flags = [*flags, "--val-batches", -1, "--data", many]
    # The file is made when the training begins.
    run = interrupt_after_first_report([*any_graft_train, *flags], tmp_path / "adapters", report="")
    assert run.returncode == 130, run.stderr
    assert "nothing was trained" in run.stderr
    assert "Traceback" not in run.stderr
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["metrics.jsonl"]
    assert not (tmp_path / "adapters/metrics.jsonl").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_reading_a_prompt_is_interrupted(number: signal.Signals, checkpoint) -> None:
    """In parts of one token, so that it takes long."""
    process = start([
        GRAFT, "generate", "--model", checkpoint("llama"), "--prompt", "a list, " * 10_000,
        "--prefill-step-size", 1, "--max-tokens", 5,
    ])  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("====")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out.strip() == ""
    # Or before it, while it was tokenized.
    assert err.startswith("error: stopped")
    assert "Traceback" not in err


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
    assert f"all is saved in {adapters}." in run.stdout
    assert "resume=True" in run.stdout
    assert (adapters / "adapters.safetensors").exists()
