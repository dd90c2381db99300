"""Runs the benchmarks, each into a file of its own in `bench/out/results`, and writes the report.

The report is `bench/out/report.md`; `--page benchmarks`, as in `make bench`, writes
`docs/benchmarks.md` instead. What `bench/findings` says of a page stands in it if the results are
of the same processor.

A run that was stopped goes on where it was: what has a result already is left as it is, unless
`--fresh` is given, the result came from a `--quick` run and this one is not quick, a program of
this project failed in it, or peers that it lacks have been installed since.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import call
import inference
import kernels
import lora_step
import machine
import mixed_lengths
import overheads
import report
import scaling
import startup
from contestants import NO_PEERS
from machine import PEERS
from targets import ACCELERATED, OURS, PADDED

from mlx_graft.bench import contest

PARTS: dict[str, Any] = {
    "lora_step": lora_step,
    "inference": inference,
    "mixed_lengths": mixed_lengths,
    "scaling": scaling,
    "overheads": overheads,
    "startup": startup,
    "kernels": kernels,
    "call": call,
}
RESULTS = machine.OUT / "results"


def broken(result: dict[str, Any]) -> list[str]:
    """Returns what went wrong in the programs that run this project's code.

    Whoever is left out, as a quick run leaves out who is slow, has not failed.
    """
    return [
        f"{one['name']}: {one['error']}"
        for one in result.get("contestants", [])
        if one["name"].startswith((OURS, ACCELERATED, PADDED))
        and (one["error"] or "").startswith(contest.ENDED)
    ]


def is_done(path: Path, quick: bool) -> bool:
    """Returns whether a file holds a result that need not be measured again."""
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    errors = [one["error"] for one in result.get("contestants", [])]
    if broken(result):
        return False
    if quick and not result["quick"]:
        # A quick run would put less in its place.
        return True
    return not (NO_PEERS in errors and PEERS.exists()) and quick == result["quick"]


def main() -> None:
    """Runs what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}, or a part/case; all")
    parser.add_argument("--quick", action="store_true", help="few turns, without the slow peers")
    parser.add_argument("--fresh", action="store_true", help="measure again what has a result")
    parser.add_argument(
        "--page",
        help="write docs/PAGE.md instead of bench/out/report.md",
    )
    options = parser.parse_args()
    measures = {part: module.cases(options.quick) for part, module in PARTS.items()}
    known = {
        name for part in measures for name in (part, *(f"{part}/{case}" for case in measures[part]))
    }
    for name in options.parts:
        if name not in known:
            parser.error(f"{name}: no such part; wanted of {', '.join(sorted(known))}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    description = machine.describe()
    failed = []
    for part, cases in measures.items():
        for case, measure in cases.items():
            name = f"{part}/{case}"
            if options.parts and not {part, name}.intersection(options.parts):
                continue
            path = RESULTS / f"{part}-{case}.json"
            if not options.fresh and is_done(path, options.quick):
                print(f"{name}: there already")
                continue
            print(name, flush=True)
            start = time.perf_counter()
            try:
                result = measure()
            except (
                OSError,
                ValueError,
                subprocess.CalledProcessError,
                contest.MeasurementError,
            ) as error:
                print(f"  failed: {error}", file=sys.stderr)
                failed.append(name)
                continue
            result |= {
                "part": part, "case": case, "quick": options.quick, "machine": description,
                "date": time.strftime("%Y-%m-%d"), "wall": time.perf_counter() - start,
            }  # fmt: skip
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(result, indent=1))
            unfinished.rename(path)
            if errors := broken(result):
                print(f"  failed: {'; '.join(errors)}", file=sys.stderr)
                failed.append(name)
    report.write(RESULTS, options.page)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
