"""Exported functions cross with `mlx.core` both ways; graphs are drawn as it draws them."""

from __future__ import annotations

import gc
import io
import re
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_graft import core as mg
from support.leaks import counters, repeat
from support.run import succeed

CONSTANT = mx.arange(6, dtype=mx.float32).reshape(2, 3)


def model(x: mx.array, y: mx.array, scale: mx.array) -> list[mx.array]:
    hidden = mx.matmul(x, CONSTANT) * scale
    return [
        mx.softmax(hidden + y, axis=-1),
        mx.abs(hidden),
        hidden.astype(mx.int32),
    ]


def inputs(rows: int) -> tuple[tuple[mx.array, mx.array], dict[str, mx.array]]:
    x = mx.arange(2 * rows, dtype=mx.float32).reshape(rows, 2) / 7
    return (x, mx.ones((rows, 3))), {"scale": mx.array(0.5)}


def assert_same(found: Any, wanted: Any) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.array_equal(np.array(a), np.array(b))


@pytest.mark.parametrize("writer, reader", [(mg, mx), (mx, mg), (mg, mg)])
@pytest.mark.parametrize("shapeless", [False, True])
def test_files_cross(writer: Any, reader: Any, shapeless: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "f.mlxfn")
    args, kwargs = inputs(2)
    writer.export_function(path, model, *args, shapeless=shapeless, metadata="ä", **kwargs)
    imported, metadata = reader.import_function(path, return_metadata=True)
    assert metadata == "ä"
    outputs = imported(*args, **kwargs)
    assert isinstance(outputs, tuple)
    assert_same(outputs, model(*args, **kwargs))
    assert_same(imported(args, kwargs), model(*args, **kwargs))
    other, named = inputs(4)
    if shapeless:
        assert_same(imported(*other, **named), model(*other, **named))
    else:
        with pytest.raises(ValueError):
            imported(*other, **named)


def test_an_imported_function_is_traced_by_mlx(tmp_path: Path) -> None:
    path = str(tmp_path / "f.mlxfn")
    x = mx.array([1.0, 2.0])
    mg.export_function(path, lambda x: mx.sum(mx.square(x)), x)
    imported = mg.import_function(path)
    assert mx.grad(lambda x: imported(x)[0])(x).tolist() == [2.0, 4.0]
    assert mx.compile(lambda x: imported(x)[0])(x).item() == 5.0


@pytest.mark.parametrize("writer, reader", [(mg, mx), (mx, mg)])
def test_several_traces_cross(writer: Any, reader: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "f.mlxfn")

    def total(*args: mx.array, extra: mx.array | None = None) -> mx.array:
        out = sum(args, mx.array(1))
        return out if extra is None else out * extra

    one = mx.array(1)
    with writer.exporter(path, total, metadata="{}") as exporter:
        exporter(one)
        exporter(one, one)
        exporter(one, extra=mx.array([1]))
        with pytest.raises(RuntimeError):
            exporter(one)
    with pytest.raises(RuntimeError):
        exporter(one, one, one)
    imported, metadata = reader.import_function(path, return_metadata=True)
    assert metadata == "{}"
    assert [out[0].item() for out in (imported(one), imported(one, one))] == [2, 3]
    assert imported(one, extra=mx.array([5]))[0].item() == 10
    with pytest.raises(ValueError):
        imported(one, one, one)


def test_an_exporter_that_is_not_closed_writes_when_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "f.mlxfn"
    exporter = mg.exporter(path, mx.abs)
    exporter(mx.array(-1))
    assert not path.exists()
    del exporter
    assert mg.import_function(path)(mx.array(-1))[0].item() == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda m, p: m.export_function(p, abs, "hi"),
        lambda m, p: m.export_function(p, abs, mx.array(1), "hi"),
        lambda m, p: m.export_function(p, abs, [[mx.array(1)]]),
        lambda m, p: m.export_function(p, abs, [mx.array(1)], x=mx.array(1)),
        lambda m, p: m.export_function(p, abs, mx.array(1), x=1),
        lambda m, p: m.export_function(p, lambda: (mx.array(1), 2)),
        lambda m, p: m.export_function(p, lambda: None),
        lambda m, p: m.export_function(p, abs, mx.array(1), metadata=3),
        lambda m, p: m.export_function(p, 3, mx.array(1)),
        lambda m, _: m.export_function(lambda _: None, abs, mx.array(1), metadata="x"),
        lambda m, p: m.export_function(p + "/no/f", abs, mx.array(1)),
        lambda m, p: m.exporter(p + "/no/f", abs),
        lambda m, p: m.import_function(p),
        lambda m, _: m.export_to_dot(3, mx.array(1)),
    ],
)
def test_wrong_arguments_raise_what_mlx_raises(
    call: Callable[[Any, str], object], tmp_path: Path
) -> None:
    with pytest.raises(Exception) as theirs:
        call(mx, str(tmp_path / "theirs"))
    with pytest.raises(theirs.type):
        call(mg, str(tmp_path / "ours"))


