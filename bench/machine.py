"""Where the peers are, and what is said of the machine beside `mlx_graft.bench.machine`."""

from __future__ import annotations

import ctypes.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlx_graft.bench.machine import describe as describe_machine
from mlx_graft.bench.machine import environment, with_workers

__all__ = ["BENCH", "OUT", "PEERS", "describe", "environment", "openblas", "peers_environment"]

BENCH = Path(__file__).resolve().parent
OUT = BENCH / "out"
PEERS = BENCH.parent / ".venv-peers/bin/python"
"""The Python of `make bench-peers`."""
THEIRS = ("torch", "peft", "transformers", "llama-cpp-python", "gguf")


def openblas() -> str | None:
    """Returns the name by which the loader finds OpenBLAS, if it is installed."""
    return ctypes.util.find_library("openblas") if sys.platform == "linux" else None


def peers_environment() -> dict[str, str]:
    """Returns the environment of contestants that run under `PEERS`."""
    private = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return with_workers({k: value for k, value in environment().items() if k not in private})


def versions_of_peers() -> dict[str, str | None]:
    """Returns the versions in the peers' environment, `None` for what is absent."""
    if not PEERS.exists():
        return dict.fromkeys(THEIRS)
    ask = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower().replace('_', '-'): d.version"
        " for d in m.distributions()}\n"
        "print(json.dumps({name: have.get(name) for name in sys.argv[1:]}))"
    )
    answer = subprocess.run(
        [PEERS, "-c", ask, *THEIRS],
        env=peers_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, str | None] = json.loads(answer.stdout)
    return found


def commit() -> str | None:
    """Returns the commit that is checked out, with a plus sign if what is measured differs.

    A run writes pages into `docs`, and a person then writes findings: the next run is of the same
    program.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=BENCH, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    written = (":(top,exclude)docs", ":(top,exclude)bench/findings")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *written)
    return head + ("+" if changed else "") if head else None


def describe() -> dict[str, Any]:
    """Returns what a reader of numbers must know."""
    machine = describe_machine()
    more = {"OpenBLAS": openblas(), **versions_of_peers()}
    # The report tells of these by their names; MLX's words on the device are for `graft bench`.
    del machine["device"]
    return {**machine, "commit": commit(), "versions": {**machine["versions"], **more}}
