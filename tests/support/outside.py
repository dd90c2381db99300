"""Building and running crates outside of the workspace."""

from __future__ import annotations

import os
import re
from pathlib import Path

import mlx

MLX = next(Path(p) for p in mlx.__path__ if (Path(p) / "lib").is_dir())


def clean_environment() -> dict[str, str]:
    """The loader must find libmlx by what the build wrote, not by what `make` set for doctests."""
    return {k: v for k, v in os.environ.items() if not k.endswith("LIBRARY_PATH")}


def outside_environment(root: Path) -> dict[str, str]:
    """Where such a build finds MLX and the source of mlx-c, and where it builds.

    It is one folder for all of them, with one compilation of mlx-c: the workspace's own is another,
    as cargo tells the crates of a workspace from those of a dependency.
    """
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    build = (root / "mlx-c/build/source.rs").read_text()
    version = re.findall(r'VERSION: &str = "(.+?)"', build)[0]
    source = next(home.glob(f"registry/src/*/mlx-sys-{version}/src/mlx-c"))
    return {
        "MLX_DIR": str(MLX),
        "MLX_C_SOURCE_DIR": str(source),
        "CARGO_TARGET_DIR": str(root / "target/external-crate"),
    }
