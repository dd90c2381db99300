"""The parity sweep that a user runs on their own machine and device."""

from __future__ import annotations

import functools
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mlx_graft._runtime import MLX_VERSION
from mlx_graft.core._cases import OPS
from mlx_graft.core._parity import (
    DTYPES,
    FLOATING,
    Comparison,
    Verdict,
    all_errors,
    all_gradients,
    all_values,
)
from mlx_graft.core._sections import SECTIONS

#: How many failures are printed.
SHOWN = 20


COLUMNS = ("cases", "equal", "within tolerance", "same error", "failed")


class Tally:
    """What came out in one group."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COLUMNS, 0)
        self.failures: list[str] = []

    def add(self, found: Comparison) -> None:
        """Counts one comparison."""
        self.counts["cases"] += 1
        if found.verdict is Verdict.FAILED:
            self.failures.append(found.where)
        if found.verdict is Verdict.EQUAL and not found.worked:
            self.counts["same error"] += 1
        else:
            self.counts[found.verdict.value] += 1


@dataclass(frozen=True)
class Job:
    """Comparisons of one kind."""

    group: str
    name: str
    run: Callable[[int], Iterable[Comparison]]


def jobs() -> list[Job]:
    """Everything that is compared."""
    found = []
    for op in OPS:
        kinds: dict[str, Callable[[int], Iterator[Comparison]]] = {
            "values": functools.partial(all_values, op, DTYPES),
            "gradients": functools.partial(all_gradients, op, FLOATING),
            "errors": functools.partial(all_errors, op),
        }
        found += [Job(op.group, f"{op.name}, {kind}", run) for kind, run in kinds.items()]
    return found + [Job(group, group, run) for group, run in SECTIONS.items()]


def run(seconds: float, seed: int) -> int:
    """Compares until the time is up, once through everything at least if it suffices.

    Returns:
        The exit code: 1 if something failed, 3 if the time was up before all was compared once.
    """
    console = Console()
    device = mx.default_device()
    console.print(f"mlx {MLX_VERSION} on {device}, {platform.platform()}")
    start = time.monotonic()
    tallies: dict[str, Tally] = {}
    rounds, left = sweep(console, seconds, seed, tallies)
    console.print(table(tallies))
    failures = [where for tally in tallies.values() for where in tally.failures]
    for where in failures[:SHOWN]:
        console.print(f"[red]failed[/]: {where}", highlight=False)
    if len(failures) > SHOWN:
        console.print(f"… and {len(failures) - SHOWN} more")
    if left:
        console.print(f"The time was up with {left} of {len(jobs())} parts to go: --seconds")
    console.print(f"{rounds} whole rounds in {time.monotonic() - start:.0f} s, seed {seed}")
    return 1 if failures else 3 if left else 0


def sweep(
    console: Console, seconds: float, seed: int, tallies: dict[str, Tally]
) -> tuple[int, int]:
    """Fills `tallies`; returns the whole rounds, and what the first round lacks.

    The order is random, so that a short run samples all groups; each round has other numbers.
    """
    end = time.monotonic() + seconds
    queue = jobs()
    order = random.Random(seed)
    for job in queue:
        tallies.setdefault(job.group, Tally())
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        for number in range(1_000_000):
            order.shuffle(queue)
            for position, job in enumerate(queue):
                if time.monotonic() >= end:
                    return number, 0 if number else len(queue) - position
                progress.update(task, description=job.name)
                for found in job.run(seed + number):
                    tallies[job.group].add(found)
    raise AssertionError("a million rounds take longer than any time limit")


def table(tallies: dict[str, Tally]) -> Table:
    """The tallies as a table."""
    found = Table("group", show_footer=True)
    found.columns[0].footer = "all"
    for column in COLUMNS:
        total = sum(tally.counts[column] for tally in tallies.values())
        found.add_column(column, str(total), justify="right")
    for group, tally in tallies.items():
        style = "red" if tally.failures else None
        found.add_row(group, *map(str, tally.counts.values()), style=style)
    return found
