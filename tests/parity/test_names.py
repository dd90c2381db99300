"""Names of `mlx.core` that no row of operations has: other names, constants, numbers, settings."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_graft import core

# Everything an alias must agree with `mlx.core` on: its arguments by name, and what it returns.
ALIASES = {
    "acos": (0.5,),
    "acosh": (1.5,),
    "asin": (0.5,),
    "asinh": (0.5,),
    "atan": (0.5,),
    "atan2": (mx.array([0.5, -1.0]), mx.array([2.0, -3.0])),
    "atanh": (0.5,),
    "bitwise_left_shift": (mx.array([1, 2, 3]), 2),
    "bitwise_right_shift": (mx.array([8, 5, 3]), 1),
    "concat": ([mx.ones((2, 3)), mx.zeros((1, 3))],),
    "conj": (mx.array([1 + 2j, 3 - 4j]),),
    "cumulative_prod": (mx.array([[1.0, 2.0], [3.0, 4.0]]), 1),
    "cumulative_sum": (mx.array([[1.0, 2.0], [3.0, 4.0]]), 0),
    "empty": ((2, 3), mx.int32),
    "empty_like": (mx.ones((2, 2), mx.bfloat16),),
    "matrix_norm": (mx.array([[1.0, 2.0], [3.0, 4.0]]), "fro"),
    "matrix_transpose": (mx.arange(6).reshape(2, 3),),
    "permute_dims": (mx.arange(6).reshape(1, 2, 3), (2, 0, 1)),
    "pow": (2, mx.array([1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize("name", ALIASES)
def test_alias(name: str) -> None:
    ours, theirs = getattr(core, name)(*ALIASES[name]), getattr(mx, name)(*ALIASES[name])
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert mx.array_equal(ours, theirs)


SHARED = [
    "ArrayAt", "ArrayIterator", "ArrayLike", "Device", "DeviceType", "Dtype", "DtypeCategory",
    "Stream", "ThreadLocalStream", "array", "asarray", "bfloat16", "bool_", "complex64",
    "complexfloating", "cpu", "e", "euler_gamma", "float16", "float32", "float64", "floating",
    "from_dlpack", "generic", "gpu", "inexact", "inf", "int8", "int16", "int32", "int64", "integer",
    "nan", "newaxis", "number", "pi", "signedinteger", "uint8", "uint16", "uint32", "uint64",
    "unsignedinteger",
]  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_shared(name: str) -> None:
    assert getattr(core, name) is getattr(mx, name)


@pytest.mark.parametrize(
    "shapes",
    [[()], [(2, 3)], [(2, 1), (3,)], [(1,), (0, 1), (4, 1, 1)], [(2,), (3,)], [(2,), (0,)]],
)
def test_broadcast_shapes(shapes: list[tuple[int, ...]]) -> None:
    try:
        expected = mx.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ValueError):
            core.broadcast_shapes(*shapes)
    else:
        assert core.broadcast_shapes(*shapes) == expected


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32, mx.float64])
def test_finfo(dtype: mx.Dtype) -> None:
    ours, theirs = core.finfo(dtype), mx.finfo(dtype)
    for name in ("min", "max", "eps", "smallest_normal", "dtype"):
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("dtype", [mx.uint8, mx.int8, mx.uint32, mx.int32, mx.uint64, mx.int64])
def test_iinfo(dtype: mx.Dtype) -> None:
    ours, theirs = core.iinfo(dtype), mx.iinfo(dtype)
    for name in ("min", "max", "dtype"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_limits_of_other_dtypes() -> None:
    for ours, theirs in ((core.finfo, mx.finfo), (core.iinfo, mx.iinfo)):
        for dtype in (mx.bool_, mx.complex64, mx.float32, mx.int32):
            outcomes = []
            for limits in (ours, theirs):
                try:
                    outcomes.append((limits(dtype).min, limits(dtype).max))
                except Exception as error:
                    outcomes.append(type(error))
            assert outcomes[0] == outcomes[1], dtype


def test_devices_are_counted() -> None:
    for kind in (mx.cpu, mx.gpu):
        assert core.device_count(kind) == mx.device_count(kind)
        assert core.is_available(kind) == mx.is_available(kind)
        assert core.is_available(mx.Device(kind, 7)) == mx.is_available(mx.Device(kind, 7))


def test_a_stream_for_any_thread() -> None:
    stream = core.new_thread_unsafe_stream(mx.cpu)
    assert isinstance(stream, mx.Stream)
    assert stream.device == mx.Device(mx.cpu, 0)
    assert core.add(mx.array(1), 2, stream=stream).item() == 3


def test_memory() -> None:
    before = core.get_active_memory()
    assert before == mx.get_active_memory()
    x = mx.zeros((1 << 18,))
    mx.eval(x)
    assert core.get_active_memory() >= before + x.nbytes
    assert core.get_peak_memory() == mx.get_peak_memory() >= core.get_active_memory()
    del x
    core.reset_peak_memory()
    assert core.get_peak_memory() == mx.get_peak_memory() < before + (1 << 20)
    core.clear_cache()
    assert core.get_cache_memory() == mx.get_cache_memory() == 0


@pytest.mark.parametrize("name", ["set_memory_limit", "set_cache_limit", "set_wired_limit"])
def test_memory_limits(name: str) -> None:
    ours, theirs = getattr(core, name), getattr(mx, name)
    previous = theirs(1 << 30)
    assert ours(1 << 31) == 1 << 30 or name == "set_wired_limit"
    assert theirs(previous) == 1 << 31 or name == "set_wired_limit"


def test_compilation_is_turned_off_and_on() -> None:
    calls = []

    @core.compile
    def f(x: mx.array) -> mx.array:
        calls.append(1)
        return x + 1

    try:
        core.disable_compile()
        f(mx.array(1))
        f(mx.array(1))
        assert len(calls) == 2
    finally:
        core.enable_compile()
    f(mx.array(1))
    f(mx.array(1))
    assert len(calls) == 3


def test_async_eval() -> None:
    x = core.exp(mx.arange(8.0))
    tree = {"x": [x, core.square(x)], "y": (x,)}
    core.async_eval(tree)
    assert np.array_equal(np.array(tree["x"][1]), np.array(mx.square(mx.exp(mx.arange(8.0)))))


def test_a_function_exporter_has_its_class(tmp_path) -> None:
    path = tmp_path / "f.mlxfn"
    with core.exporter(path, core.abs) as exporter:
        assert isinstance(exporter, core.FunctionExporter)
        exporter(mx.array([-1.0]))
    assert mx.import_function(str(path))(mx.array([-2.0]))[0].item() == 2


def test_a_group_of_one_process() -> None:
    group = core.distributed.init()
    assert isinstance(group, core.distributed.Group)
    assert (group.rank(), group.size()) == (0, 1)
    assert core.distributed.is_available() == mx.distributed.is_available()
    x = mx.arange(6.0).reshape(2, 3)
    for name in ("all_sum", "all_max", "all_min", "all_gather", "sum_scatter"):
        ours, theirs = getattr(core.distributed, name), getattr(mx.distributed, name)
        assert mx.array_equal(ours(x, group=group), theirs(x)), name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("send", (mx.ones(2), 0)),
        ("recv", ((2,), mx.float32, 0)),
        ("recv_like", (mx.ones(2), 0)),
    ],
)
def test_nobody_to_exchange_with(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError) as theirs:
        getattr(mx.distributed, name)(*arguments)
    with pytest.raises(ValueError) as ours:
        getattr(core.distributed, name)(*arguments)
    assert str(theirs.value) in str(ours.value)
