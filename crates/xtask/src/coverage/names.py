"""Prints, as JSON, the names of `mlx.core`, those of `mlx_graft.core` and the tests that use them.

`cargo xtask coverage` runs it with the root of the repository as its argument. The package itself
is read, not imported, as it need not be built.
"""

from __future__ import annotations

import ast
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

CORE = "mlx_graft.core"
Bindings = dict[str, list[ast.AST]]


def mlx_names(module: types.ModuleType, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The public names of a module and its submodules, each with what it is."""
    for name in sorted(vars(module)):
        value = getattr(module, name)
        if name.startswith("_"):
            continue
        if isinstance(value, types.ModuleType):
            yield prefix + name, "module"
            yield from mlx_names(value, f"{prefix}{name}.")
        elif isinstance(value, type):
            yield prefix + name, "class"
        else:
            yield prefix + name, "function" if callable(value) else "constant"


def stub_names(package: Path) -> list[str]:
    """What the stubs declare or import under its own name for others."""
    names = []
    for path in sorted(package.glob("*.pyi")):
        prefix = "" if path.stem == "__init__" else f"{path.stem}."
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.append(prefix + node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.append(prefix + node.target.id)
            elif isinstance(node, ast.Assign):
                names += [prefix + t.id for t in node.targets if isinstance(t, ast.Name)]
            elif isinstance(node, ast.ImportFrom):
                names += [prefix + a.name for a in node.names if a.name == a.asname]
                names += [prefix + a.asname for a in node.names if a.name != a.asname and a.asname]
                if [alias.name for alias in node.names] == ["*"] and node.module:
                    source = package / f"{node.module.rpartition('.')[2]}.py"
                    names += [prefix + name for name in exported(ast.parse(source.read_text()))]
    return sorted({name for name in names if not name.rpartition(".")[2].startswith("_")})


def exported(tree: ast.Module) -> list[str]:
    """What `__all__` of a module says."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [ast.literal_eval(item) for item in node.value.elts]  # type: ignore[attr-defined]
    return []


def bindings(tree: ast.Module) -> Bindings:
    """What each name at the level of the module stands for."""
    found: Bindings = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.setdefault(node.name, []).append(node)
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found.setdefault(node.target.id, []).append(node.value)
    return found


def closure(start: ast.AST, bound: Bindings) -> list[ast.AST]:
    """A definition and those that it names, directly or not."""
    found, names, queue = [start], set(), [start]
    while queue:
        for node in ast.walk(queue.pop()):
            name = getattr(node, "id", None) or getattr(node, "arg", None)
            if isinstance(node, (ast.Name, ast.arg)) and name in bound and name not in names:
                names.add(name)
                found += bound[name]
                queue += bound[name]
    return found


def python_words(package: Path) -> dict[str, list[str]]:
    """The identifiers behind each function of the package that is written in Python."""
    found: dict[str, list[str]] = {}
    for path in sorted(package.glob("*.py")):
        prefix = "" if path.stem == "__init__" or path.stem.startswith("_") else f"{path.stem}."
        bound = bindings(ast.parse(path.read_text()))
        for name, nodes in bound.items():
            words = set()
            for part in (part for node in nodes for part in closure(node, bound)):
                for node in ast.walk(part):
                    words.add(getattr(node, "attr", None) or getattr(node, "id", None))
            found[prefix + name] = sorted(word for word in words if word)
    return found


class Imports:
    """What the names of a file import."""

    def __init__(self, tree: ast.Module) -> None:
        self.names: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.partition(".")[0]
                    self.names[alias.asname or whole] = whole
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def resolve(self, node: ast.AST) -> str | None:
        """The dotted name that an expression stands for."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.resolve(node.value)
            return f"{base}.{node.attr}" if base else None
        return None

    def used(self, nodes: list[ast.AST]) -> set[str]:
        """The names of `mlx_graft.core` in some source, also those given to `getattr` as text."""
        found: set[str] = set()
        texts: set[str] = set()
        by_text: set[str] = set()
        for node in (inner for outer in nodes for inner in ast.walk(outer)):
            name = self.resolve(node)
            if name and name.startswith(f"{CORE}."):
                found.add(name[len(CORE) + 1 :])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "getattr":
                module = self.resolve(node.args[0]) or ""
                if module == CORE or module.startswith(f"{CORE}."):
                    by_text.add(module[len(CORE) + 1 :])
        for module in by_text:
            found |= {f"{module}.{text}" if module else text for text in texts}
        return found


def test_names(tests: Path) -> dict[str, list[str]]:
    """The names of `mlx_graft.core` that each test uses."""
    found: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        imports, bound = Imports(tree), bindings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                used = imports.used(closure(node, bound))
                if used:
                    where = path.relative_to(tests.parent).as_posix()
                    found[f"{where}::{node.name}"] = sorted(used)
    return found


def main() -> None:
    """Prints everything in one object."""
    root = Path(sys.argv[1])
    package = root / "python/mlx_graft/core"
    json.dump(
        {
            "mlx": dict(mlx_names(mx)),
            "core": stub_names(package),
            "python": python_words(package),
            "tests": test_names(root / "tests"),
        },
        sys.stdout,
    )


main()
