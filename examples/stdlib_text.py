"""Real text that every machine with Python has: the standard library's own source.

It gives two things: documented signatures, on which a base model learns the language of Python's
documentation, and pairs of function and docstring, on which the adapter learns to write one from
the other. A module's text goes to one split only, chosen by its name.
"""

from __future__ import annotations

import ast
import json
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SKIP = {"__pycache__", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}
# Of 20 modules: 12 train the base model, 5 the adapter, 1 validates, 2 are held out to the end.
SPLITS = ["base"] * 12 + ["tune"] * 5 + ["valid"] + ["test"] * 2
# In characters, so that every row fits into the batches that the demonstration can afford.
LONGEST_DOCUMENT, LONGEST_CODE, LONGEST_SUMMARY = 320, 240, 200


@dataclass
class Text:
    """What one split's modules hold."""

    documents: list[str] = field(default_factory=list)
    """Signatures with their docstrings."""
    pairs: list[dict[str, str]] = field(default_factory=list)
    """Rows of `prompt`, a function without its docstring, and `completion`, the docstring."""


def collect() -> dict[str, Text]:
    """Reads the standard library of this Python; returns its text by split."""
    library = Path(sysconfig.get_paths()["stdlib"])
    splits = {name: Text() for name in SPLITS}
    seen: set[str] = set()
    for path in sorted(library.rglob("*.py")):
        module = path.relative_to(library)
        if SKIP.intersection(module.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # a few files are broken on purpose, to test the compiler
        split = SPLITS[zlib.crc32(module.as_posix().encode()) % len(SPLITS)]
        for signature, code, doc in documented(tree):
            if doc in seen:
                continue  # overridden methods often repeat their parent's words
            seen.add(doc)
            document = f'{signature}\n    """{doc}"""'
            splits[split].documents.append(document[:LONGEST_DOCUMENT])
            if code and len(summary(doc)) >= 20:
                splits[split].pairs.append({"prompt": code, "completion": summary(doc)})
    return splits


def documented(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Yields signature, code without docstring (empty for classes), and docstring."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        doc = ast.get_docstring(node)
        if not doc or not doc.isascii():
            continue
        node.body = node.body[1:]
        if isinstance(node, ast.ClassDef):
            yield f"class {node.name}:", "", doc
            continue
        node.decorator_list = []
        signature = f"def {node.name}({ast.unparse(node.args)}):"
        body = "\n".join("    " + ast.unparse(line).replace("\n", "\n    ") for line in node.body)
        yield signature, f"{signature}\n{body}"[:LONGEST_CODE].rstrip(), doc


def summary(doc: str) -> str:
    """Returns a docstring's first paragraph, on one line."""
    return " ".join(doc.split("\n\n")[0].split())[:LONGEST_SUMMARY]


def write_rows(folder: Path, **rows: list[dict[str, str]]) -> Path:
    """Writes `train.jsonl`, `valid.jsonl` and `test.jsonl`, as the trainer reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder
