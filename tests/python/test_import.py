"""An import without MLX, or beside another version of it, says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_graft
from mlx_graft._runtime import MLX_VERSION
from support.run import execute

# Where the package itself lies, also when it is installed editable.
PACKAGE = Path(mlx_graft.__file__).parent.parent


def python(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """Runs code with the given folders in front of the module path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    return execute(sys.executable, "-c", code, env=environment)


@pytest.fixture
def other_version(tmp_path: Path) -> Path:
    """A folder that pretends to be MLX 0.31.0."""
    folder = tmp_path / "mlx"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "core.py").write_text("__version__ = '0.31.0'\n")
    return tmp_path


@pytest.fixture
def without_mlx(tmp_path: Path) -> Path:
    """A folder whose `mlx` cannot be imported, as if it were not installed."""
    (tmp_path / "mlx.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'mlx'\", name='mlx')\n"
    )
    return tmp_path


@pytest.mark.parametrize("first", ["mlx.core", "mlx_graft"])
def test_either_may_be_imported_first(first: str) -> None:
    second = {"mlx.core": "mlx_graft", "mlx_graft": "mlx.core"}[first]
    code = (
        f"import {first}, {second}; import mlx.core as mx;"
        "print(mlx_graft.core.add(mx.array(1), mx.array(2)).item())"
    )
    run = python(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "3\n"


@pytest.mark.parametrize("before", ["", "import mlx.core; "], ids=["ours first", "mlx first"])
def test_another_version(before: str, other_version: Path) -> None:
    run = python(before + "import mlx_graft", other_version, PACKAGE)
    assert run.returncode == 1
    assert "ImportError" in run.stderr
    assert "0.31.0" in run.stderr
    assert MLX_VERSION in run.stderr
    assert "pip install" in run.stderr


def test_no_mlx(without_mlx: Path) -> None:
    run = python("import mlx_graft", without_mlx, PACKAGE)
    assert run.returncode == 1
    assert "ImportError" in run.stderr
    assert "pip install" in run.stderr
    for package in (f"mlx[cpu]=={MLX_VERSION}", f"mlx[cuda12]=={MLX_VERSION}"):
        assert package in run.stderr, "on Linux the message names MLX's backends"


def test_python_names_what_it_offers() -> None:
    for name in ("load", "load_tokenizer", "load_dataset", "apply_lora", "Trainer", "TrainConfig"):
        assert name in mlx_graft.__all__
    for name in ("generate", "stream_generate", "Model", "Tokenizer", "core", "kernels", "capi"):
        assert name in mlx_graft.__all__
