"""The benchmarks' own machinery, on a model so small that nothing is measured."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mlx_lm")
pytest.importorskip("matplotlib")

import inference
import machine
import models
import report
import run
import targets
from contestants import ours, theirs
from models import Model

from mlx_graft.bench import contest
from mlx_graft.bench.contest import Contestant
from mlx_graft.bench.machine import WORKERS
from mlx_graft.bench.models import SMALL
from support.run import snapshot

TINY = {
    **SMALL, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 300,
}  # fmt: skip
PACE: dict[str, Any] = {"warmup": 1, "turns": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes models of `TINY` in each form, in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "MODELS", tmp_path_factory.mktemp("models"))
        patch.setitem(models.CONFIGS, "tiny", TINY)
        patch.setattr(models, "documents", lambda: ["def f(x): return x + 1"] * 9)
        yield lambda form: Model("tiny", form).write()


def check(results: list[contest.Result]) -> None:
    errors = [f"{one.name}: {one.error}" for one in results if one.error]
    assert not errors
    assert all(len(one.turns) == PACE["turns"] for one in results)
    assert all(turn["resident"] > 1e6 for one in results for turn in one.turns)


def agree(results: list[contest.Result], tolerance: float) -> None:
    check(results)
    for one in results[1:]:
        for theirs_turn, turn in zip(results[0].turns, one.turns, strict=True):
            assert turn["loss"] == pytest.approx(theirs_turn["loss"], rel=tolerance), one.name
    assert results[0].turns[-1]["loss"] < results[0].first["loss"]


@pytest.mark.parametrize(("form", "tolerance"), [("fp32", 1e-5), ("bf16", 5e-3), ("4-bit", 5e-3)])
def test_the_steps_compared_are_the_same(tiny: Any, form: str, tolerance: float) -> None:
    folder = tiny(form).folder
    workers = ("mlx_lm_lora.py", "graft_lora.py")
    agree(contest.run([ours(worker, folder, name=worker, **PACE) for worker in workers]), tolerance)


def test_the_peers_step_is_the_same(tiny: Any) -> None:
    if not machine.PEERS.exists():
        pytest.skip("run `make bench-peers` first")
    folder = tiny("fp32").folder
    torch = theirs("PyTorch", "torch_lora.py", folder, "float32", **PACE)
    agree(contest.run([ours("graft_lora.py", folder, **PACE), torch]), 1e-5)


def test_what_is_generated_is_the_same(tiny: Any) -> None:
    model = tiny("fp32")
    workers = ("mlx_lm_generate.py", "graft_generate.py")
    contestants = [ours(worker, model.folder, name=worker, **PACE) for worker in workers]
    if machine.PEERS.exists():
        pace = PACE
        contestants.append(theirs("torch", "torch_generate.py", model.folder, "float32", **pace))
        gguf = model.write_gguf().gguf
        contestants.append(theirs("llama.cpp", "llama_cpp_generate.py", gguf, **pace))
    results = contest.run(contestants)
    check(results)
    for one in results[1:]:
        assert one.turns[0]["tokens"] == results[0].turns[0]["tokens"], one.name


def test_mlx_lm_takes_few_turns_only_where_it_is_slow(tiny: Any) -> None:
    found = {one.name: one for one in inference.contestants(tiny("fp32"), quick=False)}
    assert (found["mlx-lm"].warmup, found["mlx-lm"].turns) == (0, 2)
    for name in ("mlx-lm, OpenBLAS", "mlx-lm, accelerated", "llama.cpp", "mlx-graft"):
        assert (found[name].warmup, found[name].turns) == (1, inference.ROUNDS), name


def test_a_turn_ends_when_its_work_has_settled(tmp_path: Path) -> None:
    settled = tmp_path / "settled"
    program = f"""
import time, generation

now = 0.0
time.perf_counter = lambda: now

def tokens(_, count):
    global now
    for token in range(count):
        now += 1.0
        yield token

def settle():
    global now
    now += 1000.0
    open({str(settled)!r}, "a").write("settled ")

