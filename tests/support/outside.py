"""Building crates outside of the workspace."""

from __future__ import annotations

import os
from pathlib import Path

import mlx

MLX = next(Path(p) for p in mlx.__path__ if (Path(p) / "lib").is_dir())


def outside_environment(root: Path) -> dict[str, str]:
    """Where such a build finds MLX and the source of mlx-c, and where it builds.

    It is one folder for all of them, with one compilation of mlx-c: the workspace's own is another,
    as cargo tells the crates of a workspace from those of a dependency.
    """
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    source = next(home.glob("registry/src/*/mlx-sys-0.7.0/src/mlx-c"))
    return {
        "MLX_DIR": str(MLX),
        "MLX_C_SOURCE_DIR": str(source),
        "CARGO_TARGET_DIR": str(root / "target/external-crate"),
    }
