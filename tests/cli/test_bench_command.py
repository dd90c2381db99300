"""`graft bench`: this project and mlx-lm in turns, on a machine that is not ours."""

from __future__ import annotations

import json
import statistics
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft as mg
from mlx_graft.bench import models
from mlx_graft.bench.table import ratio, table
from support.run import assert_refused

TINY = {
    **models.SMALL, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 300,
}  # fmt: skip


@pytest.fixture(scope="module")
def result(graft, checkpoint, tmp_path_factory) -> tuple[dict[str, Any], str]:
    """One measurement of a tiny model, with its text."""
    pytest.importorskip("mlx_lm")
    folder = tmp_path_factory.mktemp("bench")
    flags = ("--model", checkpoint("llama"), "--turns", 2, "--json", folder / "out.json")
    run = graft("bench", *flags, cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [path.name for path in folder.iterdir()] == ["out.json"]
    return json.loads((folder / "out.json").read_text()), run.stdout


def test_both_do_the_same_work(result) -> None:
    (case,) = result[0]["cases"]
    for kind in ("step", "text"):
        ours, theirs = case[kind]
        assert (ours["name"], theirs["name"]) == ("mlx-graft", "mlx-lm")
        assert len(ours["turns"]) == 2 and len(theirs["turns"]) == 2
        assert ours["error"] is None and theirs["error"] is None
    ours, theirs = case["step"]
    assert ours["first"]["loss"] == pytest.approx(theirs["first"]["loss"], rel=1e-5)
    ours, theirs = case["text"]
    assert ours["first"]["tokens"] == theirs["first"]["tokens"]


def test_the_json_tells_of_the_machine_and_the_options(result) -> None:
    found = result[0]
    assert found["format"] == 1
    assert found["options"]["turns"] == 2 and found["options"]["quick"] is False
    machine = found["machine"]
    assert machine["versions"]["mlx"] == mx.__version__
    assert machine["cores"] >= 1
    assert machine["build"] in ("debug", "release")
    kind = "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"
    assert machine["device"]["kind"] == kind
    turn = found["cases"][0]["step"][0]["turns"][0]
    assert turn["seconds"] > 0 and turn["resident"] > turn["arrays"] > 0


def test_the_table_is_that_of_the_turns(result) -> None:
    found, text = result
    case = found["cases"][0]
    medians = [statistics.median(t["seconds"] for t in one["turns"]) for one in case["step"]]
    assert ratio(case, "step", "seconds") == pytest.approx(medians[1] / medians[0])
    speeds = [statistics.median(t["prompt"] for t in one["turns"]) for one in case["text"]]
    assert ratio(case, "text", "prompt") == pytest.approx(speeds[0] / speeds[1])
    assert f"{found['machine']['build']} build" in text
    line = next(line for line in text.splitlines() if line.startswith("LoRA step"))
    assert f"{1e3 * medians[0]:.1f}" in line and f"{medians[1] / medians[0]:.2f} ×" in line


def test_who_is_missing_is_named(result) -> None:
    found = json.loads(json.dumps(result[0]))
    case = found["cases"][0]
    case["step"][1] |= {"turns": [], "error": "mlx-lm is not installed"}
    assert ratio(case, "step", "seconds") is None
    assert "mlx-lm, step: mlx-lm is not installed" in table(found)


@pytest.mark.parametrize("form", list(models.DTYPES))
def test_the_models_made_are_those_of_the_seed(form, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(models.CONFIGS, "tiny", TINY)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        models.write_model(folder, "tiny", form)
        models.write_adapters(folder, folder / "adapters")
    for file in ("model.safetensors", "adapters/adapters.safetensors"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
    tokens = mx.array([[5, 7, 200, 299]])
    model, tokenizer = mg.load(folders[0], folders[0] / "adapters")
    logits = model(tokens)
    assert logits.shape == (1, 4, 300)
    assert tokenizer.encode("w5 w299") == [5, 299]
    mlx_lm = pytest.importorskip("mlx_lm")
    theirs, *_ = mlx_lm.load(str(folders[0]), adapter_path=str(folders[0] / "adapters"))
    tolerance = 1e-4 if form == "fp32" else 5e-2
    assert mx.allclose(logits, theirs(tokens), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--turns", 0], "--turns"),
        (["--turns", "many"], "--turns"),
        (["--model", "nowhere"], "nowhere"),
        (["--model", "nowhere", "--size", "5M"], "--size"),
        (["--json", "nowhere/out.json"], "nowhere"),
        (["--formats", "fp8"], "fp8"),
        (["--fast"], "--fast"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes(flags, says, graft, tmp_path) -> None:
    assert_refused(graft("bench", *flags, cwd=tmp_path), says)
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_loaded_says_why(graft, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "unknown-kind"}')
    run = graft("bench", "--model", folder, "--json", tmp_path / "out.json", cwd=tmp_path)
    assert_refused(run, "unknown-kind", "known: llama")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
