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


@pytest.fixture(scope="module")
def metadata(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in settings["graph"]["targets"]:
        command += ["--filter-platform", target]
    found: dict[str, Any] = json.loads(succeed(*command, cwd=root))
    return found


def test_dependencies(settings: dict[str, Any], metadata: dict[str, Any]) -> None:
    allowed = set(settings["licenses"]["allow"])
    packages = metadata["packages"]
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


def test_a_wheel_has_the_licences_of_its_crates(
    root: Path, settings: dict[str, Any], metadata: dict[str, Any]
) -> None:
    """Those that are compiled into the extension; `make licences` writes them."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    (start,) = (id for id, package in packages.items() if package["name"] == "graft-py")
    seen, waiting = {start}, [start]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            if None in kinds and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    theirs = [packages[id] for id in seen if packages[id]["source"]]
    wanted = {f"{package['name']} {package['version']}" for package in theirs}
    assert len(wanted) > 50
    text = (root / "THIRD-PARTY-LICENSES").read_text()
    told = set(re.findall(r"^  ([\w-]+ \d\S*)$", text, flags=re.M))
    assert wanted <= told, "run `make licences`"
    locked = tomllib.loads((root / "Cargo.lock").read_text())["package"]
    assert told <= {f"{package['name']} {package['version']}" for package in locked}
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    assert "THIRD-PARTY-LICENSES" in pyproject["project"]["license-files"]
    accepted = tomllib.loads((root / "about.toml").read_text())
    assert set(accepted["accepted"]) == set(settings["licenses"]["allow"])
    assert accepted["targets"] == settings["graph"]["targets"]


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
