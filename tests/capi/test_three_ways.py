"""C through cffi, Rust through `mlx_graft.core`, and `mlx.core`: the same bytes, the same errors.

The shared libmlxc is driven as by a stranger: declarations from the shipped headers, arrays handed
over as bytes and read back as bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft as mg
from mlx_graft.core._cases import OPS
from mlx_graft.core._parity import Maker, Op, outcome, raw
from support import c_headers
from support.c_caller import Library, NotInCError

cffi = pytest.importorskip("cffi")
GENERATED = [op for op in OPS if op.c]


@pytest.fixture(scope="module")
def c() -> Library:
    include = Path(mg.capi.include())
    ffi = cffi.FFI()
    ffi.cdef(c_headers.declarations(include))
    return Library(ffi, ffi.dlopen(str(mg.capi.library())), c_headers.functions(include))


def in_c(run: Callable[[], Any]) -> Any:
    """Dtype, shape and bytes of each result, or the type of the exception."""
    try:
        return run()
    except NotInCError:
        raise
    except Exception as error:
        return type(error)


def in_python(c: Library, run: Callable[[], Any]) -> Any:
    """The same of a function in Python."""
    found = outcome(run)
    if isinstance(found, type):
        return found
    return [(c.dtype(a.dtype), a.shape, raw(a)) for a in found]


@pytest.mark.parametrize("op", GENERATED, ids=lambda op: op.name)
def test_operation(op: Op, c: Library) -> None:
    compared = 0
    for case in [*op.cases, *op.bad]:
        for dtype in (mx.float32, mx.int32):
            try:
                found = in_c(lambda: case(c.operation(op), Maker(dtype)))  # noqa: B023
            except NotInCError:
                continue
            for function in (op.peer, op.ours):
                expected = in_python(c, lambda: case(function, Maker(dtype)))  # noqa: B023
                # An argument that Python refuses by itself never reaches C.
                if expected is not TypeError:
                    assert found == expected, f"{op.name}, {case}, {dtype}"
            compared += 1
    assert compared, f"no case of {op.name} can be said in C"


def test_every_signature_of_an_operation_is_called(c: Library) -> None:
    """One function of each group of functions with the same types."""
    for op in GENERATED:
        for case in op.cases:
            try:
                in_c(lambda: case(c.operation(op), Maker(mx.float32)))  # noqa: B023
            except NotInCError:
                continue
    signatures = c_headers.signatures(Path(mg.capi.include()))
    called = {signatures[name] for name in c.called}
    wanted = {signatures[name] for op in GENERATED for name in chosen(op)}
    assert wanted <= called


def chosen(op: Op) -> tuple[str, ...]:
    """The functions between which a Python call chooses: with an axis by default, not the first."""
    axis = inspect.signature(op.ours).parameters.get("axis")
    given = axis is not None and isinstance(axis.default, int) and f"{op.c[0]}_axis" in op.c
    return op.c[1:] if given else op.c
