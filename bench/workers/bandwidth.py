"""Reads memory with all cores. Usage: bandwidth.py BYTES."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from serve import Turns


def main() -> None:
    """Answers bytes per second as long as turns are asked for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    parts = np.array_split(np.ones(int(sys.argv[1]) // 4, np.float32), cores)
    repeats = max(1, 4_000_000_000 // int(sys.argv[1]))

    def read(part: np.ndarray) -> None:
        # A product with itself reads each element once, and leaves Python's lock.
        for _ in range(repeats):
            part.dot(part)

    turns = Turns()
    with ThreadPoolExecutor(cores) as pool:
        for _ in turns:
            start = time.perf_counter()
            list(pool.map(read, parts))
            turns.answer(bandwidth=repeats * int(sys.argv[1]) / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
