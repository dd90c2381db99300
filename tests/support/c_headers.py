"""The declarations of the C API, for cffi: read from the headers that the package ships."""

from __future__ import annotations

import re
from pathlib import Path

# cffi reads plain declarations: no directives, no comments, no C++.
_DROPPED = (
    re.compile(r"/\*.*?\*/", re.S),
    re.compile(r"#ifdef __cplusplus.*?#endif", re.S),
    re.compile(r"^[ \t]*#(?:[^\n\\]|\\\n)*$", re.M),
)
_FUNCTION = re.compile(r"([\w\s*]+?)\b((?:_?mlx|graft)_\w+)\s*\(([^;{}]*)\)$", re.S)
# Half-precision numbers exist on arm64 only, and cffi has no type for them; the complex type of the
# C compiler of Windows is no C.
_FOREIGN = re.compile(r"float16_t|bfloat16_t|_Fcomplex")


def declarations(include: Path) -> str:
    """All types and functions that cffi can declare."""
    kept: dict[str, None] = {}
    for header in ordered(include):
        text = header.read_text()
        for dropped in _DROPPED:
            text = dropped.sub(" ", text)
        for statement in statements(text):
            if not _FOREIGN.search(statement) and not statement.startswith("static"):
                kept[statement + ";"] = None
    return "\n".join(kept)


def functions(include: Path) -> dict[str, list[tuple[str, str]]]:
    """The parameters of each function that cffi can declare: type and name."""
    return {name: parameters for name, (_, parameters) in _parsed(include).items()}


def signatures(include: Path) -> dict[str, str]:
    """The signature of each function that cffi can declare: types without names."""
    return {
        name: f"{result}({', '.join(kind for kind, _ in parameters)})"
        for name, (result, parameters) in _parsed(include).items()
    }


def _parsed(include: Path) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    found = {}
    for line in declarations(include).splitlines():
        match = _FUNCTION.match(line.rstrip(";"))
        if match and not line.startswith("typedef"):
            result, name, parameters = match.groups()
            found[name] = (result.strip(), [typed(part.strip()) for part in split(parameters)])
    return found


def typed(parameter: str) -> tuple[str, str]:
    """Type and name of a parameter; what has no name, as `...`, is a type."""
    pointer = re.match(r"(.*?\(\*)(\w+)(\).*)$", parameter)
    if pointer:
        before, name, after = pointer.groups()
        return before + after, name
    plain = re.match(r"(.*?)\s*\b(\w+)$", parameter)
    return (plain[1], plain[2]) if plain and plain[1] else (parameter, "")


def ordered(include: Path) -> list[Path]:
    """The headers, each after those that it includes."""
    found: dict[Path, None] = {}

    def visit(header: Path) -> None:
        if header in found or not header.exists():
            return
        for name in re.findall(r'#include "([^"]+)"', header.read_text()):
            for folder in (include, header.parent):
                visit(folder / name)
        found[header] = None

    for header in [
        *sorted((include / "mlx/c").glob("*.h")),
        *sorted((include / "graft").glob("*")),
    ]:
        visit(header)
    return list(found)


def statements(text: str) -> list[str]:
    """The declarations in a text, each in one line without its semicolon."""
    found, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if letter == ";" and depth == 0:
            statement = " ".join(text[start:at].split())
            start = at + 1
            if statement:
                found.append(statement)
    return found


def split(parameters: str) -> list[str]:
    """The parameters of a declaration."""
    found, depth = [""], 0
    for letter in parameters:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [part for part in found if part.strip() not in ("", "void")]