generation.serve(tokens, 300, settle)
"""
    command = [sys.executable, "-c", program]
    [result] = contest.run([Contestant("a", command, machine.environment(), warmup=0, turns=2)])
    assert result.error is None
    assert [turn["generation"] for turn in result.turns] == [1.0, 1.0], "it is not in the time"
    assert settled.read_text() == "settled settled "


def test_mlx_lm_leaves_no_token_to_the_next(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(WORKERS)
    for name in ("data", "serve", "generation", "mlx_lm_generate"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    worker = importlib.import_module("mlx_lm_generate")
    events: list[object] = []

    @contextlib.contextmanager
    def wired_limit(_: object, streams: list[object]) -> Iterator[None]:
        assert streams == [worker.generation_stream]
        events.append("wired")
        yield
        events.append("unwired")

    def serve(generate: Any, _: int, settle: Any) -> None:
        assert len(list(generate([1, 2, 3], 4))) == 4
        settle()

    stand_in = SimpleNamespace(array=worker.mx.array, synchronize=events.append)
    monkeypatch.setattr(worker, "mx", stand_in)
    monkeypatch.setattr(worker, "wired_limit", wired_limit)
    monkeypatch.setattr(worker.generation, "serve", serve)
    monkeypatch.setattr(sys, "argv", ["", str(tiny("fp32").folder)])
    worker.main()
    assert events == ["wired", worker.generation_stream, "unwired"]


def test_contestants_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import sys, json\n"
        "print('{}', flush=True)\n"
        "for _ in sys.stdin:\n"
        f"    open({str(log)!r}, 'a').write(sys.argv[1])\n"
        "    print(json.dumps({'seconds': 1}), flush=True)\n"
    )
    command = [sys.executable, "-c", program]
    results = contest.run(
        [
            Contestant("a", [*command, "a"], machine.environment(), warmup=1, turns=3),
            Contestant("b", [*command, "b"], machine.environment(), warmup=0, turns=2),
        ]
    )
    assert log.read_text() == "ababaa"
    assert [len(one.turns) for one in results] == [3, 2]


def test_who_is_slow_takes_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "PATIENCE", 0.5)
    program = (
        "import sys, json, time\n"
        "print('{}', flush=True)\n"
        "for number, _ in enumerate(sys.stdin):\n"
        "    time.sleep(float(sys.argv[1]))\n"
        "    print(json.dumps({'number': number}), flush=True)\n"
    )

    def takes(seconds: float, **pace: int) -> list[int]:
        command = [sys.executable, "-c", program, str(seconds)]
        [result] = contest.run([Contestant("a", command, machine.environment(), **pace)])
        return [turn["number"] for turn in result.turns]

    assert takes(0, warmup=2, turns=4) == [2, 3, 4, 5]
    assert takes(0.6, warmup=2, turns=9) == [0, 1]
    assert takes(0.6, warmup=1, turns=2, slow_turns=1) == [0]
    assert takes(0, warmup=1, turns=2, slow_turns=0) == [1, 2]


def test_who_is_slow_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "PATIENCE", 0.5)
    program = "print('{}', flush=True)\nfor _ in iter(input, None): input()"
    command = [sys.executable, "-c", program]
    hangs = Contestant("hangs", command, machine.environment(), slow_turns=0)
    [result] = contest.run([hangs])
    assert (result.turns, result.error) == ([], "a turn takes over 0.5 s")


def test_who_cannot_take_part_says_why() -> None:
    dies = Contestant("dies", [sys.executable, "-c", "import no_such"], machine.environment())
    absent = Contestant("absent", [], {}, missing="not installed")
    first, second = contest.run([dies, absent])
    assert "No module named 'no_such'" in str(first.error)
    assert second.error == "not installed"
    with pytest.raises(contest.MeasurementError, match="not installed"):
        second.median("seconds")


def test_who_dies_between_turns_leaves_the_others() -> None:
    program = "import sys\nprint('{}', flush=True)\nfor _ in sys.stdin: print('{}', flush=True)"
    stays = Contestant("stays", [sys.executable, "-c", program], machine.environment(), turns=2)
    once = "import sys\nprint('{}', flush=True)\nsys.exit('killed')"
    dies = Contestant("dies", [sys.executable, "-c", once], machine.environment())
    # Dead for certain when its turn comes.
    running = contest.Running(dies)
    assert running.process is not None
    running.process.wait()
    running.take_turn(0)
    running.end()
    assert running.result.error == "exit code 1: killed"
    first, second = contest.run([dies, stays])
    assert first.error == "exit code 1: killed"
    assert len(second.turns) == 2


def test_what_failed_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"

    def is_done(name: str, error: str | None, quick: bool = False) -> bool:
        contestants = [{"name": name, "error": error}, {"name": "mlx-lm", "error": "too slow"}]
        path.write_text(json.dumps({"quick": quick, "contestants": contestants}))
        return run.is_done(path, False)

    assert not run.is_done(path, False)
    assert is_done(targets.OURS, None)
    assert not is_done(targets.OURS, None, quick=True)
    for name in (targets.OURS, "mlx-graft, checkpointing", targets.ACCELERATED, targets.PADDED):
        assert not is_done(name, "exit code 1: no memory")
        assert len(run.broken(json.loads(path.read_text()))) == 1
        assert is_done(name, "a turn takes over 30 s")
    peers = tmp_path / "python"
    monkeypatch.setattr(run, "PEERS", peers)
    assert is_done(targets.TORCH, run.NO_PEERS)
    peers.touch()
    assert not is_done(targets.TORCH, run.NO_PEERS)
    assert is_done(targets.TORCH, "exit code 1: no memory")


def test_the_report_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def contestant(name: str, seconds: float) -> dict[str, Any]:
        turns = [{"seconds": seconds, "loss": 2.0, "resident": 2e9}] * 3
        return {"name": name, "turns": turns, "first": turns[0], "error": None}

    result = {
        "contestants": [
            contestant(targets.TORCH, 3.0),
            contestant(targets.OURS, 1.0),
            {"name": "mlx-lm", "turns": [], "first": {}, "error": "exit code 1: no memory"},
        ],
        "machine": machine.describe(), "date": "2026-01-01", "quick": True,
    }  # fmt: skip
    described = (report.BENCH / "findings/benchmarks.md").read_text().splitlines()[0]
    result["machine"]["processor"] = described.removeprefix("<!-- ").removesuffix(" -->")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "lora_step-100M-fp32.json").write_text(json.dumps(result))
    calls = {"seconds": {"add": {"mlx.core": 2e-7, "mlx_graft.core": 3e-7}}}
    (folder / "call-core.json").write_text(json.dumps({**result, **calls}))
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr(report, "REPORT", tmp_path / "out/report.md")
    report.write(folder, "benchmarks")
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| fp32 LoRA step | ≥ 1.5 × PyTorch + PEFT | 3.00 ×, n = 3 | yes |" in text
    assert "| PyTorch + PEFT | 3.000 | 3.000 | 3 | 2000 |" in text
    assert "not measured (lora_step/100M-fp32: mlx-lm)" in text
    assert "not measured (inference/100M-bf16)" in text
    assert "exit code 1: no memory" in text
    assert "(quick)" in text
    assert "| add | 200 | 300 | 1.50 × |" in text
    assert (tmp_path / "benchmarks/lora_step.svg").stat().st_size > 1000
    # Another machine's page stands beside, with its own plots.
    report.write(folder, "benchmarks-other")
    other = (tmp_path / "benchmarks-other.md").read_text()
    assert "](benchmarks-other/lora_step.svg)" in other
    assert "What falls short" in text
    assert "What falls short" not in other
    assert (tmp_path / "benchmarks-other/lora_step.svg").exists()
    # What was found on one processor is not said of another.
    result["machine"]["processor"] = "another"
    (folder / "lora_step-100M-fp32.json").write_text(json.dumps(result))
    report.write(folder, "benchmarks")
    assert "What falls short" not in (tmp_path / "benchmarks.md").read_text()
    # Without a page nothing is published.
    published = snapshot(tmp_path)
    report.write(folder)
    found = (tmp_path / "out/report.md").read_text()
    assert "](report/lora_step.svg)" in found
    assert "What falls short" not in found
    assert (tmp_path / "out/report/lora_step.svg").exists()
    assert published == {
        name: content for name, content in snapshot(tmp_path).items() if not name.startswith("out/")
    }


def steps(**seconds: list[float]) -> dict[str, Any]:
    """A result of steps: the seconds of each contestant's turns."""
    names = {"ours": targets.OURS, "torch": targets.TORCH, "torch_bf16": f"{targets.TORCH}, bf16"}
    return {
        "contestants": [
            {"name": names[who], "turns": [{"seconds": x, "resident": 1e9} for x in turns]}
            for who, turns in seconds.items()
        ]
    }


