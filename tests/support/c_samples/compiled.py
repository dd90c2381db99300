"""Compiled functions, their cache, and functions that return more than arrays."""

from __future__ import annotations

from typing import Any

from support.c_frame import Frame
from support.c_samples.sample import W, X, against

IDENTITY = 0x6772616674  # of a function in the cache; no address


def counted(f: Frame) -> tuple[Any, list[int]]:
    """A function, and a list that grows with each trace of it."""
    traces: list[int] = []

    def function(x: Any, w: Any) -> list[Any]:
        traces.append(len(traces))
        return [f.op("mlx_tanh", f.op("mlx_multiply", x, w))]

    return f.closure(function), traces


def expected(m: Any, _: Any) -> Any:
    return [m.compile(lambda x, w: m.tanh(m.multiply(x, w)))(X, W)] * 2


@against(expected)
def compiled(f: Frame) -> Any:
    closure, traces = counted(f)
    compiled = f.get("mlx_closure", "mlx_compile", closure, True)
    found = [f.read(f.apply(compiled, X, W))[0] for _ in range(2)]
    assert len(traces) == 1
    return found


@against(expected)
def cached_by_identity(f: Frame) -> Any:
    closure, traces = counted(f)
    cache = f.get("mlx_compile_cache", "mlx_detail_compile_cache")
    found = []
    for forget in (
        ("mlx_detail_compile_erase", cache, IDENTITY),
        ("mlx_detail_compile_clear_cache", cache),
    ):
        of = (closure, IDENTITY, False, f.ffi.new("uint64_t[]", [3]), 1)
        compiled = f.get("mlx_closure", "mlx_detail_compile", *of)
        found.append(f.read(f.apply(compiled, X, W))[0])
        f.do(*forget)
    assert len(traces) == 2
    return found


@against(expected)
def without_compilation(f: Frame) -> Any:
    closure, traces = counted(f)
    f.do("mlx_disable_compile")
    compiled = f.get("mlx_closure", "mlx_compile", closure, False)
    try:
        found = [f.read(f.apply(compiled, X, W))[0] for _ in range(2)]
    finally:
        f.do("mlx_enable_compile")
        f.do("mlx_set_compile_mode", f.lib.MLX_COMPILE_MODE_ENABLED)
    assert len(traces) == 2
    return found


@against(expected)
def with_an_extra_output(f: Frame) -> Any:
    """What a function returns beside its arrays is kept with the trace."""
    closure, traces = counted(f)
    freed: list[str] = []
    handles = {name: f.ffi.new_handle(name) for name in ("function", "structure")}

    def release(payload: Any) -> None:
        freed.append(f.ffi.from_handle(payload))

    def call(result: Any, extra: Any, inputs: Any, payload: Any) -> None:
        assert f.ffi.from_handle(payload) == "function"
        extra[0] = f.lib.graft_extra_new_payload(handles["structure"], free_extra)
        f.do("mlx_closure_apply", result, closure, inputs)

    make = "graft_closure_extra_new_func_payload"
    free_extra = f.callback("graft_extra_new_payload", 1, release)
    free_function = f.callback(make, 2, release)
    function = getattr(f.lib, make)(f.callback(make, 0, call), handles["function"], free_function)
    compiled = f.ffi.new("graft_closure_extra*", [f.lib.graft_closure_extra_new().ctx])
    f.do("graft_detail_compile_extra", compiled, function, IDENTITY, False, f.ffi.NULL, 0)
    found = []
    for _ in range(2):
        extra = f.ffi.new("graft_extra*", [f.lib.graft_extra_new().ctx])
        values = f.out("mlx_vector_array")
        f.do("graft_closure_extra_apply", values, extra, compiled[0], f.arrays(X, W))
        assert f.ffi.from_handle(f.lib.graft_extra_payload(extra[0])) == "structure"
        f.do("graft_extra_free", extra[0])
        found.append(f.read(values[0])[0])
    assert len(traces) == 1
    for closure_extra in (function, compiled[0]):
        f.do("graft_closure_extra_free", closure_extra)
    cache = f.get("mlx_compile_cache", "mlx_detail_compile_cache")
    f.do("mlx_detail_compile_erase", cache, IDENTITY)
    assert sorted(freed) == ["function", "structure"]
    return found


def remainder(m: Any, _: Any) -> Any:
    return [m.divmod(X, W)[1]]


@against(remainder)
def one_of_several_outputs(f: Frame) -> Any:
    x, w = f.array(X), f.array(W)
    both = f.get("mlx_vector_array", "mlx_divmod", x, w, f.stream)
    quotient, rest = f.items(both)
    outputs = f.arrays(f.op("mlx_add", quotient, rest))
    return f.read(f.get("mlx_vector_array", "graft_trace_siblings", outputs, f.arrays(x, w)))


def total(m: Any, _: Any) -> Any:
    return [m.add(X, W)]


@against(total)
def shapes_that_fit(f: Frame) -> Any:
    x, w = f.array(X), f.array(W)
    outputs = f.arrays(f.op("mlx_add", x, w))
    f.do("graft_check_shapes", outputs, f.arrays(x, w))
    return f.read(outputs)
