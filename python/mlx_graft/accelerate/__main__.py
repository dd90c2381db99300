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


def _puts_folders_first() -> bool:
    """Whether the interpreter puts the folder of what it runs before all others: not if told so."""
    # `safe_path` (-P, PYTHONSAFEPATH) is there from Python 3.11 on.
    return not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))


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
        # The working folder is first already, as this module was run by `-m` too.
        if not _exists(target[0]):
            sys.exit(f"python -m mlx_graft.accelerate: no module named {target[0]}")
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
        return
    if not Path(target[0]).exists():
        sys.exit(f"python -m mlx_graft.accelerate: can't open file {target[0]!r}")
    if _puts_folders_first():
        # In the place of the working folder, which `-m` has put there and a script does not get.
        sys.path[0] = str(Path(target[0]).resolve().parent)
    # As in the interpreter, `__file__` stays right where the script changes the working folder.
    runpy.run_path(str(Path(target[0]).absolute()), run_name="__main__")


if __name__ == "__main__":
    main()
