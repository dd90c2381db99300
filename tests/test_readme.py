"""What the README tells a reader to run exists and works."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from support.run import GRAFT, GRAFT_TRAIN, execute, succeed

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

# The guides with commands of this package, and those with others; docs/c.md has tests of its own.
GUIDES = [
    "README.md",
    "docs/accelerate.md",
    "docs/bench.md",
    "docs/profile.md",
    "docs/python.md",
    "docs/rust.md",
    "docs/training.md",
]
OTHERS = ["CONTRIBUTING.md", "docs/primitives.md", "docs/c.md"]
PROGRAMS = {"graft": GRAFT, "graft-train": GRAFT_TRAIN, "python": sys.executable}


def blocks(root: Path, guide: str, language: str) -> list[str]:
    text = (root / guide).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(root: Path, guide: str) -> list[list[str]]:
    """Every command of the guide's `sh` and `console` blocks, with continued lines joined."""
    lines = "\n".join(blocks(root, guide, "sh")).replace("\\\n", " ").splitlines()
    console = "\n".join(blocks(root, guide, "console")).replace("\\\n", " ").splitlines()
    lines += [line.removeprefix("$ ") for line in console if line.startswith("$ ")]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def all_commands(root: Path, program: str) -> list[list[str]]:
    """Every command of that program in all guides."""
    found = [words for guide in GUIDES + OTHERS for words in commands(root, guide)]
    return [words for words in found if words[0] == program]


def test_no_guide_is_forgotten(root: Path) -> None:
    guides = ["README.md", "CONTRIBUTING.md"]
    guides += [path.relative_to(root).as_posix() for path in (root / "docs").glob("*.md")]
    assert {guide for guide in guides if commands(root, guide)} == {*GUIDES, *OTHERS}


def test_make_targets_exist(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    named = all_commands(root, "make")
    assert named
    # `make bench BENCH=...` and the like, within sentences.
    for guide in GUIDES + OTHERS:
        named += [
            text.split() for text in re.findall(r"`(make [^`]+)`", (root / guide).read_text())
        ]
    for words in named:
        for target in words[1:]:
            if re.fullmatch("[a-z-]+", target):
                assert re.search(rf"^{target}:", makefile, re.M), target
            elif "=" in target:
                assert re.search(rf"^{target.split('=')[0]} \?=", makefile, re.M), target


def test_installed_packages_are_those_of_the_project(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    (mlx,) = [pin for pin in project["dependencies"] if pin.startswith("mlx==")]
    backends = {pin for extra in project["optional-dependencies"].values() for pin in extra}
    pins = [word for words in all_commands(root, "pip") for word in words if "==" in word]
    assert pins
    assert {*pins} <= {mlx, *backends}


def test_crates_exist(root: Path) -> None:
    manifests = [path.read_text() for path in root.glob("crates/*/Cargo.toml")]
    named = [words[words.index("-p") + 1] for words in all_commands(root, "cargo")]
    assert named
    for name in named:
        assert any(f'\nname = "{name}"\n' in manifest for manifest in manifests), name


def stand_in(words: list[str], model: Path, data: Path) -> list[str]:
    """The same command for a small model, few steps and a machine without a GPU."""
    values = {
        "--model": str(model),
        "--data": str(data),
        "--device": "cpu",
        "--iters": "2",
        "--max-tokens": "2",
        "--num-layers": "2",
    }
    words = words.copy()
    for flag, value in values.items():
        if flag in words:
            words[words.index(flag) + 1] = value
    if "--self-test" in words:
        words += ["--seconds", "3"]
    if "bench" in words:
        words += ["--model", str(model), "--turns", "1", "--without-mlx-lm"]
    trains = "--train" in words or "--config" in words or "profile" in words
    if trains and "--num-layers" not in words:
        words += ["--num-layers", "2"]  # the stand-in has fewer layers than the default trains
    return [str(PROGRAMS[words[0]]), *words[1:]]


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_run(guide: str, root: Path, checkpoint, data, tmp_path) -> None:
    """Commands of this package run as printed, but for the model, the data and the length."""
    model, rows = checkpoint("qwen3"), data("chat")
    # What commands read lies in the temporary folder, and so does what they write.
    (config,) = blocks(root, "docs/training.md", "yaml")
    config = re.sub("^model: .*", f"model: {model}", config, flags=re.M)
    (tmp_path / "lora.yaml").write_text(re.sub("^data: .*", f"data: {rows}", config, flags=re.M))
    (tmp_path / "script.py").write_text("")
    found = [words for words in commands(root, guide) if words[0] in PROGRAMS]
    assert found
    for words in found:
        if "mlx_lm" in words and importlib.util.find_spec("mlx_lm") is None:
            continue  # it needs Python 3.11
        done = execute(*stand_in(words, model, rows), cwd=tmp_path, timeout=300)
        # In three seconds the self-test does not come to its end, and says so.
        wanted = 3 if "--self-test" in words else 0
        assert done.returncode == wanted, f"{words}\n{done.stdout}{done.stderr}"


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
