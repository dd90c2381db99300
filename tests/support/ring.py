"""Starts processes that find each other over MLX's backend `ring` on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def launch(
    command: Sequence[str | Path], folder: Path, *, size: int = 2, timeout: float = 120
) -> list[subprocess.CompletedProcess[str]]:
    """Runs Python with the same arguments in `size` processes, each with its rank."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(size)]
    addresses = [[f"127.0.0.1:{s.getsockname()[1]}"] for s in sockets]
    for s in sockets:
        s.close()
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps(addresses))
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    finished = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            finished.append(subprocess.CompletedProcess(command, process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return finished
