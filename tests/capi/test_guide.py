"""The examples of docs/c.md run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def example(root: Path, language: str) -> str:
    text = (root / "docs/c.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)
    assert len(found) == 1, f"docs/c.md has {len(found)} examples in {language}"
    return found[0]


def test_cffi(root: Path) -> None:
    pytest.importorskip("cffi")
    run = subprocess.run(
        [sys.executable, "-c", example(root, "python")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    value, message = run.stdout.splitlines()
    assert value == "3.0"
    assert "matmul" in message


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_cmake(root: Path, tmp_path: Path) -> None:
    cmake = Path(sys.executable).parent / "cmake"
    (tmp_path / "CMakeLists.txt").write_text(example(root, "cmake"))
    (tmp_path / "program.c").write_text(example(root, "c"))
    build = tmp_path / "build"
    configure = [cmake, "-S", tmp_path, "-B", build, f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in (configure, [cmake, "--build", build]):
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    run = subprocess.run(
        [build / "program"], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout == "3.0\n"
