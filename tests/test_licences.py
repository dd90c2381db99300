"""Every dependency has a licence of `deny.toml`'s list, and a reason in docs/architecture.md.

cargo-deny reads the same list; this test needs no more than cargo, so it runs everywhere.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.run import succeed

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Evaluates an SPDX expression: `OR` needs one side, `AND` both; `/` is an old `OR`."""
    tokens = re.findall(r"[()]|[^()\s]+", expression.replace("/", " OR "))
    words: list[str] = []
    for token in tokens:
        if words and (token == "WITH" or words[-1].endswith(" WITH")):
            words[-1] += f" {token}"
        else:
            words.append(token)

    def either() -> bool:
        value = both()
        while words and words[0] == "OR":
            words.pop(0)
            value = both() or value
        return value

    def both() -> bool:
        value = one()
        while words and words[0] == "AND":
            words.pop(0)
            value = one() and value
        return value

    def one() -> bool:
        word = words.pop(0)
        if word != "(":
            return word in allowed
        value = either()
        assert words.pop(0) == ")", expression
        return value

    return either()


def test_expressions() -> None:
    allowed = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}
    assert is_allowed("MIT", allowed)
    assert is_allowed("GPL-3.0 OR MIT", allowed)
    assert is_allowed("MIT/Apache-2.0", allowed)
    assert is_allowed("Apache-2.0 WITH LLVM-exception", allowed)
    assert is_allowed("(MIT OR GPL-2.0) AND Apache-2.0", allowed)
    assert not is_allowed("(MIT OR Apache-2.0) AND GPL-2.0", allowed)
    assert not is_allowed("GPL-3.0", allowed)


@pytest.fixture(scope="module")
def settings(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "deny.toml").read_text())


def test_dependencies(root: Path, settings: dict[str, Any]) -> None:
    allowed = set(settings["licenses"]["allow"])
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in settings["graph"]["targets"]:
        command += ["--filter-platform", target]
    packages = json.loads(succeed(*command, cwd=root))["packages"]
    assert len(packages) > 50
    wrong = {
        f"{package['name']} {package['version']}": package["license"]
        for package in packages
        if not is_allowed(package["license"] or "none", allowed)
    }
    assert not wrong
    sources = {package["source"] for package in packages if package["source"]}
    assert len(sources) == 1, "packages of one registry, and of no repository or folder"
    assert sources.pop().startswith("registry+")


def test_a_wheel_has_the_licences_of_its_crates(root: Path, settings: dict[str, Any]) -> None:
    """Those that are compiled into the extension; `make licences` writes them."""
    tree = ["cargo", "tree", "--locked", "--package", "graft-py", "--edges", "normal"]
    targets = settings["graph"]["targets"]
    wanted: set[str] = set()
    for target in targets:
        lines = succeed(*tree, "--target", target, "--prefix", "none", cwd=root).splitlines()
        # `name v1.2.3`, with the folder behind it if the crate is one of ours.
        parts = [line.split() for line in lines]
        wanted |= {f"{part[0]} {part[1][1:]}" for part in parts if str(root) not in part[-1]}
    assert len(wanted) > 50
    text = (root / "THIRD-PARTY-LICENSES").read_text(encoding="utf-8")
    told = set(re.findall(r"^  ([\w-]+ \d\S*)$", text, flags=re.M))
    locked = tomllib.loads((root / "Cargo.lock").read_text())["package"]
    assert wanted <= told <= {f"{package['name']} {package['version']}" for package in locked}
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    assert "THIRD-PARTY-LICENSES" in pyproject["project"]["license-files"]
    accepted = tomllib.loads((root / "about.toml").read_text())
    assert set(accepted["accepted"]) == set(settings["licenses"]["allow"])
    assert accepted["targets"] == targets


def test_dependencies_have_a_reason(root: Path) -> None:
    reasons = (root / "docs/architecture.md").read_text()
    manifests = [root / "mlx-c/Cargo.toml", *root.glob("crates/*/Cargo.toml")]
    crates = [tomllib.loads(manifest.read_text()) for manifest in manifests]
    ours = {crate["package"]["name"] for crate in crates}
    theirs = {
        name
        for crate in crates
        for kind in ("dependencies", "build-dependencies", "dev-dependencies")
        for name in crate.get(kind, {})
    }
    assert {name for name in theirs - ours if f"`{name}`" not in reasons} == set()