def test_exceptions_come_through_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "f.mlxfn"
    path.write_bytes(b"old")
    failure = KeyError("own")

    def fails(*_: Any) -> mx.array:
        raise failure

    x = mx.array(1.0)
    for call in (
        lambda: mg.export_function(path, fails, x),
        lambda: mg.exporter(path, fails)(x),
        lambda: mg.export_function(fails, mx.abs, x),
    ):
        with pytest.raises(KeyError) as raised:
            call()
        assert raised.value is failure
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["f.mlxfn"]


def graph(module: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    parts: list[Any] = []
    module.export_function(parts.append, function, *args, **kwargs)
    return parts


def plain(value: Any) -> Any:
    """Arrays as lists, so that parts can be compared."""
    if isinstance(value, mx.array):
        return value.dtype, value.tolist()
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in sorted(value.items())}
    return value


def test_a_callback_gets_what_mlx_gives() -> None:
    layer = nn.Conv2d(2, 4, 3, padding=1)

    def conv(x: mx.array) -> mx.array:
        return nn.relu(layer(x))

    def shapes(x: mx.array) -> list[mx.array]:
        turned = mx.pad(x.transpose(1, 0), ((0, 1), (2, 0)))[::2, 1:]
        return [
            mx.clip(turned, 0, 1), mx.cumsum(x, axis=0), mx.argmax(x, axis=1), mx.split(x, 2)[0],
            mx.fast.rms_norm(x, None, 1e-5), mx.as_strided(x, (2, 2), (1, 1), 0), x > 0,
            mx.fast.rope(x[None, None], 2, traditional=False, base=10000.0, scale=1.0, offset=0),
        ]  # fmt: skip

    args, kwargs = inputs(2)
    cases: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
        (model, args, kwargs),
        (conv, (mx.ones((1, 4, 4, 2)),), {}),
        (shapes, (mx.ones((4, 2)),), {}),
    ]
    for function, positional, named in cases:
        ours = plain(graph(mg, function, *positional, **named))
        theirs = plain(graph(mx, function, *positional, **named))
        assert repr(ours) == repr(theirs)
        assert ours == theirs


def test_dot_is_mlx_dot(tmp_path: Path) -> None:
    x, y = mx.array(1.0), mx.array(2.0)
    outputs = [*mx.divmod(x, y), x + y]
    ours, theirs = io.StringIO(), io.StringIO()
    mg.export_to_dot(ours, *outputs, x=x, y=y)
    mx.export_to_dot(theirs, *outputs, x=x, y=y)
    # Primitives are called by a number that grows with every one.
    assert re.sub(r"\b\d+\b", "#", ours.getvalue()) == re.sub(r"\b\d+\b", "#", theirs.getvalue())
    path = tmp_path / "graph.dot"
    mg.export_to_dot(str(path), outputs)
    assert path.read_text().startswith("digraph {")


def test_a_file_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "f.mlxfn"
    args, kwargs = inputs(2)
    mg.export_function(path, model, *args, **kwargs)
    script = """
import sys
from pathlib import Path
from mlx_graft import core as mg
path = Path(sys.argv[1])
whole = path.read_bytes()
for length in range(0, len(whole), 7):
    path.write_bytes(whole[:length])
    try:
        mg.import_function(path)
    except RuntimeError as error:
        assert str(path) in str(error), error
"""
    succeed(sys.executable, "-c", script, path, timeout=300)


def test_functions_are_collected_with_their_exporter(tmp_path: Path) -> None:
    def cycle() -> weakref.ref[Any]:
        held: dict[str, Any] = {}

        def function(x: mx.array) -> Any:
            return held["x"] + x

        held["x"] = mx.zeros((1000,))
        held["exporter"] = mg.exporter(tmp_path / "f.mlxfn", function)
        held["exporter"](mx.array(1.0))
        return weakref.ref(function)

    before = None
    for _ in range(5):
        function = cycle()
        gc.collect()
        assert function() is None
        count = counters()
        assert before in (None, count)
        before = count


def test_nothing_leaks(tmp_path: Path) -> None:
    path = tmp_path / "f.mlxfn"
    args, kwargs = inputs(2)

    def round_() -> None:
        mg.export_function(path, model, *args, **kwargs)
        imported = mg.import_function(path)
        mx.eval(imported(*args, **kwargs))
        with pytest.raises(ValueError):
            imported(*args)
        with pytest.raises(ZeroDivisionError):
            mg.export_function(path, lambda _: 1 // 0, args[0])
        graph(mg, model, *args, **kwargs)
        mg.export_to_dot(io.StringIO(), imported(*args, **kwargs)[0])

    repeat(round_, 50)
