"""The machine, the versions, and where the peers are."""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
OUT = BENCH / "out"
PEERS = BENCH.parent / ".venv-peers/bin/python"
"""The Python of `make bench-peers`."""
OURS = ("mlx", "mlx-lm", "mlx-graft", "numpy")
THEIRS = ("torch", "peft", "transformers", "llama-cpp-python", "gguf")


def openblas() -> str | None:
    """Returns the name by which the loader finds OpenBLAS, if it is installed."""
    return ctypes.util.find_library("openblas") if sys.platform == "linux" else None


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of contestants.

    A machine may name an older core to OpenBLAS, which slows whatever uses it.
    """
    kept = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **more}


def peers_environment() -> dict[str, str]:
    """Returns the environment of contestants that run under `PEERS`."""
    private = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {key: value for key, value in environment().items() if key not in private}


def processor() -> str:
    """Returns the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def flags() -> list[str]:
    """Returns the instruction sets that decide the speed of products."""
    info = Path("/proc/cpuinfo")
    known = {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16"}
    return sorted(known.intersection(info.read_text().split())) if info.exists() else []


def cores() -> int:
    """Returns the number of cores that this process may use."""
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return int(count() or 1)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def versions() -> dict[str, str | None]:
    """Returns the versions of this project, of MLX and of the peers, `None` for what is absent."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for name in OURS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["OpenBLAS"] = openblas()
    ask = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower().replace('_', '-'): d.version"
        " for d in m.distributions()}\n"
        "print(json.dumps({name: have.get(name) for name in sys.argv[1:]}))"
    )
    if not PEERS.exists():
        return {**found, **dict.fromkeys(THEIRS)}
    answer = subprocess.run(
        [PEERS, "-c", ask, *THEIRS],
        env=peers_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {**found, **json.loads(answer.stdout)}


def commit() -> str | None:
    """Returns the commit that is checked out, with a plus sign if files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=BENCH, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return head + ("+" if changed else "") if head else None


def describe() -> dict[str, Any]:
    """Returns what a reader of numbers must know."""
    return {
        "processor": processor(),
        "instruction sets": flags(),
        "cores": cores(),
        "system": platform.platform(),
        "commit": commit(),
        "versions": versions(),
    }
