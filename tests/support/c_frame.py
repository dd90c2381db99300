"""What a C program of a few lines needs: handles that are freed at its end, callbacks, streams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import mlx.core as mx

from support.c_caller import Library

Read = tuple[int, tuple[int, ...], bytes]


class Frame:
    """Calls functions of the library by hand and frees what they made."""

    def __init__(self, c: Library, folder: Path) -> None:
        self.c = c
        self.ffi = c.ffi
        self.lib = c.lib
        self.folder = folder
        self.stack = contextlib.ExitStack()
        self.alive: list[Any] = []
        #: What callbacks raised, as C only hears that they failed.
        self.raised: list[BaseException] = []
        self.stream = self.keep("mlx_stream", self.lib.mlx_default_cpu_stream_new())

    def __enter__(self) -> Frame:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.close()

    def keep(self, kind: str, handle: Any) -> Any:
        """Frees a handle at the end; an empty one is the failure of the call that made it."""
        self.stack.callback(getattr(self.lib, f"{kind}_free"), handle)
        if handle.ctx == self.ffi.NULL and self.lib.graft_error_last_kind():
            raise self.c.error()
        return handle

    def out(self, kind: str) -> Any:
        """A pointer to an empty handle, for a result."""
        return self.stack.enter_context(self.c.new(kind))

    def do(self, function: str, *arguments: Any) -> None:
        """Calls a function that returns whether it failed; raises what `mlx.core` would."""
        if getattr(self.lib, function)(*map(self.argument, arguments)):
            raise self.c.error()

    def get(self, kind: str, function: str, *arguments: Any) -> Any:
        """What a function writes through its first parameter: a handle, or a plain value."""
        handle = hasattr(self.lib, f"{kind}_free")
        pointer = self.out(kind) if handle else self.ffi.new(f"{kind}*")
        self.do(function, pointer, *arguments)
        return pointer[0]

    def op(self, function: str, *arguments: Any) -> Any:
        """The array of an operation on the default stream."""
        return self.get("mlx_array", function, *arguments, self.stream)

    def argument(self, value: Any) -> Any:
        """A handle, a number or a buffer for C; texts and arrays are converted."""
        if isinstance(value, str):
            return self.text_in(value)
        if isinstance(value, Path):
            return self.text_in(str(value))
        return self.array(value) if isinstance(value, mx.array) else value

    def text_in(self, text: str) -> Any:
        """A C string that lives as long as this."""
        self.alive.append(self.ffi.new("char[]", text.encode()))
        return self.alive[-1]

    def text(self, function: str, *arguments: Any) -> str:
        """The text that a function writes through its first parameter."""
        return self.string(self.get("mlx_string", function, *arguments))

    def borrowed(self, function: str, *arguments: Any) -> str:
        """The text that stays with a handle, to which a function writes a pointer."""
        return self.string(self.get("char*", function, *arguments))

    def string(self, string: Any) -> str:
        """The text of an `mlx_string` or of a C string."""
        if self.ffi.typeof(string).cname == "mlx_string":
            string = self.lib.mlx_string_data(string)
        return self.ffi.string(string).decode()

    def array(self, value: mx.array) -> Any:
        """A C array with the elements of one of `mlx.core`."""
        return self.c.array(value, self.stack)

    def arrays(self, *values: Any) -> Any:
        """A list of arrays."""
        handles = self.ffi.new("mlx_array[]", [self.argument(value) for value in values])
        return self.keep(
            "mlx_vector_array", self.lib.mlx_vector_array_new_data(handles, len(values))
        )

    def named(self, **values: Any) -> Any:
        """A map from names to arrays."""
        found = self.keep("mlx_map_string_to_array", self.lib.mlx_map_string_to_array_new())
        for name, value in values.items():
            self.do("mlx_map_string_to_array_insert", found, name, value)
        return found

    def strings(self, *values: str) -> Any:
        """A list of texts."""
        texts = self.ffi.new("char*[]", [self.text_in(value) for value in values])
        made = self.lib.mlx_vector_string_new_data(texts, len(values))
        return self.keep("mlx_vector_string", made)

    def ints(self, *values: int) -> Any:
        """Integers as a C array."""
        self.alive.append(self.ffi.new("int[]", list(values)))
        return self.alive[-1]

    def items(self, vector: Any) -> list[Any]:
        """The arrays of a list, as handles."""
        size = self.lib.mlx_vector_array_size(vector)
        return [self.get("mlx_array", "mlx_vector_array_get", vector, i) for i in range(size)]

    def all_texts(self, vector: Any) -> list[str]:
        """The texts of a list."""
        size = self.lib.mlx_vector_string_size(vector)
        found = [self.get("char*", "mlx_vector_string_get", vector, i) for i in range(size)]
        return [self.string(text) for text in found]

    def read(self, value: Any) -> Any:
        """Dtype, shape and bytes of an array, or of all in a list or a map."""
        kind = self.ffi.typeof(value).cname
        if kind == "mlx_vector_array":
            return [self.read(item) for item in self.items(value)]
        if kind == "mlx_map_string_to_array":
            return dict(self.pairs(value))
        return self.c.bytes_of(value)

    def pairs(self, arrays: Any) -> list[tuple[str, Read]]:
        """The names and arrays of a map."""
        kind = "mlx_map_string_to_array_iterator"
        iterator = self.keep(kind, self.lib.mlx_map_string_to_array_iterator_new(arrays))
        key, value, found = self.ffi.new("char**"), self.out("mlx_array"), []
        while not self.lib.mlx_map_string_to_array_iterator_next(key, value, iterator):
            found.append((self.string(key[0]), self.c.bytes_of(value[0])))
        return found

    def set_arrays(self, result: Any, values: Sequence[Any]) -> None:
        """Writes a list of arrays through a pointer, as a callback does."""
        handles = self.ffi.new("mlx_array[]", [self.argument(value) for value in values])
        self.do("mlx_vector_array_set_data", result, handles, len(values))

    def callback(self, function: str, position: int, body: Callable[..., Any]) -> Any:
        """A callback for a parameter of a function of the library."""
        return self.pointer(self.c.functions[function][position][0], body)

    def pointer(self, kind: str, body: Callable[..., Any]) -> Any:
        """A function pointer to Python code; what it raises is kept, and it returns a failure."""
        returns = kind.split("(")[0].strip()

        def call(*arguments: Any) -> Any:
            try:
                found = body(*arguments)
            except Exception as error:
                self.raised.append(error)
                return 1 if returns == "int" else self.ffi.NULL
            return 0 if found is None and returns == "int" else found

        self.alive.append(self.ffi.callback(kind, call))
        return self.alive[-1]

    def closure(self, body: Callable[..., Sequence[Any]]) -> Any:
        """A function from arrays to arrays."""

        def call(result: Any, inputs: Any) -> None:
            self.set_arrays(result, body(*self.items(inputs)))

        pointer = self.callback("mlx_closure_new_func", 0, call)
        return self.keep("mlx_closure", self.lib.mlx_closure_new_func(pointer))

    def apply(self, closure: Any, *inputs: Any) -> Any:
        """The arrays of a call of a function, as a list."""
        return self.get("mlx_vector_array", "mlx_closure_apply", closure, self.arrays(*inputs))
