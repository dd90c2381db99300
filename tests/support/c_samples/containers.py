"""Lists, maps and texts: what goes in comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from support.c_frame import Frame
from support.c_samples.sample import SAMPLES, Sample, W, X, against


def list_of(
    kind: str,
    element: str,
    values: Callable[[Frame], Sequence[Any]],
    read: Callable[[Frame, Any], Any],
    expected: Any,
) -> None:
    """A sample of one type of list: each way to make it, to replace it and to add to it."""

    def run(f: Frame) -> Any:
        vector = f"mlx_vector_{kind}"
        first, second = values(f)
        pointer = f.ffi.new(f"{element}[]", [first, second])

        def out() -> Any:
            return f.out(plain) if hasattr(f.lib, f"{plain}_free") else f.ffi.new(f"{plain}*")

        def items(made: Any) -> list[Any]:
            size = getattr(f.lib, f"{vector}_size")(made)
            assert getattr(f.lib, f"{vector}_get")(out(), made, size) != 0
            f.lib.graft_error_clear()
            return [item(made, index) for index in range(size)]

        def item(made: Any, index: int) -> Any:
            result = out()
            f.do(f"{vector}_get", result, made, index)
            return read(f, result[0])

        of_data = f.keep(vector, getattr(f.lib, f"{vector}_new_data")(pointer, 2))
        of_value = f.keep(vector, getattr(f.lib, f"{vector}_new_value")(second))
        changed = f.out(vector)
        found = [items(of_data), items(of_value), items(changed[0])]
        f.do(f"{vector}_set", changed, of_data)
        found.append(items(changed[0]))
        f.do(f"{vector}_set_value", changed, first)
        found.append(items(changed[0]))
        f.do(f"{vector}_set_data", changed, pointer, 2)
        f.do(f"{vector}_append_value", changed[0], first)
        f.do(f"{vector}_append_data", changed[0], pointer, 2)
        return [*found, items(changed[0])]

    plain = element.removeprefix("const ")
    run.__name__ = f"list_of_{kind}"
    run.__module__ = __name__
    one, two = expected
    each = [[one, two], [two], [], [one, two], [one], [one, two, one, one, two]]
    SAMPLES.append(Sample(run, each))


list_of("array", "mlx_array", lambda f: [f.array(X), f.array(W)], Frame.read, [X, W])
list_of("int", "int", lambda _: [3, -4], lambda _, value: value, [3, -4])
list_of(
    "string",
    "const char*",
    lambda f: [f.text_in("one"), f.text_in("zwei")],
    Frame.string,
    ["one", "zwei"],
)
list_of(
    "vector_array",
    "mlx_vector_array",
    lambda f: [f.arrays(X, W), f.arrays()],
    Frame.read,
    [[X, W], []],
)
list_of(
    "stream",
    "mlx_stream",
    lambda f: [f.stream, f.stream],
    lambda f, stream: f.lib.mlx_stream_equal(stream, f.stream),
    [True, True],
)


@against([{"x": X, "w": W}, {"x": X, "w": W}, X, 2])
def map_of_arrays(f: Frame) -> Any:
    arrays, copy = f.named(x=X, w=W), f.out("mlx_map_string_to_array")
    f.do("mlx_map_string_to_array_set", copy, arrays)
    found = f.get("mlx_array", "mlx_map_string_to_array_get", copy[0], "x")
    missing = f.lib.mlx_map_string_to_array_get(f.out("mlx_array"), copy[0], f.argument("y"))
    return [f.read(arrays), f.read(copy[0]), f.read(found), missing]


@against(["b", 2])
def map_of_texts(f: Frame) -> Any:
    kind = "mlx_map_string_to_string"
    texts, copy = f.keep(kind, f.lib.mlx_map_string_to_string_new()), f.out(kind)
    f.do(f"{kind}_insert", texts, "a", "b")
    f.do(f"{kind}_set", copy, texts)
    missing = f.lib.mlx_map_string_to_string_get(f.ffi.new("char**"), copy[0], f.argument("c"))
    return [f.borrowed(f"{kind}_get", copy[0], "a"), missing]


@against(["text", "text"])
def texts(f: Frame) -> Any:
    made = f.keep("mlx_string", f.lib.mlx_string_new_data(f.text_in("text")))
    copy = f.out("mlx_string")
    f.do("mlx_string_set", copy, made)
    return [f.string(made), f.string(copy[0])]
