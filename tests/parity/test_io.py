"""Loading and saving against `mlx.core` and NumPy: both ways, lazily, and safe from bad files."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_graft import core as mg
from support.leaks import counters, repeat
from support.threads import off_the_main_thread

NUMPY = [
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64", "complex64",
]  # fmt: skip
SHAPES: list[tuple[int, ...]] = [(), (3,), (2, 3), (0, 3), (2, 1, 3)]


@pytest.fixture(autouse=True)
def _cpu() -> Iterator[None]:
    """Doubles exist on the CPU only."""
    with mx.stream(mx.cpu):
        yield


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return (np.arange(np.prod(shape, dtype=int)) * 7 % 11).reshape(shape).astype(dtype)


def to_mlx(array: np.ndarray[Any, Any]) -> mx.array:
    if array.dtype == np.float64:
        return mx.array(array.tolist(), dtype=mx.float64).reshape(array.shape)
    return mx.array(array)


def same(found: mx.array, wanted: mx.array) -> bool:
    return (
        found.shape == wanted.shape
        and found.dtype == wanted.dtype
        and bool(mx.array_equal(found, wanted))
    )


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("shape", SHAPES)
def test_npy_crosses_with_numpy_and_mlx(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = values(dtype, shape)
    ours, numpys, mlxs = (tmp_path / f"{name}.npy" for name in ("ours", "numpy", "mlx"))
    mg.save(ours, to_mlx(array))
    np.save(numpys, array)
    mx.save(str(mlxs), to_mlx(array))
    for path in (ours, numpys, mlxs):
        assert same(mg.load(path), to_mlx(array))
        with path.open("rb") as file:
            assert same(mg.load(file), to_mlx(array))
    assert same(mx.load(str(ours)), to_mlx(array))
    found = np.load(ours)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">f8", ">c8", "<c8", "<u4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_byte_order_and_layout(dtype: str, order: Any, tmp_path: Path) -> None:
    array = np.asarray(values("float32", (2, 3, 4)).astype(dtype), order=order)
    if array.dtype.kind == "c":
        array = np.asarray(array + array * 2j, dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", array)
    assert np.array_equal(np.array(mg.load(tmp_path / "x.npy")), array)


def test_npy_of_other_versions_and_headers(tmp_path: Path) -> None:
    array = values("float32", (2, 3))
    for version in [(1, 0), (2, 0), (3, 0)]:
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array(file, array, version=version)
        assert np.array_equal(np.array(mg.load(tmp_path / "x.npy")), array)


def test_bfloat16_in_npy_and_safetensors(tmp_path: Path) -> None:
    x = mx.arange(5).astype(mx.bfloat16)
    mg.save(tmp_path / "x.npy", x)
    assert same(mx.load(str(tmp_path / "x.npy")), x)
    assert same(mg.load(tmp_path / "x.npy"), x)


@pytest.mark.parametrize("save", ["savez", "savez_compressed"])
def test_npz_crosses_with_numpy_and_mlx(save: str, tmp_path: Path) -> None:
    arrays = {f"{dtype}{len(shape)}": values(dtype, shape) for dtype in NUMPY for shape in SHAPES}
    given = {name: to_mlx(array) for name, array in arrays.items()}
    ours, numpys, mlxs = (tmp_path / f"{name}.npz" for name in ("ours", "numpy", "mlx"))
    getattr(mg, save)(ours, **given)
    getattr(np, save)(numpys, **arrays)
    getattr(mx, save)(str(mlxs), **given)
    for path in (ours, numpys, mlxs):
        with path.open("rb") as file:
            for loaded in (mg.load(path), mg.load(file)):
                assert loaded.keys() == given.keys()
                assert all(same(loaded[name], given[name]) for name in given)
    with np.load(ours) as loaded:
        assert sorted(loaded) == sorted(arrays)
        assert all(np.array_equal(loaded[name], arrays[name]) for name in arrays)
    loaded = mx.load(str(ours))
    assert all(same(loaded[name], given[name]) for name in given)
    stored = {info.compress_type for info in zipfile.ZipFile(ours).infolist()}
    assert stored == {zipfile.ZIP_STORED if save == "savez" else zipfile.ZIP_DEFLATED}


def test_savez_names_positional_arrays(tmp_path: Path) -> None:
    x = mx.arange(3)
    mg.savez(tmp_path / "x", x, 2 * x, key=x)
    assert sorted(mg.load(tmp_path / "x.npz")) == ["arr_0", "arr_1", "key"]
    for module in (mg, mx):
        with pytest.raises(ValueError):
            module.savez(str(tmp_path / "y"), x, arr_0=x)
    buffer = io.BytesIO()
    mg.savez(buffer, x=x)
    assert np.array_equal(np.load(io.BytesIO(buffer.getvalue()))["x"], np.arange(3))


def test_safetensors_cross_with_mlx(tmp_path: Path) -> None:
    arrays = {
        f"{dtype}{len(shape)} ü": to_mlx(values(dtype, shape))
        for dtype in NUMPY
        for shape in SHAPES
        if dtype != "float64"
    }
    arrays["brain"] = mx.arange(5).astype(mx.bfloat16)
    metadata = {"format": "mlx", "ä\n": '"quoted"'}
    ours, mlxs = tmp_path / "ours.safetensors", tmp_path / "mlx.safetensors"
    mg.save_safetensors(ours, arrays, metadata)
    mx.save_safetensors(str(mlxs), arrays, metadata)
    for load, path in [(mg.load, ours), (mg.load, mlxs), (mx.load, str(ours))]:
        loaded, found = load(path, return_metadata=True)
        assert found == metadata
        assert loaded.keys() == arrays.keys()
        assert all(same(loaded[name], arrays[name]) for name in arrays)
    for module in (mg, mx):
        with pytest.raises(ValueError):
            module.save_safetensors(str(ours), arrays, {"testing": 0})
        with pytest.raises(RuntimeError):
            module.save_safetensors(str(ours), {"x": mx.array(1.0, dtype=mx.float64)})


def test_gguf_crosses_with_mlx(tmp_path: Path) -> None:
    arrays = {
        str(dtype): mx.arange(6).reshape(2, 3).astype(dtype)
        for dtype in (mx.float32, mx.float16, mx.int8, mx.int16, mx.int32)
    }
    metadata = {
        "text": "ä",
        "texts": ["a", "", "b"],
        "number": mx.array(3, dtype=mx.uint64),
        "numbers": mx.array([True, False]),
    }
    ours, mlxs = tmp_path / "ours.gguf", tmp_path / "mlx.gguf"
    mg.save_gguf(ours, arrays, metadata)
    mx.save_gguf(str(mlxs), arrays, metadata)
    for load, path in [(mg.load, ours), (mg.load, mlxs), (mx.load, str(ours))]:
        loaded, found = load(path, return_metadata=True)
        assert all(same(loaded[name], arrays[name]) for name in arrays)
        assert found.keys() == metadata.keys()
        assert (found["text"], found["texts"]) == ("ä", ["a", "", "b"])
        assert all(same(found[name], metadata[name]) for name in ("number", "numbers"))
    bad: list[tuple[dict[str, mx.array], dict[str, Any]]] = [
        ({"x": mx.array(1.0).astype(mx.bfloat16)}, {}),
        ({}, {"x": mx.array(1.0).astype(mx.float16)}),
        ({}, {"x": mx.zeros((2, 2))}),
        ({}, {"x": mx.zeros((0,))}),
    ]
    for arguments in bad:
        with pytest.raises(Exception) as theirs:
            mx.save_gguf(str(mlxs), *arguments)
        with pytest.raises(theirs.type):
            mg.save_gguf(ours, *arguments)


def write_gguf(path: Path, tensors: list[tuple[bytes, list[int], int, bytes]], pairs: bytes,
               count: int) -> None:  # fmt: skip
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + pairs)
        offset = 0
        for name, dims, kind, data in tensors:
            file.write(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims)))
            file.write(struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset))
            offset += len(data) + -len(data) % 32
        for _, _, _, data in tensors:
            file.write(b"\0" * (-file.tell() % 32) + data)


@pytest.mark.parametrize("kind, size", [(2, 18), (3, 20), (8, 34), (12, 144), (14, 210), (30, 2)])
def test_quantized_gguf_is_read_as_mlx_reads_it(kind: int, size: int, tmp_path: Path) -> None:
    block = {12: 256, 14: 256, 30: 1}.get(kind, 32)
    data = np.random.default_rng(0).integers(0, 60, (4 * 256 // block, size), dtype=np.uint8)
    path = tmp_path / "x.gguf"
    write_gguf(path, [(b"a.weight", [256, 4], kind, data.tobytes())], b"", 0)
    found, wanted = mg.load(path), mx.load(str(path))
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(np.array(found[k]), np.array(wanted[k]), equal_nan=True)
               for k in wanted)  # fmt: skip


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    "tensors, pairs, count, says",
    [
        ([(b"x", [1] * 9, 0, b"\0" * 4)], b"", 0, "9 dimensions"),
        ([(b"x", [32], 4, b"\0" * 32)], b"", 0, "type 4"),
        ([(b"x", [32], 31, b"\0" * 32)], b"", 0, "type 31"),
        ([(b"x", [1 << 40], 0, b"")], b"", 0, "shape"),
        ([(b"x", [1 << 31, 1 << 31, 4], 0, b"")], b"", 0, "shape"),
        ([(b"x", [33], 2, b"\0" * 36)], b"", 0, "shape"),
        ([(b"x", [], 2, b"\0" * 18)], b"", 0, "shape"),
        ([(b"x", [64], 0, b"")], b"", 0, "beyond the end"),
        ([(b"x", [1], 0, b"\0" * 32)] * 2, b"", 0, "twice"),
        ([], pair(b"general.alignment", 4, struct.pack("<I", 0)), 1, "is 0"),
        ([], pair(b"k", 12, struct.pack("<d", 1.0)), 1, "64-bit float"),
        ([], pair(b"k", 9, struct.pack("<IQ", 9, 0)), 1, "list of lists"),
        ([], pair(b"k", 13, b"\0" * 8), 1, "type 13"),
        ([], pair(b"k", 8, struct.pack("<Q", 1 << 60)), 1, "ends in its header"),
        ([], pair(b"k", 9, struct.pack("<IQ", 0, (1 << 32) + 1)), 1, "4294967297"),
        ([], pair(b"k", 8, struct.pack("<Q", 1) + b"\xff"), 1, "UTF-8"),
        ([], b"", 1 << 60, "ends in its header"),
    ],
)
def test_hostile_gguf_is_refused(
    tensors: list[tuple[bytes, list[int], int, bytes]],
    pairs: bytes,
    count: int,
    says: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, tensors, pairs, count)
    with pytest.raises((ValueError, RuntimeError), match=says) as error:
        mg.load(path)
    assert str(path) in str(error.value)


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def small_files(folder: Path) -> list[Path]:
    arrays = {"x": mx.arange(6, dtype=mx.float32), "y": mx.arange(3)}
    paths = [folder / name for name in ("x.npy", "x.npz", "c.npz", "x.safetensors", "x.gguf")]
    mg.save(paths[0], arrays["x"])
    mg.savez(paths[1], **arrays)
    mg.savez_compressed(paths[2], **arrays)
    mg.save_safetensors(paths[3], arrays, {"k": "v"})
    mg.save_gguf(paths[4], arrays, {"k": ["v", "w"]})
    return paths


def load_all(path: Path | Any, **options: Any) -> None:
    mx.eval(mg.load(path, **options))


@pytest.mark.parametrize("index", range(5))
@off_the_main_thread
def test_a_file_cut_short_is_refused_by_name(index: int, tmp_path: Path) -> None:
    path = small_files(tmp_path)[index]
    whole = path.read_bytes()
    load_all(path)
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises((ValueError, RuntimeError)) as error:
            load_all(path)
        assert str(path) in str(error.value)
        if path.suffix != ".gguf":
            with pytest.raises((ValueError, RuntimeError)):
                load_all(io.BytesIO(whole[:length]), format=path.suffix[1:])


@pytest.mark.parametrize("index", range(5))
@off_the_main_thread
def test_a_file_with_wrong_bytes_is_read_or_refused(index: int, tmp_path: Path) -> None:
    path = small_files(tmp_path)[index]
    whole = path.read_bytes()
    draw = random.Random(index)
    for _ in range(200):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        path.write_bytes(broken)
        with contextlib.suppress(ValueError, RuntimeError):
            load_all(path)


def test_zip_archives_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.txt", "no array")
    with pytest.raises(RuntimeError, match=r"x\.txt"):
        mg.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(1000))
        archive.writestr("x.npy", buffer.getvalue()[:-100])
    with pytest.raises(RuntimeError, match=r"x\.npy"):
        mg.load(path)
    np.savez(path, x=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="checksum"):
        load_all(path)


@pytest.mark.parametrize("ending", ["npy", "npz", "safetensors", "gguf"])
def test_missing_files_raise_what_mlx_raises(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"missing.{ending}"
    with pytest.raises(Exception) as theirs:
        mx.load(str(path))
    with pytest.raises(theirs.type, match=str(path)):
        mg.load(path)
    path.mkdir()
    with pytest.raises((ValueError, RuntimeError), match="is a folder"):
        mg.load(path)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.load("x"),
        lambda m: m.load("x.bin"),
        lambda m: m.load("x.npy", return_metadata=True),
        lambda m: m.load("x.npz", return_metadata=True),
        lambda m: m.load(3),
        lambda m: m.load(io.BytesIO(), format="gguf"),
        lambda m: m.load(io.BytesIO()),
        lambda m: m.save(3, mx.array(1)),
        lambda m: m.save("x.npy", [1]),
        lambda m: m.save_gguf(io.BytesIO(), {}),
        lambda m: m.save_safetensors("x", [mx.array(1)]),
    ],
)
def test_wrong_arguments_raise_what_mlx_raises(call: Callable[[Any], object]) -> None:
    with pytest.raises(Exception) as theirs:
        call(mx)
    with pytest.raises(theirs.type):
        call(mg)


def test_paths_are_read_lazily_and_objects_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    mg.save_safetensors(path, {"x": mx.arange(1 << 18)})
    before = mx.get_active_memory()
    lazy = mg.load(path)["x"]
    assert mx.get_active_memory() - before < 1 << 18
    with path.open("rb") as file:
        loaded = mg.load(file)["x"]
    path.write_bytes(b"")
    assert loaded[-1].item() == (1 << 18) - 1
    with pytest.raises(RuntimeError):
        mx.eval(lazy)


def test_file_objects_are_used_where_they_stand() -> None:
    buffer = io.BytesIO()
    for i in range(3):
        mg.save(buffer, mx.full((4,), i))
    buffer.seek(0)
    assert [mg.load(buffer, format="npy")[0].item() for _ in range(3)] == [0, 1, 2]


class Broken(io.BytesIO):
    """A file object that fails after some reads or writes."""

    def __init__(self, content: bytes = b"", allowed: int = 0) -> None:
        super().__init__(content)
        self.allowed = allowed

    def _count(self) -> None:
        if self.allowed == 0:
            raise KeyError("the disk is gone")
        self.allowed -= 1

    def readinto(self, buffer: Any, /) -> int:
        self._count()
        return super().readinto(buffer)

    def write(self, data: Any, /) -> int:
        self._count()
        return super().write(data)


def test_exceptions_of_file_objects_come_through() -> None:
    arrays = {"x": mx.arange(64)}
    for ending, save in [
        ("npy", lambda f: mg.save(f, arrays["x"])),
        ("npz", lambda f: mg.savez(f, **arrays)),
        ("safetensors", lambda f: mg.save_safetensors(f, arrays)),
    ]:
        whole = io.BytesIO()
        save(whole)
        for allowed in range(3 if ending != "npz" else 1):
            with pytest.raises(KeyError, match="the disk is gone"):
                mg.load(Broken(whole.getvalue(), allowed), format=ending)
        with pytest.raises(KeyError, match="the disk is gone"):
            save(Broken())
    closed = io.BytesIO(bytes(200))
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        mg.load(closed, format="npy")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    mg.save_safetensors(path, {"x": mx.arange(3)})
    with pytest.raises(RuntimeError):
        mg.save_safetensors(path, {"x": mx.arange(3), "y": mx.array(1.0, dtype=mx.float64)})
    assert mg.load(path)["x"].tolist() == [0, 1, 2]
    mg.save_safetensors(path, {"x": mg.load(path)["x"] * 2})
    assert mg.load(path)["x"].tolist() == [0, 2, 4]
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_other_threads_run_while_a_file_object_is_read() -> None:
    whole = io.BytesIO()
    mg.save(whole, mx.zeros((1 << 20,)))
    content = whole.getvalue()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(5):
                loaded = mg.load(io.BytesIO(content), format="npy")
                assert loaded.shape == (1 << 20,)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


@off_the_main_thread
def test_nothing_leaks(tmp_path: Path) -> None:
    paths = small_files(tmp_path)
    cut = tmp_path / "cut.npy"
    cut.write_bytes(paths[0].read_bytes()[:-1])

    def round_() -> None:
        for path in paths:
            load_all(path)
            mg.load(path)
        for bad in (cut, tmp_path / "missing.npy"):
            with contextlib.suppress(RuntimeError):
                load_all(bad)
        with contextlib.suppress(KeyError):
            mg.load(Broken(cut.read_bytes(), 2), format="npy")

    repeat(round_, 100, lambda: (*counters(), open_files()))
