"""What a reader of numbers must know of the machine, and the environment of contestants."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_graft import _core

WORKERS = Path(__file__).resolve().parent / "workers"
"""The programs that take turns; what they share is imported by its plain name."""
PACKAGES = ("mlx", "mlx-lm", "mlx-graft", "numpy")
SETTINGS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS",
    "GRAFT_MAX_ISA",
)  # fmt: skip
"""Variables that say how many threads, or which instructions, a contestant uses."""


def with_workers(environment: dict[str, str]) -> dict[str, str]:
    """Returns an environment in which programs find what the workers share."""
    paths = [str(WORKERS), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of contestants.

    A machine may name an older core to OpenBLAS, which slows whatever uses it.
    """
    kept = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return with_workers({**kept, **fixed, **more})


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


def device() -> dict[str, Any]:
    """Returns what MLX says of its default device."""
    default = mx.default_device()
    name = "gpu" if default == mx.Device(mx.gpu) else "cpu"
    return {"kind": name, **mx.device_info(default)}


def versions(names: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Returns the version of Python and of packages, `None` for what is absent."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def settings() -> list[str]:
    """Returns the variables of `SETTINGS` that are set, with their values."""
    return [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]


def describe() -> dict[str, Any]:
    """Returns the machine, its device and the versions of what takes part."""
    found = {
        "processor": processor(),
        "instruction sets": flags(),
        "cores": cores(),
        "system": platform.platform(),
        "device": device(),
        "build": _core.BUILD_PROFILE,
        "versions": versions(),
    }
    return {**found, "environment": settings()} if settings() else found
