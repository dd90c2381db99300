"""The part of the self-test about files: what one side saves, the other loads."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_graft import core
from mlx_graft.core._parity import DTYPES, Comparison, Maker, comparison, outcome

METADATA = {"format": "mlx", "note": "ein Text, dans un fichier: ∂"}
GGUF_METADATA: dict[str, Any] = {
    "note": "a text",
    "words": ["one", "two"],
    "number": mx.array(7, mx.uint32),
    "numbers": mx.array([1.5, -2.0]),
}
#: What saves the arrays, and whether it takes file objects too.
SAVE: dict[str, tuple[Callable[[Any, Any, dict[str, Any]], None], bool]] = {
    "npy": (lambda m, file, arrays: m.save(file, arrays["a"]), True),
    "npz": (lambda m, file, arrays: m.savez(file, **arrays), True),
    "npz, compressed": (lambda m, file, arrays: m.savez_compressed(file, **arrays), True),
    "safetensors": (lambda m, file, arrays: m.save_safetensors(file, arrays, METADATA), True),
    "gguf": (lambda m, file, arrays: m.save_gguf(file, arrays, GGUF_METADATA), False),
}


def files(seed: int) -> Iterator[Comparison]:
    """Each format and dtype, by path and by file object, from either side to either side."""
    with tempfile.TemporaryDirectory() as folder, mx.stream(mx.cpu):
        for form, (save, objects) in SAVE.items():
            for dtype in DTYPES:
                make = Maker(dtype, seed=seed)
                arrays = {"a": make.t(3, 4), "b": make(), "c": make(0, 2)}
                path = Path(folder) / f"x.{form.split(',')[0]}"
                yield from crossed(f"{form}, {dtype}, path", save, arrays, path)
                if objects:
                    yield from crossed(f"{form}, {dtype}, file object", save, arrays, None)
            yield from wrong(form, Path(folder))


def crossed(
    where: str, save: Callable[..., None], arrays: dict[str, mx.array], path: Path | None
) -> Iterator[Comparison]:
    """What each reads of what each wrote, compared with `mlx.core` alone."""
    suffix = where.split(",")[0]

    def through(writer: Any, reader: Any) -> list[mx.array]:
        stream = io.BytesIO()
        save(writer, stream if path is None else str(path), arrays)
        stream.seek(0)
        described = {"return_metadata": True} if suffix in ("safetensors", "gguf") else {}
        source: Any = stream if path is None else str(path)
        return flattened(reader.load(source, format=suffix, **described))

    expected = outcome(lambda: through(mx, mx))
    for writer, reader in ((mx, core), (core, mx), (core, core)):
        found = outcome(lambda w=writer, r=reader: through(w, r))  # type: ignore[misc]
        names = [module.__name__ for module in (writer, reader)]
        yield comparison(f"{where}, {' to '.join(names)}", expected, found)


def wrong(form: str, folder: Path) -> Iterator[Comparison]:
    """Files that are missing, empty, or of another kind."""
    suffix = form.split(",")[0]
    empty, other = folder / f"empty.{suffix}", folder / f"other.{suffix}"
    empty.write_bytes(b"")
    other.write_bytes(b"this is no file of arrays" * 8)
    for path in (folder / f"missing.{suffix}", empty, other):
        expected, found = (outcome(functools.partial(loaded, m, path)) for m in (mx, core))
        yield comparison(f"{form}, {path.stem} file", expected, found)


def loaded(m: Any, path: Path) -> list[mx.array]:
    """What is in a file."""
    return flattened(m.load(str(path)))


def flattened(value: Any) -> list[mx.array]:
    """The arrays in the order of their names, and texts as their bytes."""
    if isinstance(value, mx.array):
        return [value]
    if isinstance(value, str):
        return [mx.array(list(value.encode()), mx.uint8)]
    if isinstance(value, dict):
        return [part for name in sorted(value) for part in flattened([name, value[name]])]
    return [part for item in value for part in flattened(item)]
