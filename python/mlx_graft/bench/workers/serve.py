"""The contestants' side of a benchmark: takes a turn when told to, answers with JSON lines.

It runs under the project's Python and under the peers', so it needs nothing but the standard
library.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def peak_resident() -> int:
    """Returns the most bytes that this process has held, by the system's count."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Turns:
    """The turns that the benchmark asks for, one per line of standard input.

    What libraries print goes to standard error, so that only answers are on standard output.
    """

    def __init__(self) -> None:
        self.channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def __iter__(self) -> Iterator[None]:
        """Says that loading is done, and yields once per turn."""
        self.answer()
        for _ in sys.stdin:
            yield

    def answer(self, **numbers: object) -> None:
        """Answers one turn."""
        print(json.dumps({**numbers, "resident": peak_resident()}), file=self.channel, flush=True)
