"""Fixtures shared by all tests: checkpoints, data folders and the commands, made once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

# Before any test imports a library that reads them: no test may use the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import mlx.core as mx
import pytest

from support.checkpoints import write_checkpoint
from support.run import GRAFT, GRAFT_TRAIN, ROOT, execute
from support.text import write_data

Checkpoint = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Makes a model folder, or returns the one made before. Tests must not write into it."""
    made: dict[tuple[object, ...], Path] = {}

    def make(
        family: str = "llama",
        *,
        bits: int | None = None,
        dtype: mx.Dtype = mx.float32,
        shards: int = 1,
        seed: int = 0,
    ) -> Path:
        key = (family, bits, str(dtype), shards, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("models") / family
            made[key] = write_checkpoint(
                folder, family, bits=bits, dtype=dtype, shards=shards, seed=seed
            )
        return made[key]

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a data folder of a kind (`text`, `completions`, `chat`), once. Read-only."""
    made: dict[str, Path] = {}

    def make(kind: str = "text") -> Path:
        if kind not in made:
            made[kind] = write_data(tmp_path_factory.mktemp("data") / kind, kind)
        return made[kind]

    return make


@pytest.fixture(scope="session")
def graft() -> Run:
    """Runs the installed command `graft`."""
    return command(GRAFT)


@pytest.fixture(scope="session")
def graft_train() -> Run:
    """Runs the Rust binary `graft-train`."""
    if not GRAFT_TRAIN.exists():
        pytest.fail(f"{GRAFT_TRAIN} is missing: run `cargo build --package graft-train`")
    return command(GRAFT_TRAIN)


@pytest.fixture(params=["graft train", "graft-train"])
def any_graft_train(request: pytest.FixtureRequest) -> list[object]:
    """The start of a command line of training: of each command that trains."""
    if request.param == "graft train":
        return [GRAFT, "train"]
    request.getfixturevalue("graft_train")
    return [GRAFT_TRAIN]


def command(program: Path) -> Run:
    """Returns a function that runs a program and gives its output as text."""

    def run(
        *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return execute(program, *arguments, cwd=cwd, env={**os.environ, **(env or {})})

    return run
