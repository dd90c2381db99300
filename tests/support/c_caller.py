"""Calls the operations of the C API through cffi with the arguments of a Python call."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from mlx_graft.core._parity import Op, raw

# The exceptions of mlx.core for the kinds of graft_error.h.
KINDS = {1: ValueError, 2: IndexError, 3: OverflowError, 4: MemoryError, 5: RuntimeError}
CHOOSERS = ("axis", "axes", "dtype")


class NotInCError(Exception):
    """The arguments have no counterpart in C, such as a number in the place of an array."""


class Recorded:
    """A library that notes the names of the functions that are looked up in it."""

    def __init__(self, lib: Any, called: set[str]) -> None:
        self._lib = lib
        self._called = called

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._lib, name)
        self._called.add(name)
        return found


class Library:
    """libmlxc, with what is needed to hand arrays over as bytes and read them back."""

    def __init__(self, ffi: Any, lib: Any, functions: dict[str, list[tuple[str, str]]]) -> None:
        self.ffi = ffi
        self.functions = functions
        self.called: set[str] = set()
        self.lib = Recorded(lib, self.called)
        self.alone = False

    def operation(self, op: Op) -> Callable[..., Any]:
        """The operation as a function that takes what `mlx.core`'s takes."""
        signature = inspect.signature(op.ours)

        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = {k: v for k, v in bound.arguments.items() if k != "stream"}
            names = max(op.c, key=lambda name: len(self.inputs(name)))
            widest = [plain(name) for _, name in self.inputs(names)]
            if len(widest) != len(values):
                raise NotInCError
            by_name = dict(zip(widest, values.values(), strict=True))
            return self.call(self.choose(op, by_name), by_name)

        return call

    def inputs(self, function: str) -> list[tuple[str, str]]:
        """The parameters of a function without outputs, lengths and stream: type and name."""
        return [
            (kind, name)
            for kind, name in self.functions[function]
            if kind not in ("mlx_array*", "mlx_vector_array*", "const mlx_stream")
            and not name.endswith("_num")
        ]

    def choose(self, op: Op, values: dict[str, Any]) -> str:
        """The function for these arguments, of those of the operation."""
        base, names = op.c[0], set(op.c)
        value = next((values[name] for name in map(plain, CHOOSERS) if name in values), None)
        if value is None or len(names) == 1:
            return base
        if isinstance(value, mx.Dtype):
            return f"{base}_dtype" if f"{base}_dtype" in names else base
        if isinstance(value, int) and f"{base}_axis" in names:
            return f"{base}_axis"
        takes_one = any(plain(name) == "axis" for _, name in self.inputs(base))
        return base if isinstance(value, int) and takes_one else f"{base}_axes"

    def call(self, function: str, values: dict[str, Any]) -> Any:
        """Calls a function and returns bytes of its outputs; raises what `mlx.core` would."""
        # The dtype of a number depends on the arrays beside it, if there are any.
        self.alone = not any(isinstance(v, mx.array) for k, v in values.items() if k != "key")
        with contextlib.ExitStack() as stack:
            arguments, outputs = [], []
            for kind, name in self.functions[function]:
                if kind in ("mlx_array*", "mlx_vector_array*"):
                    outputs.append(stack.enter_context(self.new(kind[:-1])))
                    arguments.append(outputs[-1])
                elif kind == "const mlx_stream":
                    stream = self.lib.mlx_default_cpu_stream_new()
                    stack.callback(self.lib.mlx_stream_free, stream)
                    arguments.append(stream)
                elif not name.endswith("_num"):
                    arguments += self.convert(kind, values[plain(name)], stack)
            if getattr(self.lib, function)(*arguments):
                raise self.error()
            return [array for output in outputs for array in self.read(output)]

    def error(self) -> Exception:
        """The exception of the last failure."""
        kind = KINDS[self.lib.graft_error_last_kind()]
        text = self.ffi.string(self.lib.graft_error_last_message()).decode()
        self.lib.graft_error_clear()
        return kind(text)

    @contextlib.contextmanager
    def new(self, kind: str) -> Iterator[Any]:
        """An empty handle, freed at the end."""
        handle = self.ffi.new(f"{kind}*")
        handle[0] = getattr(self.lib, f"{kind}_new")()
        yield handle
        getattr(self.lib, f"{kind}_free")(handle[0])

    def convert(self, kind: str, value: Any, stack: contextlib.ExitStack) -> list[Any]:
        """The C arguments for a Python value."""
        if kind == "const mlx_array":
            return [self.array(value, stack)]
        if kind == "const mlx_vector_array":
            arrays = [self.array(item, stack) for item in value]
            vector = self.lib.mlx_vector_array_new_data(
                self.ffi.new("mlx_array[]", arrays), len(arrays)
            )
            stack.callback(self.lib.mlx_vector_array_free, vector)
            return [vector]
        if kind in ("const int*", "const int64_t*"):
            if value is None:
                raise NotInCError
            numbers = [value] if isinstance(value, int) else list(value)
            return [self.ffi.new(f"{kind[6:-1]}[]", numbers), len(numbers)]
        if kind.startswith("mlx_optional_"):
            given = value is not None
            value = self.dtype(value) if kind == "mlx_optional_dtype" and given else value
            return [self.ffi.new(f"{kind}*", {"value": value or 0, "has_value": given})[0]]
        if kind == "mlx_dtype":
            if value is ...:  # a default, which the signature of a built-in function hides
                raise NotInCError
            return [self.dtype(value)]
        if kind == "const char*":
            return [self.ffi.new("char[]", value.encode())]
        if not isinstance(value, (int, float)):
            raise NotInCError
        return [value]

    def array(self, value: Any, stack: contextlib.ExitStack) -> Any:
        """A C array with the elements of one of `mlx.core`, handed over as bytes."""
        if value is None:
            return self.ffi.new("mlx_array*")[0]
        if isinstance(value, (int, float)) and self.alone:
            value = mx.array(value)
        if not isinstance(value, mx.array):
            raise NotInCError
        array = self.lib.mlx_array_new_data(
            self.ffi.from_buffer(raw(value) or b"\0"),
            self.ffi.new("int[]", list(value.shape) or [0]),
            value.ndim,
            self.dtype(value.dtype),
        )
        stack.callback(self.lib.mlx_array_free, array)
        return array

    def plain(self, array: mx.array) -> tuple[int, tuple[int, ...], bytes]:
        """Dtype, shape and bytes of an array of `mlx.core`."""
        return self.dtype(array.dtype), array.shape, raw(array)

    def dtype(self, dtype: mx.Dtype) -> int:
        """The number of a dtype."""
        name = str(dtype).removeprefix("mlx.core.").rstrip("_")
        return getattr(self.lib, f"MLX_{name.upper()}")

    def read(self, output: Any) -> list[tuple[int, tuple[int, ...], bytes]]:
        """Dtype, shape and bytes of each array of an output."""
        if self.ffi.typeof(output).item.cname == "mlx_array":
            return [self.bytes_of(output[0])]
        found = []
        for index in range(self.lib.mlx_vector_array_size(output[0])):
            with self.new("mlx_array") as item:
                assert self.lib.mlx_vector_array_get(item, output[0], index) == 0
                found.append(self.bytes_of(item[0]))
        return found

    def bytes_of(self, array: Any) -> tuple[int, tuple[int, ...], bytes]:
        """Dtype, shape and bytes of an array."""
        stream = self.lib.mlx_default_cpu_stream_new()
        with self.new("mlx_array") as dense:
            failed = self.lib.mlx_contiguous(dense, array, False, stream)
            failed = failed or self.lib.mlx_array_eval(dense[0])
            self.lib.mlx_stream_free(stream)
            if failed:
                raise self.error()
            shape = self.lib.mlx_array_shape(dense[0])
            dims = tuple(shape[axis] for axis in range(self.lib.mlx_array_ndim(dense[0])))
            size = self.lib.mlx_array_nbytes(dense[0])
            data = self.lib.mlx_array_data_uint8(dense[0])
            content = bytes(self.ffi.buffer(data, size)) if size else b""
            return self.lib.mlx_array_dtype(dense[0]), dims, content


def plain(name: str) -> str:
    """The name that parameters for one axis and for several share."""
    return re.sub("^axes$", "axis", name.rstrip("_").lower())
