"""What the README tells a reader to run exists and works."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from support.run import GRAFT, GRAFT_TRAIN, succeed

GUIDES = ["README.md", "docs/training.md", "docs/python.md", "docs/rust.md", "docs/c.md"]


def blocks(root: Path, guide: str, language: str) -> list[str]:
    text = (root / guide).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(root: Path, guide: str) -> list[list[str]]:
    """Every command of the guide's `sh` blocks, with continued lines joined."""
    found = []
    for block in blocks(root, guide, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append(words)
    return found


@pytest.mark.parametrize("guide", GUIDES)
def test_make_targets_exist(guide: str, root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    for words in commands(root, guide):
        if words[0] == "make":
            for target in words[1:]:
                if "=" not in target:
                    assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_run(guide: str, root: Path, checkpoint, data, tmp_path) -> None:
    """Commands of this package run as printed, but for the model, the data and the length."""
    stand_ins = {
        "--model": str(checkpoint("qwen3")),
        "--data": str(data("chat")),
        "--iters": "2",
        "--max-tokens": "2",
        "--num-layers": "2",
    }
    # Both doors, and whatever a command writes stays in the temporary folder.
    for words in commands(root, guide):
        if words[0] not in ("graft", "graft-train", "python") or "--help" in words:
            continue
        if "--config" in words:
            continue
        if "mlx_lm" in words and importlib.util.find_spec("mlx_lm") is None:
            continue  # it needs Python 3.11
        words = words.copy()
        for flag, value in stand_ins.items():
            if flag in words:
                words[words.index(flag) + 1] = value
        programs = {"graft": GRAFT, "graft-train": GRAFT_TRAIN, "python": sys.executable}
        if "--self-test" in words:
            words += ["--seconds", "3"]
        if "--train" in words and "--num-layers" not in words:
            words += ["--num-layers", "2"]  # the stand-in has fewer layers than the default trains
        words[0] = str(programs[words[0]])
        succeed(*words, cwd=tmp_path)


@pytest.mark.parametrize("guide", ["README.md", "docs/python.md", "docs/accelerate.md"])
def test_python_examples_run(guide: str, root: Path, checkpoint, data, tmp_path) -> None:
    """The Python blocks of a guide run one after the other, as a reader would type them."""
    code = "\n".join(blocks(root, guide, "python"))
    assert code
    code = code.replace('"mlx-community/Qwen3-0.6B-4bit"', repr(str(checkpoint("qwen3", bits=4))))
    code = code.replace('"data"', repr(str(data("completions"))))
    code = re.sub(r"iters=\d+", "iters=2", code)
    code = re.sub(r"num_layers=\d+", "num_layers=2", code)
    succeed(sys.executable, "-c", code, cwd=tmp_path)
