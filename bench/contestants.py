"""Who takes part in the benchmarks: this project, mlx-lm in several ways, and the peers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from machine import BENCH, PEERS, environment, openblas, peers_environment

from mlx_graft.bench.contest import Contestant
from mlx_graft.bench.machine import WORKERS

__all__ = ["NO_PEERS", "USES_BLAS", "Contestant", "accelerated", "ours", "theirs", "with_openblas"]
NO_PEERS = "run `make bench-peers` first"
"""What keeps programs out that run under the peers' Python."""
USES_BLAS = {"fp32"}
"""Formats in which MLX calls BLAS, so that OpenBLAS makes mlx-lm faster."""


def program(worker: str) -> Path:
    """Returns where a worker is: the package has those that `graft bench` runs too."""
    shared = WORKERS / worker
    return shared if shared.exists() else BENCH / "workers" / worker


def without_mlx_lm(worker: str) -> str | None:
    """Returns why a worker cannot run here, if it needs mlx-lm: that needs Python 3.11."""
    needs_it = worker.startswith("mlx_lm_") or worker == "mixed_lora.py"
    absent = needs_it and importlib.util.find_spec("mlx_lm") is None
    return "mlx-lm is not installed" if absent else None


def ours(worker: str, *arguments: object, name: str = "mlx-graft", **more: Any) -> Contestant:
    """Returns a contestant that runs under this Python."""
    command = [sys.executable, str(program(worker)), *map(str, arguments)]
    return Contestant(name, command, environment(), missing=without_mlx_lm(worker), **more)


def accelerated(worker: str, *arguments: object, **more: Any) -> Contestant:
    """Returns a program that knows nothing of this project, run by `mlx_graft.accelerate`."""
    module = ["-m", "mlx_graft.accelerate", "-m", worker.removesuffix(".py")]
    command = [sys.executable, *module, *map(str, arguments)]
    missing = without_mlx_lm(worker)
    return Contestant("mlx-lm, accelerated", command, environment(), missing=missing, **more)


def with_openblas(contestant: Contestant) -> Contestant:
    """Preloads OpenBLAS, which takes the place of the BLAS that MLX's wheel brings."""
    library = openblas()
    if library is None:
        contestant.missing = "OpenBLAS is not installed"
    else:
        contestant.environment = {**contestant.environment, "LD_PRELOAD": library}
    return contestant


def theirs(name: str, worker: str, *arguments: object, **more: Any) -> Contestant:
    """Returns a contestant that runs under the peers' Python."""
    command = [str(PEERS), str(program(worker)), *map(str, arguments)]
    missing = None if PEERS.exists() else NO_PEERS
    return Contestant(name, command, peers_environment(), missing=missing, **more)
