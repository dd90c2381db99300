"""The examples of docs/c.md run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from support.run import succeed


def example(root: Path, language: str) -> str:
    text = (root / "docs/c.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)
    assert len(found) == 1, f"docs/c.md has {len(found)} examples in {language}"
    return found[0]


def test_cffi(root: Path) -> None:
    pytest.importorskip("cffi")
    value, message = succeed(sys.executable, "-c", example(root, "python")).splitlines()
    assert value == "3.0"
    assert "matmul" in message


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_without_cmake(root: Path, tmp_path: Path) -> None:
    (tmp_path / "program.c").write_text(example(root, "c"))
    script = re.sub(r"^\$ ", "", example(root, "console"), flags=re.M)
    if sys.platform == "darwin":
        script = script.replace("-Wl,--no-as-needed ", "")
    # The `python` of the guide is the one that runs the tests.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    succeed("bash", "-ec", script, cwd=tmp_path, env={**os.environ, "PATH": path})
    assert succeed(tmp_path / "program") == "3.0\n"


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_cmake(root: Path, tmp_path: Path) -> None:
    cmake = Path(sys.executable).parent / "cmake"
    (tmp_path / "CMakeLists.txt").write_text(example(root, "cmake"))
    (tmp_path / "program.c").write_text(example(root, "c"))
    build = tmp_path / "build"
    configure = [cmake, "-S", tmp_path, "-B", build, f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in (configure, [cmake, "--build", build]):
        succeed(*command)
    assert succeed(build / "program") == "3.0\n"
