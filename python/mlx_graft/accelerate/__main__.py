"""Runs a module or a script with the native CPU operations in place."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

from mlx_graft.accelerate import accelerate

_USAGE = """\
usage: python -m mlx_graft.accelerate -m MODULE [arguments]
       python -m mlx_graft.accelerate SCRIPT [arguments]
"""


def _exists(module: str) -> bool:
    """Whether there is a module of this name, whose packages are imported to find out."""
    parts = module.split(".")
    packages = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return all(importlib.util.find_spec(name) is not None for name in packages)


def main() -> None:
    """Takes the place of the interpreter for the rest of the command line."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE, end="")
        return
    is_module = arguments[:1] == ["-m"]
    target = arguments[1:] if is_module else arguments
    if not target or target[0].startswith("-"):
        print(_USAGE, end="", file=sys.stderr)
        sys.exit(2)
    accelerate()
    sys.argv = target
    if is_module:
        # As the interpreter does: the working folder comes first.
        sys.path.insert(0, str(Path.cwd()))
        if not _exists(target[0]):
            sys.exit(f"python -m mlx_graft.accelerate: no module named {target[0]}")
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
        return
    if not Path(target[0]).exists():
        sys.exit(f"python -m mlx_graft.accelerate: can't open file {target[0]!r}")
    sys.path.insert(0, str(Path(target[0]).resolve().parent))
    runpy.run_path(target[0], run_name="__main__")


if __name__ == "__main__":
    main()
