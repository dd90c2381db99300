"""Exported functions: files that one side writes and the others read, and graphs as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx

from support.c_frame import Frame
from support.c_samples.sample import W, X, against


def tanh_of_product(f: Frame) -> Any:
    return f.closure(lambda x, w: [f.op("mlx_tanh", f.op("mlx_multiply", x, w))])


def with_keyword(f: Frame) -> Any:
    """tanh(x * w), where w is a keyword."""

    def call(result: Any, inputs: Any, keywords: Any) -> None:
        w = f.get("mlx_array", "mlx_map_string_to_array_get", keywords, "w")
        f.set_arrays(result, [f.op("mlx_tanh", f.op("mlx_multiply", f.items(inputs)[0], w))])

    make = "mlx_closure_kwargs_new_func"
    return f.keep("mlx_closure_kwargs", getattr(f.lib, make)(f.callback(make, 0, call)))


def imported(f: Frame, file: Path) -> Any:
    function = f.lib.mlx_imported_function_new(f.argument(file))
    return f.keep("mlx_imported_function", function)


def results(f: Frame, file: Path, *inputs: mx.array, **keywords: mx.array) -> Any:
    """Calls an exported function."""
    suffix, extra = ("_kwargs", [f.named(**keywords)]) if keywords else ("", [])
    apply = f"mlx_imported_function_apply{suffix}"
    arguments = (imported(f, file), f.arrays(*inputs), *extra)
    return f.read(f.get("mlx_vector_array", apply, *arguments))


@against(lambda m, folder: m.import_function(str(folder / "plain.mlxfn"))(X, W))
def function(f: Frame) -> Any:
    file = f.folder / "plain.mlxfn"
    f.do("mlx_export_function", file, tanh_of_product(f), f.arrays(X, W), False)
    return results(f, file, X, W)


@against(lambda m, folder: m.import_function(str(folder / "keyword.mlxfn"))(X, w=W))
def function_with_keywords(f: Frame) -> Any:
    file = f.folder / "keyword.mlxfn"
    closure = with_keyword(f)
    f.do("mlx_export_function_kwargs", file, closure, f.arrays(X), f.named(w=W), True)
    return results(f, file, X, w=W)


@against(lambda m, _: [m.tanh(m.multiply(X, W)), m.tanh(m.multiply(W, W))])
def function_of_python(f: Frame) -> Any:
    """The file of Python, with two traces, called in C."""
    file = f.folder / "python.mlxfn"
    with mx.exporter(str(file), lambda x, w: mx.tanh(mx.multiply(x, w))) as exporter:
        exporter(X, W)
        exporter(W, W)
    return [*results(f, file, X, W), *results(f, file, W, W)]


@against(
    lambda m, folder: [
        *m.import_function(str(folder / "traces.mlxfn"))(X, W),
        *m.import_function(str(folder / "traces.mlxfn"))(W, W),
    ]
)
def several_traces(f: Frame) -> Any:
    file = f.folder / "traces.mlxfn"
    exporter = f.lib.mlx_function_exporter_new(f.argument(file), tanh_of_product(f), False)
    for x in (X, W):
        f.do("mlx_function_exporter_apply", exporter, f.arrays(x, W))
    f.do("mlx_function_exporter_free", exporter)
    return [*results(f, file, X, W), *results(f, file, W, W)]


@against(
    lambda m, folder: [
        "about it",
        *m.import_function(str(folder / "metadata.mlxfn"))(X, w=W),
    ]
)
def several_traces_with_metadata(f: Frame) -> Any:
    file = f.folder / "metadata.mlxfn"
    make = f.lib.graft_function_exporter_new
    exporter = make(f.argument(file), with_keyword(f), False, f.argument("about it"))
    f.do("mlx_function_exporter_apply_kwargs", exporter, f.arrays(X), f.named(w=W))
    f.do("mlx_function_exporter_free", exporter)
    metadata = f.text("graft_imported_function_metadata", imported(f, file))
    return [metadata, *results(f, file, X, w=W)]


def graph_of(m: Any, _: Path) -> Any:
    """The parts of the graph as a callback in Python gets them."""
    names: list[str] = []

    def callback(event: dict[str, Any]) -> None:
        names.append(event["name"] if event["type"] == "primitive" else event["type"])

    m.export_function(callback, lambda x, w: m.tanh(m.multiply(x, w)), X, w=W)
    return names


@against(graph_of)
def graph_to_a_callback(f: Frame) -> Any:
    found: list[str] = []
    kinds = {
        f.lib.GRAFT_EXPORT_INPUTS: "inputs",
        f.lib.GRAFT_EXPORT_KEYWORD_INPUTS: "keyword_inputs",
        f.lib.GRAFT_EXPORT_OUTPUTS: "outputs",
        f.lib.GRAFT_EXPORT_CONSTANTS: "constants",
    }

    def callback(event: Any, _: Any) -> None:
        primitive = event.kind == f.lib.GRAFT_EXPORT_PRIMITIVE
        found.append(f.string(event.name) if primitive else kinds[event.kind])

    make = "graft_export_function_callback"
    pointer = f.callback(make, 0, callback)
    f.do(make, pointer, f.ffi.NULL, with_keyword(f), f.arrays(X), f.named(w=W), False)
    return found


ROWS = mx.array([1, 0, -1])


@against(lambda m, _: [m.take(X, ROWS, axis=0)])
def graph_with_other_indices(f: Frame) -> Any:
    """Indices out of range, which a callback replaces before anything is computed."""
    x, far = f.array(X), f.array(mx.array([1, 70_000, -70_000]))
    outputs = f.arrays(f.op("mlx_take_axis", x, far, 0))

    def replace(result: Any, use: Any, _: Any) -> None:
        assert use.kind == f.lib.GRAFT_INDEX_SLICES
        assert list(use.axes[0 : use.num_axes]) == [0]
        assert list(use.sizes[0 : use.num_sizes]) == [1, 3]
        assert f.lib.mlx_array_ndim(use.source) == 2
        assert f.read(use.indices) == f.read(far)
        f.do("mlx_array_set", result, ROWS)

    name = "graft_replace_indices"
    pointer = f.callback(name, 2, replace)
    f.do(name, outputs, f.arrays(x, far), pointer, f.ffi.NULL)
    return f.read(outputs)


def dot_of(m: Any, folder: Path) -> str:
    file = folder / "python.dot"
    m.export_to_dot(str(file), m.tanh(m.multiply(X, W)), x=X, w=W)
    return numbered(file.read_text())


def numbered(dot: str) -> str:
    """The same with numbers in the place of addresses."""
    addresses = dict.fromkeys(re.findall(r"\b\d{6,}\b", dot))
    for number, address in enumerate(addresses):
        dot = dot.replace(address, f"node {number}")
    return dot


def graph(f: Frame) -> tuple[Any, Any]:
    """A graph, and the names of its inputs."""
    namer = f.keep("mlx_node_namer", f.lib.mlx_node_namer_new())
    x, w = f.array(X), f.array(W)
    for name, array in (("x", x), ("w", w)):
        f.do("mlx_node_namer_set_name", namer, array, name)
        assert f.borrowed("mlx_node_namer_get_name", namer, array) == name
    return f.arrays(f.op("mlx_tanh", f.op("mlx_multiply", x, w))), namer


def written(f: Frame, function: str) -> str:
    """What a function writes to a FILE."""
    outputs, namer = graph(f)
    file = f.folder / "c.txt"
    with file.open("wb") as stream:
        f.do(function, stream, namer, outputs)
    return file.read_text()


@against(dot_of)
def drawn(f: Frame) -> Any:
    return numbered(written(f, "mlx_export_to_dot"))


@against(
    """\
Inputs: x [(2,3), float32], w [(3), float32]
Outputs: C [(2,3), float32]
Broadcast w [(3), float32] -> D [(2,3), float32]
Multiply x [(2,3), float32], D [(2,3), float32] -> E [(2,3), float32]
Tanh E [(2,3), float32] -> C [(2,3), float32]
"""
)
def printed(f: Frame) -> Any:
    """The lines of `mlx_print_graph`, which has no counterpart in Python."""
    return written(f, "mlx_print_graph")