def row(results: targets.Results, work: str, wanted: str) -> tuple[str, str]:
    """What the table says of a target, and whether it is met."""
    [found] = [row[2:] for row in targets.table(results) if row[:2] == (work, wanted)]
    return found


def test_results_have_the_digits_that_their_turns_allow() -> None:
    results = {"lora_step-100M-bf16": steps(ours=[2.0] * 9, torch=[5.6] * 9)}
    wanted = "≥ 1 × PyTorch + PEFT"
    assert row(results, "bf16 LoRA step", wanted) == ("2.80 ×", "yes")
    results["lora_step-100M-bf16"] = steps(ours=[1.0] * 9, torch=[285.4])
    assert row(results, "bf16 LoRA step", wanted) == ("290 ×, n = 1", "yes")
    assert [targets.times(x) for x in (0.25, 9.99, 9.999, 1234.0)] == [
        "0.25 ×", "9.99 ×", "10 ×", "1,200 ×"
    ]  # fmt: skip


def test_a_slow_dtype_of_a_peer_is_not_all_that_is_compared_with() -> None:
    wanted = "beside PyTorch + PEFT, its faster dtype"
    results = {
        "lora_step-100M-fp32": steps(ours=[4.0] * 9, torch=[4.5] * 9),
        "lora_step-100M-bf16": steps(ours=[5.0] * 9, torch=[285.0]),
        "lora_step-100M-4-bit": steps(ours=[9.0] * 9, torch_bf16=[2.25] * 9),
    }
    found = row(results, "bf16 LoRA step", wanted)
    assert found == ("0.90 × its speed (fp32, of another run)", "–")
    found = row(results, "4-bit QLoRA step", wanted)
    assert found == ("0.25 × its speed (bf16)", "–")
    del results["lora_step-100M-fp32"]
    assert "not measured" in row(results, "bf16 LoRA step", wanted)[0]


