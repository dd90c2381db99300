"""The command `graft bench`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_graft import hub
from mlx_graft.bench import contest
from mlx_graft.bench.contest import Contestant
from mlx_graft.bench.machine import WORKERS, describe, environment
from mlx_graft.bench.models import CONFIGS, DTYPES, write_model
from mlx_graft.bench.table import GRAFT, MLX_LM, table

WORK = {
    "step": ("graft_lora.py", "mlx_lm_lora.py"),
    "text": ("graft_generate.py", "mlx_lm_generate.py"),
}
"""A step of training on 4 rows of 256 tokens; a prompt of 512 tokens and 128 generated after it."""
FORMAT = 1
"""Of the JSON; raised when its keys change."""


class UsageError(Exception):
    """Something that the user can mend."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags."""
    found = argparse.ArgumentParser(
        "graft bench",
        description="Measure LoRA training, prompts and generation with mlx-graft and, where it is "
        "installed, with mlx-lm, on the same weights and in turns; print a table and write JSON.",
    )
    found.add_argument(
        "--model", metavar="MODEL",
        help="a folder or Hugging Face repository, instead of models made from a fixed seed",
    )  # fmt: skip
    found.add_argument("--size", choices=CONFIGS, help="of the models made [100M; with --quick 5M]")
    found.add_argument(
        "--formats", nargs="+", choices=DTYPES, help="of the models made [all three]"
    )
    found.add_argument(
        "--turns", type=int, help="of each program after warm-up [9; with --quick 3]"
    )
    found.add_argument("--quick", action="store_true", help="a small model, few turns: minutes")
    found.add_argument("--without-mlx-lm", action="store_true", help="measure mlx-graft alone")
    found.add_argument(
        "--json", type=Path, default=Path("graft-bench.json"), metavar="FILE",
        help="where everything measured is written [%(default)s]",
    )  # fmt: skip
    return found


def check(options: argparse.Namespace) -> None:
    """Fills in what was not given, and refuses what cannot be before anything is measured."""
    if options.model and (options.size or options.formats):
        raise UsageError("--size and --formats are of the models made; leave them out with --model")
    if options.turns is not None and options.turns < 1:
        raise UsageError(f"--turns: found {options.turns}, wanted at least 1")
    if options.json.is_dir():
        raise UsageError(f"--json: {options.json} is a folder, wanted a file")
    if not options.json.absolute().parent.is_dir():
        raise UsageError(f"--json: the folder {options.json.parent} does not exist")
    options.turns = options.turns or (3 if options.quick else 9)
    if not options.model:
        options.size = options.size or ("5M" if options.quick else "100M")
        options.formats = options.formats or list(DTYPES)


def contestants(
    kind: str, model: Path, adapters: Path, options: argparse.Namespace, cpu: bool
) -> list[Contestant]:
    """Returns who takes part in a kind of work."""
    arguments = [str(model), *([str(adapters)] if kind == "step" else [])]
    pace: dict[str, Any] = {"warmup": 2, "turns": options.turns}
    found = []
    for name, worker in zip((GRAFT, MLX_LM), WORK[kind], strict=True):
        command = [sys.executable, str(WORKERS / worker), *arguments]
        one = Contestant(name, command, environment(), **pace)
        if name == MLX_LM:
            if options.without_mlx_lm:
                continue
            if importlib.util.find_spec("mlx_lm") is None:
                one.missing = "mlx-lm is not installed"
            if cpu:
                # It takes a minute for what takes a second here.
                one.warmup, one.turns = 0, min(2, options.turns)
        found.append(one)
    return found


def measure(name: str, model: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one model; `folder` is for its adapters."""
    adapters = folder / "adapters"
    command = [sys.executable, "-m", "mlx_graft.bench.models", str(model), str(adapters)]
    made = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if made.returncode != 0:
        last = made.stderr.strip().splitlines()[-1:]
        raise UsageError(f"{name}: {' '.join(last) or made.returncode}")
    cpu = describe()["device"]["kind"] == "cpu"
    case: dict[str, Any] = {"model": name}
    for kind in WORK:
        print(f"{name}: {kind}", file=sys.stderr, flush=True)
        results = contest.run(contestants(kind, model, adapters, options, cpu))
        case[kind] = [asdict(result) for result in results]
    return case


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures what the flags say, and returns everything."""
    start = time.perf_counter()
    cases = []
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        if options.model:
            model = Path(hub.resolve(options.model))
            cases.append(measure(options.model, model, Path(temporary), options))
        else:
            for form in options.formats:
                folder = Path(temporary) / form
                write_model(folder / "model", options.size, form)
                name = f"{options.size} {form}"
                cases.append(measure(name, folder / "model", folder, options))
    given = {key: str(value) if key == "json" else value for key, value in vars(options).items()}
    return {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe(),
        "options": given,
        "cases": cases,
        "wall": time.perf_counter() - start,
    }


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        check(options)
        result = run(options)
    except (UsageError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: stopped; nothing is written", file=sys.stderr)
        return 130
    print(table(result))
    unfinished = options.json.with_name(f".{options.json.name}.unfinished")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(options.json)
    print(f"\nWritten to {options.json}")
    failed = [
        one for case in result["cases"] for kind in WORK for one in case[kind] if one["error"]
    ]
    return 1 if any(one["name"] == GRAFT for one in failed) else 0
