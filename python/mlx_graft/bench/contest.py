"""Programs that take turns at the same work, so that all meet the same noise of the machine."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import IO, Any

Turn = dict[str, Any]

PATIENCE = 30.0
"""Seconds after which a turn is slow."""
ENDED = "exit code"
"""How the error of a program begins that ended before its last turn."""


class MeasurementError(Exception):
    """A measurement that gave nothing."""


@dataclass
class Contestant:
    """A program that takes turns: how to start it, and how many turns it takes."""

    name: str
    command: list[str]
    environment: dict[str, str]
    warmup: int = 2
    turns: int = 9
    slow_turns: int = 2
    """How many turns it takes from its first one on if that is slow; with 0 it is left out then."""
    missing: str | None = None
    """Why it cannot run here."""


@dataclass
class Result:
    """What a contestant did."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    """Its turns without those that warm up."""
    first: Turn = field(default_factory=dict)
    """Its very first turn, which may compile; its loss is that of the untrained model."""
    error: str | None = None
    """Why it has none."""

    def median(self, key: str) -> float:
        """Returns the median of a number over the turns."""
        if not self.turns:
            raise MeasurementError(f"{self.name}: {self.error}")
        return float(statistics.median(turn[key] for turn in self.turns))


class Running:
    """A contestant's process."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self.result = Result(contestant.name, error=contestant.missing)
        self.errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process: subprocess.Popen[str] | None = None
        if contestant.missing is None:
            self.process = subprocess.Popen(
                contestant.command, env=contestant.environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            )  # fmt: skip
            self.read()

    def read(self) -> Turn:
        """Returns the next answer; with none, the contestant is out, and says why."""
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            answer: Turn = json.loads(line)
            return answer
        self.errors.seek(0)
        last = self.errors.read().strip().splitlines()[-1:]
        self.result.error = f"{ENDED} {self.process.wait()}: {' '.join(last)}"
        return {}

    def read_in_time(self) -> Turn:
        """Returns the next answer; the contestant is out if that is slow."""
        assert self.process is not None
        process, late = self.process, threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(PATIENCE, stop)
        timer.start()
        turn = self.read()
        timer.cancel()
        if late.is_set():
            self.result.error = f"a turn takes over {PATIENCE:g} s"
        return turn

    def take_turn(self, number: int) -> None:
        """Takes a turn, if it is in and has one left."""
        contestant, result = self.contestant, self.result
        if result.error is not None or number >= contestant.warmup + contestant.turns:
            return
        assert self.process is not None and self.process.stdin is not None
        start = time.perf_counter()
        # Whoever died since its last turn says so when it is read.
        with contextlib.suppress(OSError):
            print(flush=True, file=self.process.stdin)
        hurries = number == 0 and contestant.slow_turns == 0
        turn = self.read_in_time() if hurries else self.read()
        if number == 0 and result.error is None:
            result.first = turn
            if time.perf_counter() - start > PATIENCE:
                # What it does once in so long is a small part of it.
                contestant.warmup = 0
                contestant.turns = min(contestant.slow_turns, contestant.turns)
        if number >= contestant.warmup and result.error is None:
            result.turns.append(turn)

    def end(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.errors.close()


def run(contestants: list[Contestant]) -> list[Result]:
    """Lets the contestants take turns until each has taken all of its own."""
    running: list[Running] = []
    try:
        for contestant in contestants:
            running.append(Running(contestant))
        for number in range(max(c.warmup + c.turns for c in contestants)):
            for one in running:
                one.take_turn(number)
    finally:
        for one in running:
            one.end()
    for one in running:
        if one.result.error is not None:
            print(f"  {one.result.name} is left out: {one.result.error}", file=sys.stderr)
    return [one.result for one in running]
