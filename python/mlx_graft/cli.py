"""The command `graft`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

__all__ = ["main"]

_USAGE = """\
usage: graft <command> [flags]

commands:
  train     fine-tune a model, with the flags of mlx_lm.lora
  profile   show where the time and memory of a training step go
  generate  generate text, with the flags of mlx_lm.generate
  bench     measure this machine with mlx-graft and mlx-lm

`graft <command> --help` lists the flags.
"""


def main() -> int:
    """Runs a command and returns its exit code."""
    name, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if name == "--version":
        from mlx_graft import __version__

        print(f"graft {__version__}")
        return 0
    if name == "bench":
        from mlx_graft.bench.command import main as bench

        return bench(arguments)
    if name not in ("train", "profile", "generate"):
        found = f"unknown command {name!r}\n" if name else ""
        print(f"{found}{_USAGE}", end="", file=sys.stderr)
        return 2
    from mlx_graft import _core

    commands = {"train": _core.train, "profile": _core.profile, "generate": _core.generate}
    return commands[name]([f"graft {name}", *arguments], _resolve)


def _resolve(name: str) -> Path:
    from mlx_graft import hub

    folder = hub.resolve(name)
    # The command has handlers of its own from here on. Python's would be called too, and raise a
    # KeyboardInterrupt once the command has ended.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return folder


if __name__ == "__main__":
    sys.exit(main())
