"""What starting costs: the import of the package, and `graft-train` up to its first step."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from machine import BENCH, environment
from models import Model, documents

from mlx_graft.bench.contest import MeasurementError

READY = "Starting training"
"""What `graft-train` prints when all is loaded and the first step is next."""
IMPORT = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
LOAD = "import mlx.core as mx; mx.eval(list(mx.load({!r}).values()))"


def seconds_of(statement: str) -> float:
    """Returns how long a statement takes in a new interpreter, without that one's own start."""
    command = [sys.executable, "-c", IMPORT.format(statement)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return float(done.stdout)


def interpreter(quick: bool) -> dict[str, Any]:
    """Measures imports, in turns."""
    statements = {"mlx.core": "import mlx.core", "mlx_graft": "import mlx.core, mlx_graft"}
    times: dict[str, list[float]] = {name: [] for name in statements}
    for turn in range(4 if quick else 10):
        for name, statement in statements.items():
            seconds = seconds_of(statement)
            if turn > 0:
                times[name].append(seconds)
    for name, spent in times.items():
        print(f"  import {name:12} {1e3 * statistics.median(spent):6.0f} ms")
    return {"seconds": times}


def binary() -> Path:
    """Returns where cargo puts the optimised `graft-train`."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", BENCH.parent / "target"))
    return target / "release/graft-train"


def seconds_until_ready(command: list[str]) -> float:
    """Returns the seconds from the start of a program to its first step; ends it there."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        seconds = next(
            (time.perf_counter() - start for line in process.stdout if READY in line), None
        )
        process.kill()
        process.communicate()
        errors.seek(0)
        if seconds is None:
            raise MeasurementError(f"{' '.join(command)}\n{errors.read()}")
    return seconds


def trainer(quick: bool) -> dict[str, Any]:
    """Measures `graft-train` against loading the weights alone, in turns."""
    model = Model("100M", "fp32").write()
    file = model.folder / "model.safetensors"
    times: dict[str, list[float]] = {"weights": [], "graft-train": []}
    with tempfile.TemporaryDirectory() as temporary:
        rows = [json.dumps({"text": text}) for text in documents()[:64]]
        (Path(temporary) / "train.jsonl").write_text("\n".join(rows))
        command = [
            binary(), "--train", "--model", model.folder, "--data", temporary,
            "--adapter-path", Path(temporary) / "adapters", "--val-batches", 0, "--num-layers", -1,
        ]  # fmt: skip
        for turn in range(4 if quick else 10):
            loading = seconds_of(LOAD.format(str(file))) - seconds_of("import mlx.core")
            ready = seconds_until_ready(list(map(str, command)))
            if turn > 0:
                times["weights"].append(loading)
                times["graft-train"].append(ready)
    for name, spent in times.items():
        print(f"  {name:12} {1e3 * statistics.median(spent):6.0f} ms")
    return {"seconds": times}


def cases(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Returns the measurements by name."""
    return {"import": partial(interpreter, quick), "graft-train": partial(trainer, quick)}
