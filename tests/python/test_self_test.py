"""`python -m mlx_graft.core --self-test`, shortened."""

from __future__ import annotations

import sys

import mlx.core as mx
import pytest

import mlx_graft.core as mc
from mlx_graft.core import _self_test
from mlx_graft.core._cases import OPS
from mlx_graft.core._parity import Maker, Verdict, comparison
from mlx_graft.core._sections import SECTIONS
from support.run import execute


def test_it_prints_a_table_and_what_is_left() -> None:
    command = [sys.executable, "-m", "mlx_graft.core", "--self-test", "--seconds", "2"]
    run = execute(*command, "--device", "cpu")
    assert run.returncode == 3, run.stdout + run.stderr
    for word in ["group", "equal", "within tolerance", "failed", "arithmetic", "seed 7", "to go"]:
        assert word in run.stdout


def test_it_succeeds(monkeypatch, capsys) -> None:
    monkeypatch.setattr(_self_test, "OPS", OPS[:3])
    monkeypatch.setattr(_self_test, "SECTIONS", {"native kernels": SECTIONS["native kernels"]})
    assert _self_test.run(5.0, 7) == 0
    assert "to go" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [[], ["--self-test", "--seconds", "0"], ["--self-test", "--device", "tpu"]]
)
def test_wrong_options(options: list[str]) -> None:
    run = execute(sys.executable, "-m", "mlx_graft.core", *options)
    assert run.returncode == 2
    assert "usage:" in run.stderr


def test_a_wrong_operation_is_found(monkeypatch, capsys) -> None:
    monkeypatch.setattr(mc, "square", lambda a, stream=None: mc.add(a, a, stream=stream))
    monkeypatch.setattr(_self_test, "OPS", [op for op in OPS if op.name in ("square", "sqrt")])
    monkeypatch.setattr(_self_test, "SECTIONS", {})
    assert _self_test.run(1.0, 7) == 1
    assert "failed: square, case 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "least"), [("transforms", 101), ("files", 101), ("native kernels", 80)]
)
def test_a_section_finds_no_difference(name: str, least: int) -> None:
    found = list(SECTIONS[name](7))
    assert [one.where for one in found if one.verdict is Verdict.FAILED] == []
    assert sum(one.worked for one in found) >= least


def test_a_wrong_file_is_found(monkeypatch) -> None:
    monkeypatch.setattr(mc, "save", lambda file, array, save=mc.save: save(file, array * 2))
    found = [one for one in SECTIONS["files"](7) if one.verdict is Verdict.FAILED]
    assert found
    assert all(one.where.startswith("npy, ") for one in found)


def test_a_wrong_transform_is_found(monkeypatch) -> None:
    monkeypatch.setattr(mc, "checkpoint", lambda f: lambda *a: f(*a) * 2)
    found = [one for one in SECTIONS["transforms"](7) if one.verdict is Verdict.FAILED]
    assert {one.where.split(",")[0] for one in found} == {"checkpoint"}


def test_comparison() -> None:
    one = [mx.array([1.0, float("nan")])]
    assert comparison("", one, one).verdict is Verdict.EQUAL
    assert comparison("", one, [mx.array([1.000001, float("nan")])]).verdict is Verdict.CLOSE
    assert comparison("", one, [mx.array([1.1, float("nan")])]).verdict is Verdict.FAILED
    assert comparison("", one, [one[0].astype(mx.float16)]).verdict is Verdict.FAILED
    assert comparison("", one, ValueError).verdict is Verdict.FAILED
    assert comparison("", ValueError, ValueError).verdict is Verdict.EQUAL
    assert comparison("", ValueError, TypeError).verdict is Verdict.FAILED


def test_the_same_seed_makes_the_same_arrays() -> None:
    first, second, other = (Maker(mx.float32, seed=seed)(2, 3) for seed in (1, 1, 2))
    assert mx.array_equal(first, second)
    assert not mx.array_equal(first, other)
