"""The C API: the shared library mlx-c on the same `libmlx` as `mlx.core`, for C and cffi."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["include", "library"]

_HERE = Path(__file__).parent


def library() -> Path:
    """Returns the path of the shared library `libmlxc`.

    It needs the `libmlx` of the `mlx` package: import `mlx.core` before loading it, or put the
    folder of `libmlx` on the loader's path.

    Raises:
        FileNotFoundError: The package was installed without it.
    """
    return _existing(
        _HERE / "lib" / ("libmlxc.dylib" if sys.platform == "darwin" else "libmlxc.so")
    )


def include() -> Path:
    """Returns the folder to include from: it holds `mlx/c/mlx.h` and `graft/graft_error.h`.

    Raises:
        FileNotFoundError: The package was installed without it.
    """
    return _existing(_HERE / "include")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: install mlx_graft again, with pip or `make`")
    return path