def test_the_spread_of_inference_is_shown() -> None:
    turns = [{"prompt": p, "generation": g, "resident": 1e9, "tokens": [1, 2, 3, 4, 5]}
             for p, g in ((900.0, 40.0), (1000.0, 50.0), (1020.0, 44.0))]  # fmt: skip
    memory = {"name": "memory", "turns": [{"bandwidth": 1e10, "resident": 1e9}]}
    contestants = [
        {"name": "mlx-graft", "turns": turns, "error": None},
        {"name": "llama.cpp", "turns": [], "error": "absent"},
        memory,
    ]
    text = report.inference({"a": {"contestants": contestants, "weight_bytes": 1e8}}, "a")
    line = "| mlx-graft | 1000 | 900–1020 | 44.0 | 40.0–50.0 | 44 % | 3 | 1000 | 1 2 3 4 |"
    assert line in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_a_commit_is_marked_where_what_is_measured_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "BENCH", tmp_path / "bench")
    files = ["bench/run.py", "bench/findings/page.md", "docs/page.md"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init"], ["add", "."], [*identity, "commit", "--message", "All"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    clean = machine.commit()
    assert clean
    for name in files[1:]:
        (tmp_path / name).write_text("after")
    assert machine.commit() == clean
    (tmp_path / files[0]).write_text("after")
    assert machine.commit() == f"{clean}+"


def test_what_limits_threads_and_instructions_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP", "MKL", "OPENBLAS", "RAYON"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    monkeypatch.delenv("GRAFT_MAX_ISA", raising=False)
    assert "environment" not in machine.describe()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GRAFT_MAX_ISA", "avx2")
    found = machine.describe()
    assert found["environment"] == ["OMP_NUM_THREADS=1", "GRAFT_MAX_ISA=avx2"]
    text = report.conditions({"a-b": {"machine": found, "date": "2026-01-01", "quick": False}})
    assert "- environment: OMP_NUM_THREADS=1, GRAFT_MAX_ISA=avx2" in text
