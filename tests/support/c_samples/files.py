"""npy and safetensors: by path, and through the callbacks of a reader and a writer."""

from __future__ import annotations

import io
from typing import Any

import mlx.core as mx

from support.c_frame import Frame
from support.c_samples.sample import W, X, against

METADATA = {"format": "mlx", "by": "C"}
BF16 = X.astype(mx.bfloat16)


def texts(f: Frame, values: dict[str, str]) -> Any:
    """A map from texts to texts, read back on the way."""
    kind = "mlx_map_string_to_string"
    made = f.keep(kind, f.lib.mlx_map_string_to_string_new())
    for name, value in values.items():
        f.do(f"{kind}_insert", made, name, value)
        assert f.borrowed(f"{kind}_get", made, name) == value
    return made


def all_texts(f: Frame, values: Any) -> dict[str, str]:
    """What is in a map from texts to texts."""
    kind = "mlx_map_string_to_string_iterator"
    iterator = f.keep(kind, f.lib.mlx_map_string_to_string_iterator_new(values))
    key, value = f.ffi.new("char**"), f.ffi.new("char**")
    found = {}
    while not f.lib.mlx_map_string_to_string_iterator_next(key, value, iterator):
        found[f.string(key[0])] = f.string(value[0])
    return found


class Stream:
    """A Python file with the callbacks of `mlx_io_vtable`."""

    def __init__(self, f: Frame, file: io.BytesIO) -> None:
        self.f = f
        self.file = file
        self.freed = 0
        self.label = f.text_in("<in memory>")
        self.handle = f.ffi.new_handle(self)
        kinds = {field: kind.type.cname for field, kind in f.ffi.typeof("mlx_io_vtable").fields}
        self.vtable = f.ffi.new(
            "mlx_io_vtable*",
            {name: f.pointer(kind, self.method(name)) for name, kind in kinds.items()},
        )[0]

    def method(self, name: str) -> Any:
        """The callback of that name, which gets the descriptor first."""

        def call(descriptor: Any, *arguments: Any) -> Any:
            assert self.f.ffi.from_handle(descriptor) is self
            return getattr(self, f"on_{name}")(*arguments)

        return call

    def on_is_open(self) -> bool:
        return not self.file.closed

    def on_good(self) -> bool:
        return True

    def on_tell(self) -> int:
        return self.file.tell()

    def on_seek(self, offset: int, whence: int) -> int:
        self.file.seek(offset, whence)
        return 0

    def on_read(self, data: Any, size: int) -> int:
        found = self.file.read(size)
        self.f.ffi.memmove(data, found, len(found))
        return len(found)

    def on_read_at_offset(self, data: Any, size: int, offset: int) -> int:
        found = self.file.getvalue()[offset : offset + size]
        self.f.ffi.memmove(data, found, len(found))
        return len(found)

    def on_write(self, data: Any, size: int) -> int:
        return self.file.write(bytes(self.f.ffi.buffer(data, size)))

    def on_label(self) -> Any:
        return self.label

    def on_free(self) -> None:
        self.freed += 1


def opened(f: Frame, kind: str, content: bytes = b"") -> tuple[Any, Stream]:
    """A reader or a writer, which tells its descriptor and its label."""
    stream = Stream(f, io.BytesIO(content))
    handle = getattr(f.lib, f"{kind}_new")(stream.handle, stream.vtable)
    assert f.get("void*", f"{kind}_descriptor", handle) == stream.handle
    assert f.text(f"{kind}_tostring", handle) == "<in memory>"
    return handle, stream


def by_writer(f: Frame, function: str, *arguments: Any) -> bytes:
    """What a function writes."""
    writer, stream = opened(f, "mlx_io_writer")
    f.do(function, writer, *arguments)
    f.do("mlx_io_writer_free", writer)
    assert stream.freed == 1
    return stream.file.getvalue()


def safetensors(f: Frame, function: str, source: Any) -> Any:
    """Arrays and metadata of a file."""
    arrays, metadata = f.out("mlx_map_string_to_array"), f.out("mlx_map_string_to_string")
    f.do(function, arrays, metadata, source, f.stream)
    return [f.read(arrays[0]), all_texts(f, metadata[0])]


@against(lambda m, folder: m.load(str(folder / "x.npy")))
def npy(f: Frame) -> Any:
    f.do("mlx_save", f.folder / "x.npy", X)
    return f.read(f.op("mlx_load", f.folder / "x.npy"))


@against(lambda m, folder: m.load(str(folder / "missing.npy")), fails=True)
def a_missing_file(f: Frame) -> Any:
    return f.read(f.op("mlx_load", f.folder / "missing.npy"))


@against(lambda m, folder: m.load(str(folder / "x.safetensors"), return_metadata=True))
def safetensors_by_path(f: Frame) -> Any:
    file = f.folder / "x.safetensors"
    f.do("mlx_save_safetensors", file, f.named(x=X, b=BF16), texts(f, METADATA))
    return safetensors(f, "mlx_load_safetensors", file)


@against([{"x": X, "b": BF16}, METADATA])
def safetensors_of_python(f: Frame) -> Any:
    file = f.folder / "python.safetensors"
    mx.save_safetensors(str(file), {"x": X, "b": BF16}, METADATA)
    return safetensors(f, "mlx_load_safetensors", file)


@against(lambda m, folder: m.load(io.BytesIO((folder / "written.npy").read_bytes()), format="npy"))
def npy_through_callbacks(f: Frame) -> Any:
    content = by_writer(f, "mlx_save_writer", X)
    (f.folder / "written.npy").write_bytes(content)
    reader, _ = opened(f, "mlx_io_reader", content)
    array = f.op("mlx_load_reader", reader)
    f.do("mlx_io_reader_free", reader)
    return f.read(array)


@against(
    lambda m, folder: m.load(
        io.BytesIO((folder / "written.safetensors").read_bytes()),
        format="safetensors",
        return_metadata=True,
    )
)
def safetensors_through_callbacks(f: Frame) -> Any:
    arrays = (f.named(x=X, w=W), texts(f, METADATA))
    content = by_writer(f, "mlx_save_safetensors_writer", *arrays)
    (f.folder / "written.safetensors").write_bytes(content)
    reader, _ = opened(f, "mlx_io_reader", content)
    found = safetensors(f, "mlx_load_safetensors_reader", reader)
    f.do("mlx_io_reader_free", reader)
    return found


@against(lambda m, _: m.load(io.BytesIO(b"no header"), format="safetensors"), fails=True)
def content_that_is_no_file(f: Frame) -> Any:
    reader, _ = opened(f, "mlx_io_reader", b"no header")
    f.stack.callback(f.lib.mlx_io_reader_free, reader)
    return safetensors(f, "mlx_load_safetensors_reader", reader)


GGUF = {"answer": mx.array([42, 43]), "by": "C", "words": ["a", "b"]}


@against(lambda m, folder: m.load(str(folder / "x.gguf"), return_metadata=True))
def gguf(f: Frame) -> Any:
    kind, file = "mlx_io_gguf", f.folder / "x.gguf"
    made = f.keep(kind, f.lib.mlx_io_gguf_new())
    for name, array in {"x": X, "w": W}.items():
        f.do(f"{kind}_set_array", made, name, array)
    f.do(f"{kind}_set_metadata_array", made, "answer", GGUF["answer"])
    f.do(f"{kind}_set_metadata_string", made, "by", GGUF["by"])
    f.do(f"{kind}_set_metadata_vector_string", made, "words", f.strings(*GGUF["words"]))
    f.do("mlx_save_gguf", file, made)
    loaded = f.get(kind, "mlx_load_gguf", file, f.stream)
    keys = f.all_texts(f.get("mlx_vector_string", f"{kind}_get_keys", loaded))
    arrays = {key: f.read(f.get("mlx_array", f"{kind}_get_array", loaded, key)) for key in keys}
    for name, suffix in {"answer": "array", "by": "string", "words": "vector_string"}.items():
        assert f.get("bool", f"{kind}_has_metadata_{suffix}", loaded, name)
        flag, not_found = f.ffi.new("bool*"), 2
        has = getattr(f.lib, f"{kind}_has_metadata_{suffix}")
        assert has(flag, loaded, f.argument("missing")) == not_found
        assert not flag[0]
    metadata = {
        "answer": f.read(f.get("mlx_array", f"{kind}_get_metadata_array", loaded, "answer")),
        "by": f.text(f"{kind}_get_metadata_string", loaded, "by"),
        "words": f.all_texts(
            f.get("mlx_vector_string", f"{kind}_get_metadata_vector_string", loaded, "words")
        ),
    }
    return [arrays, metadata]
